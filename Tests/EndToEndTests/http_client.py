"""An HTTP client that keeps one connection (ADDRESS PORT [NAME]; with a NAME by TLS 1.3): `get PATH` on standard input answers with status, digest and its own port; `cut N PATH` sends N bytes of
the request and the rest at `go`; `text PATH NAME` asks the server NAME and prints the body; `pipeline N COUNT` asks for COUNT of N files in advance; `stop` ends it."""

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
    connection = context.wrap_socket(connection, server_hostname=sys.argv[3])
stream = connection.makefile("rb")


def request(path, name="lab"):
    return f"GET {path} HTTP/1.1\r\nHost: {name}\r\nX-Filler: abc\r\n\r\n".encode()


def response(show=False):
    status, length, chunked = stream.readline().split()[1].decode(), 0, False
    while (line := stream.readline()) != b"\r\n":
        if not line:
            raise SystemExit("the connection ended")
        name, _, value = line.decode().partition(":")
        length = int(value) if name.lower() == "content-length" else length
        chunked = chunked or name.lower() == "transfer-encoding"
    body = b""
    while chunked:
        size = int(stream.readline(), 16)
        body += stream.read(size)
        stream.readline()
        chunked = size > 0
    if length:
        body = stream.read(length)
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
        connection.sendall(whole[: int(words[1])])
        print("cut", flush=True)
        sys.stdin.readline()
        connection.sendall(whole[int(words[1]) :])
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
