"""Many idle connections to closing_server.py.

usage: closing_client.py ADDRESS PORT COUNT
"look" on standard input prints, by the connections' local ports, which have ended in an orderly way, which broke, and which still answer.
SIGUSR1: sends urgent data on the first connection, and aborts the second, which is then forgotten.
"""
import json
import select
import signal
import socket
import struct
import sys

connections = {}
for _ in range(int(sys.argv[3])):
    connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    connections[connection.getsockname()[1]] = connection


def disturb(*_):
    first, second = list(connections)[:2]
    connections[first].send(b"!", socket.MSG_OOB)
    aborted = connections.pop(second)
    aborted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    aborted.close()


signal.signal(signal.SIGUSR1, disturb)
print("connected", flush=True)


def look(connection):
    try:
        connection.sendall(b"ping")
        heard = b""
        while len(heard) < 4:
            if not select.select([connection], [], [], 5)[0]:
                return "silent"
            data = connection.recv(4 - len(heard))
            if not data:
                return "ended"
            heard += data
        return "living" if heard == b"ping" else "garbled"
    except OSError as failure:
        return str(failure)


def ended(connection):
    """The end comes before anything is said to it: that would be answered with RST."""
    if not select.select([connection], [], [], 0)[0]:
        return None
    try:
        return "ended" if connection.recv(1) == b"" else "garbled"
    except OSError as failure:
        return str(failure)


for line in sys.stdin:
    if line.strip() == "look":
        fates = {}
        for port, connection in connections.items():
            fates.setdefault(ended(connection) or look(connection), []).append(port)
        print(json.dumps({"ended": fates.pop("ended", []), "living": fates.pop("living", []), "broken": fates}), flush=True)
