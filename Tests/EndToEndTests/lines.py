"""Sends numbered lines over connections and checks that the echo server's answers count on without a gap; the line "stop" ends it."""

import json
import select
import socket
import sys
import time


class Connection:
    def __init__(self, address, port):
        self.socket = socket.create_connection((address, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = self.answered = 0
        self.buffer = b""
        self.error = ""

    def say(self):
        # A line in two pieces: a move in between carries the first in the exported state.
        self.sent += 1
        self.socket.sendall(b"line ")
        self.socket.sendall(b"%d\n" % self.sent)

    def hear(self):
        try:
            data = self.socket.recv(65536)
        except OSError as failure:
            self.error = str(failure)
            return
        if not data:
            self.error = "closed"
        self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            self.answered += 1
            if line != b"LINE %d: line %d" % (self.answered, self.answered):
                self.error = self.error or f"answer {self.answered} was {line!r}"

    def fileno(self):
        return self.socket.fileno()


address, port = sys.argv[1], int(sys.argv[2])
connections = [Connection(address, port) for _ in range(int(sys.argv[3]) if len(sys.argv) > 3 else 1)]
pause = 0.001 * len(connections)
for c in connections:
    c.say()
print("connected", len(connections), flush=True)
gap = 0.0
last = time.monotonic()
running = True
while running or any(c.answered < c.sent and not c.error for c in connections):
    ready, _, _ = select.select([c for c in connections if not c.error] + ([sys.stdin] if running else []), [], [], 5)
    if not ready:
        break
    now = time.monotonic()
    gap, last = max(gap, now - last), now
    for source in ready:
        if source is sys.stdin:
            running = sys.stdin.readline() != "stop\n"
        else:
            source.hear()
    if running:
        time.sleep(pause / 10)
    for c in connections:
        # At most a few lines are under way, or one client would fill the machine.
        if running and not c.error and c.sent - c.answered < 3:
            c.say()
    if not running and all(c.error or c.answered == c.sent for c in connections):
        break
print(
    json.dumps(
        {
            "sent": sum(c.sent for c in connections),
            "answered": sum(c.answered for c in connections),
            "error": next((c.error for c in connections if c.error), ""),
            "gap_ms": round(gap * 1000, 1),
        }
    ),
    flush=True,
)
