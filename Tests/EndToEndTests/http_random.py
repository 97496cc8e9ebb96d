"""An HTTP client that asks for things at random on one connection, until a line comes on standard input: http_random.py ADDRESS PORT NAME|- SEED WISH …

A wish is KIND:PATH, and for those with a body KIND:BYTES:PATH. get, head, range (bytes 1000 to 29999), fresh (If-Modified-Since), post, and expect (a post
that waits for 100 Continue) send one request in pieces of random sizes, which inside TLS (with a NAME) are records; up to three that have no body go
out together. Each answer is a line: the wish, status, digest."""

import email.utils
import hashlib
import random
import select
import socket
import ssl
import sys
import time

address, port, name = sys.argv[1:4]
choice = random.Random(sys.argv[4])
connection = socket.create_connection((address, int(port)))
connection.settimeout(20)
# Small windows, so that records are cut, and the last one of a response waits.
connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, choice.choice([4096, 16384, 1 << 20]))
if name != "-":
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode, context.minimum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_3
    connection = context.wrap_socket(connection, server_hostname=name)
stream = connection.makefile("rb")
METHODS = {"head": "HEAD", "post": "POST", "expect": "POST"}


def head(wish):
    kind, *length, path = wish.split(":")
    fields = ["Host: lab", "X-Filler: abc"]
    if kind == "range":
        fields.append("Range: bytes=1000-29999")
    if kind == "fresh":
        fields.append(f"If-Modified-Since: {email.utils.formatdate(usegmt=True)}")
    if kind == "expect":
        fields.append("Expect: 100-continue")
    if length:
        fields.append(f"Content-Length: {length[0]}")
    return "\r\n".join([f"{METHODS.get(kind, 'GET')} {path} HTTP/1.1", *fields, "", ""]).encode()


def body(wish):
    kind, *length, _ = wish.split(":")
    return (b"a line of a body\n" * (int(length[0]) // 17 + 1))[: int(length[0])] if length else b""


def send(left):
    while left:
        length = choice.choice([len(left), choice.randint(1, len(left))])
        connection.sendall(left[:length])
        left = left[length:]
        time.sleep(choice.choice([0, 0.003]))


def block():
    line = stream.readline()
    if not line.startswith(b"HTTP/1.1 "):
        raise SystemExit(f"no status line: {line!r} {stream.peek()[:200]!r}")
    fields = {}
    while (field := stream.readline()) != b"\r\n":
        if not field:
            raise SystemExit("the connection ended in a head")
        key, _, value = field.decode().partition(":")
        fields[key.lower()] = value.strip()
    return int(line.split()[1]), fields


def read(length, pause):
    data = bytearray()
    while len(data) < length:
        piece = stream.read(min(16000 if pause else 1 << 20, length - len(data)))
        if not piece:
            raise SystemExit("the connection ended in a body")
        data += piece
        time.sleep(pause)
    return data


def answer(wish, pause):
    status, fields = block()
    while status < 200:
        status, fields = block()
    data = bytearray()
    if wish.startswith("head:") or status == 304:
        pass
    elif "transfer-encoding" in fields:
        while size := int(stream.readline(), 16):
            data += read(size, 0)
            stream.readline()
        stream.readline()
    else:
        data = read(int(fields["content-length"]), pause)
    print(wish, status, hashlib.sha256(data).hexdigest(), flush=True)


print("connected", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    wishes = choice.choices(sys.argv[5:], k=choice.choice([1, 1, 1, 3]))
    if any(map(body, wishes)):
        wishes = wishes[:1]
    send(b"".join(map(head, wishes)))
    if wishes[0].startswith("expect:") and (interim := block())[0] != 100:
        raise SystemExit(f"no 100 Continue but {interim}")
    send(body(wishes[0]))
    for wish in wishes:
        time.sleep(choice.choice([0, 0, 0.005]))
        answer(wish, choice.choice([0, 0, 0.001]))
    time.sleep(choice.choice([0, 0, 0.02]))
print("done", flush=True)
