"""An acceptor that gives each session it accepts to a new process of sc-stream, and goes on.

usage: stream_acceptor.py SOCKET PROGRAM
"""
import array, json, os, socket, sys

path, program = sys.argv[1], sys.argv[2]
try:
    os.unlink(path)
except FileNotFoundError:
    pass
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(path)
listener.listen(4)
print("listening", flush=True)


def receive(connection):
    data, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(253 * 4))
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) - len(payload) % 4])
    return (json.loads(data) if data else {"type": "end"}), list(fds)


def serve(fds, message):
    if os.fork():
        return
    channels = message["channels"]
    listener.close()
    high = [os.dup(fd) for fd in fds]
    while min(high) < 3 + len(fds):
        high = [os.dup(fd) for fd in high]
    for place, fd in enumerate(high):
        os.dup2(fd, 3 + place)
    os.closerange(3 + len(fds), 256)
    os.environ.update(
        LISTEN_FDS=str(len(channels)), LISTEN_PID=str(os.getpid()), SC_STATE_FILE=f"/proc/self/fd/{3 + len(channels)}",
        SC_CHANNEL_WRITTEN=",".join(str(c["written"]) for c in channels), SC_CHANNEL_READ=",".join(str(c["read"]) for c in channels))
    os.execv(program, [program, "adopt"])


while True:
    connection, _ = listener.accept()
    held = None
    while True:
        message, fds = receive(connection)
        if message["type"] == "offer":
            connection.send(b'{"type":"accept"}\n')
        elif message["type"] == "session":
            held = (fds, message)
            connection.send(b'{"type":"ready"}\n')
        elif message["type"] == "go" and held:
            serve(*held)
            for fd in held[0]:
                os.close(fd)
            held = None
        elif message["type"] in ("end", "cancel"):
            for fd in held[0] if held else []:
                os.close(fd)
            break
    connection.close()
