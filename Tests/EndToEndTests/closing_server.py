"""A server that echoes, and closes one of its idle connections after the other.

usage: closing_server.py ADDRESS PORT
"go RATE" on standard input begins, RATE connections a second; "stop" ends it and prints the clients' ports that it has closed, and those of which it
cannot say so: it stood still between its last look at the connection and the close, and somebody else may have had the connection by then.
"""
import json
import random
import select
import socket
import sys
import time

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen(1024)
poll = select.epoll()
poll.register(listener, select.EPOLLIN)
poll.register(sys.stdin, select.EPOLLIN)
sessions, closed, unknown = {}, [], []
rate = 0.0
print("listening", flush=True)


def forget(fd):
    poll.unregister(fd)
    sessions.pop(fd).close()


def close_one():
    fd = random.choice(list(sessions))
    session = sessions.pop(fd)
    poll.unregister(fd)
    try:
        looked = time.monotonic()
        _, port = session.getpeername()
    except OSError:
        session.close()
        return
    session.close()
    (closed if time.monotonic() - looked < 0.0005 else unknown).append(port)


due = time.monotonic()
while True:
    for fd, _ in poll.poll(0.002 if rate else -1):
        if fd == listener.fileno():
            session, _ = listener.accept()
            sessions[session.fileno()] = session
            poll.register(session, select.EPOLLIN)
        elif fd == sys.stdin.fileno():
            word, *rest = sys.stdin.readline().split() or ["end"]
            if word == "go":
                rate, due = float(rest[0]), time.monotonic()
            elif word == "stop":
                rate = 0.0
                print(json.dumps({"closed": closed, "unknown": unknown}), flush=True)
            else:
                sys.exit()
        else:
            try:
                data = sessions[fd].recv(65536)
                if data:
                    sessions[fd].sendall(data)
            except OSError:
                data = b""
            if not data:
                forget(fd)
    while rate and sessions and time.monotonic() >= due:
        close_one()
        due += 1 / rate
