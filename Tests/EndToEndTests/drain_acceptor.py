"""An acceptor for drains: takes any number of sessions in any number of conversations, and echoes on all of them.

usage: drain_acceptor.py SOCKET [decline=PORT] [slow=SECONDS]
decline: every offer that names the client with this port; slow: think this long about each offer.
"""
import array, json, os, socket, sys, threading, time

path = sys.argv[1]
options = dict(word.split("=") for word in sys.argv[2:])
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(path)
listener.listen(16)
print("listening", flush=True)


def receive(connection):
    data, ancillary, _, _ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(253 * 4))
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) - len(payload) % 4])
    return (json.loads(data) if data else {"type": "end"}), list(fds)


def reply(connection, **message):
    connection.send(json.dumps(message).encode() + b"\n")


def echo(session):
    try:
        while data := session.recv(65536):
            session.sendall(data)
    except OSError:
        pass


def converse(connection):
    offered, held = 0, []
    while True:
        message, fds = receive(connection)
        if message["type"] == "offer":
            offered = len(message["flows"])
            time.sleep(float(options.get("slow", 0)))
            if any(flow["peer"].endswith(":" + options.get("decline", "-")) for flow in message["flows"]):
                reply(connection, type="decline", reason="not this one")
            else:
                reply(connection, type="accept")
        elif message["type"] == "session":
            held += fds
            if len(held) == offered:
                reply(connection, type="ready")
        elif message["type"] == "go":
            for fd in held:
                session = socket.socket(fileno=fd)
                session.setblocking(True)
                threading.Thread(target=echo, args=(session,), daemon=True).start()
            held = []
        else:
            for fd in held:
                os.close(fd)
            return


while True:
    connection, _ = listener.accept()
    threading.Thread(target=converse, args=(connection,), daemon=True).start()
