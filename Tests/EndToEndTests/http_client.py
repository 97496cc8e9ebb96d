"""An HTTP client that keeps one connection (ADDRESS PORT [NAME [CERTIFICATE]]; with a NAME by TLS 1.3, with a CERTIFICATE for who asks after the handshake): `get PATH` on standard input answers with status, digest
and its own port; `cut N PATH` sends N bytes of the request and the rest at `go` (N 0: all of it, and reads at `go`); `text PATH NAME` asks the server NAME and prints the body; `pipeline N COUNT` asks for COUNT of N
files in advance; `end` ends the TLS session and waits for the server's end of it; `stop` ends it."""

import hashlib
import socket
import ssl
import sys

address, port = sys.argv[1], int(sys.argv[2])
connection = socket.create_connection((address, port))
connection.settimeout(20)
if len(sys.argv) > 3:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode, context.minimum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_3
    if len(sys.argv) > 4:
        context.post_handshake_auth = True
        context.load_cert_chain(sys.argv[4] + ".crt", sys.argv[4] + ".key")
    connection = context.wrap_socket(connection, server_hostname=sys.argv[3])
stream = connection.makefile("rb")


def request(path, name="lab"):
    return f"GET {path} HTTP/1.1\r\nHost: {name}\r\nX-Filler: abc\r\n\r\n".encode()


def response(show=False):
    line = stream.readline()
    if not line.startswith(b"HTTP/1.1 "):
        raise SystemExit(f"no status line: {line!r} {stream.peek()[:200]!r}")
    status, length, chunked = line.split()[1].decode(), 0, False
    while (line := stream.readline()) != b"\r\n":
        if not line:
            raise SystemExit("the connection ended")
        name, _, value = line.decode().partition(":")
        length = int(value) if name.lower() == "content-length" else length
        chunked = chunked or name.lower() == "transfer-encoding"
    body = bytearray()
    while chunked:
        size = int(stream.readline(), 16)
        body += stream.read(size)
        stream.readline()
        chunked = size > 0
    while len(body) < length:
        piece = stream.read(min(1 << 20, length - len(body)))
        if not piece:
            raise SystemExit("the connection ended")
        body += piece
    if show:
        return body.decode().strip()
    return f"{status} {hashlib.sha256(body).hexdigest()} {connection.getsockname()[1]}"


print("connected", flush=True)
for line in sys.stdin:
    words = line.split()
    if words[0] == "stop":
        break
    if words[0] == "get":
        connection.sendall(request(words[1]))
        print(response(), flush=True)
    elif words[0] == "text":
        connection.sendall(request(words[1], words[2]))
        print(response(show=True), flush=True)
    elif words[0] == "cut":
        whole = request(words[2])
        first = int(words[1]) or len(whole)
        connection.sendall(whole[:first])
        print("cut", flush=True)
        sys.stdin.readline()
        connection.sendall(whole[first:])
        print(response(), flush=True)
    elif words[0] == "pipeline":
        files, count = int(words[1]), int(words[2])
        sent = 0
        for index in range(count):
            while sent < count and sent < index + 40:
                connection.sendall(request(f"/t{sent % files}"))
                sent += 1
            print(index % files, response(), flush=True)
        print("done", flush=True)
    elif words[0] == "end":
        connection.unwrap()
        print("ended", flush=True)
