"""A crowd of HTTP clients: COUNT slow downloads of /big.bin, and COUNT connections that are idle after one answer. Says `ready` when all are under way;
at `go` the downloads come to their end and the idle ones ask again; then `good N bad M`."""

import hashlib
import http.client
import socket
import sys
import threading

host, count, expected, small = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
go = threading.Event()
begun = threading.Barrier(2 * count + 1)
results = []


def connect():
    connection = http.client.HTTPConnection(host, 80)
    connection.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Most of a download waits at the server.
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    connection.sock.connect((host, 80))
    return connection


def digest(response, pace=None):
    sums = hashlib.sha256()
    while block := response.read(32768):
        sums.update(block)
        if pace:
            pace()
    return sums.hexdigest()


def download():
    connection = connect()
    connection.request("GET", "/big.bin")
    response = connection.getresponse()
    begun.wait()
    return digest(response, lambda: go.wait(0.3)) == expected


def idle():
    connection = connect()
    own = connection.sock
    for turn in range(2):
        connection.request("GET", "/small.bin")
        if digest(connection.getresponse()) != small or connection.sock is not own:
            return False
        if turn == 0:
            begun.wait()
            go.wait()
    return True


def run(what):
    try:
        results.append(what())
    except Exception as error:
        print(what.__name__, repr(error), file=sys.stderr, flush=True)
        results.append(False)


threads = [threading.Thread(target=run, args=(what,)) for what in [download, idle] for _ in range(count)]
for thread in threads:
    thread.start()
begun.wait()
print("ready", flush=True)
sys.stdin.readline()
go.set()
for thread in threads:
    thread.join()
print(f"good {results.count(True)} bad {results.count(False)}", flush=True)
