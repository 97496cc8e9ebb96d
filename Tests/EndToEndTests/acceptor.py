"""An acceptor for the tests: says what its first argument tells it to, and echoes on the sessions it gets.

usage: acceptor.py accept|decline|die|hang|late-decline|keep|never-ready SOCKET [stream]
keep: declines when it has the sessions, and keeps their descriptors open
"""
import array, json, os, socket, sys, threading, time

behaviour, path = sys.argv[1], sys.argv[2]
kind = socket.SOCK_STREAM if "stream" in sys.argv else socket.SOCK_SEQPACKET
listener = socket.socket(socket.AF_UNIX, kind)
listener.bind(path)
listener.listen(1)
print("listening", flush=True)


def receive(connection):
    data, fds = b"", array.array("i")
    while not data.endswith(b"\n"):
        more, ancillary, _, _ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(253 * 4))
        if not more:
            return None, []
        data += more
        for level, type_, payload in ancillary:
            if (level, type_) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(payload[: len(payload) - len(payload) % 4])
    return [json.loads(line) for line in data.splitlines()], list(fds)


def reply(connection, **message):
    connection.send(json.dumps(message).encode() + b"\n")


def echo(session):
    while True:
        data = session.recv(65536)
        if not data:
            return
        session.sendall(data)


connection, _ = listener.accept()
messages, _ = receive(connection)
assert messages[0]["type"] == "offer", messages
offered = len(messages[0]["flows"])
if behaviour == "decline":
    reply(connection, type="decline", reason="the house is full")
    time.sleep(1)
    sys.exit(0)
if behaviour == "hang":
    time.sleep(60)
reply(connection, type="accept")
if behaviour == "die":
    receive(connection)
    os._exit(9)
sessions, table, got = [], [], []
while len(table) < offered:
    messages, fds = receive(connection)
    assert messages is not None, "the conversation ended early"
    table += [message for message in messages if message["type"] == "session"]
    got += fds
state = b""
for message in table:
    for channel in message["channels"]:
        sessions.append(socket.socket(fileno=got.pop(0)))
    if message["state_bytes"]:
        with os.fdopen(got.pop(0), "rb") as file:
            file.seek(0)
            state = file.read()
if behaviour == "never-ready":
    print("holding", flush=True)
    time.sleep(60)
if behaviour in ("late-decline", "keep"):
    reply(connection, type="decline", reason="changed my mind")
    time.sleep(60 if behaviour == "keep" else 1)
    sys.exit(0)
reply(connection, type="ready")
messages, _ = receive(connection)
assert messages and messages[0]["type"] == "go", messages
print("state", state.decode(), "written", table[0]["channels"][0]["written"], flush=True)
for session in sessions:
    session.setblocking(True)
    threading.Thread(target=echo, args=(session,), daemon=True).start()
time.sleep(60)
