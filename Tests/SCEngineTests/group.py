"""Servers of several processes whose channels lie differently. Usage: group.py SCENARIO; prints its port, then serves until it is killed."""
import ctypes, fcntl, os, signal, socket, sys, time

libc = ctypes.CDLL(None)
libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: nobody stays behind


def become(name):
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)
    libc.prctl(15, name.encode(), 0, 0, 0)


def child(name, work):
    pid = os.fork()
    if pid == 0:
        become(name)
        work()
        time.sleep(1000)
        os._exit(0)
    return pid


scenario = sys.argv[1]
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
port = listener.getsockname()[1]
daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
daemon.bind("\0sc-test-log-%d" % port)
print(port, flush=True)
opened = []  # keeps objects, and so descriptors, alive


def chain(connection):
    """front, worker and logger in a row; a file that two share, and one that both have opened; a log; a datagram socket that only sends."""
    front, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    shared = os.open("/etc/passwd", os.O_RDONLY)
    os.lseek(shared, 7, 0)
    again = os.dup(connection.fileno())

    def work():
        connection.close(), front.close(), os.close(again)
        opened.append(os.open("/etc/passwd", os.O_RDONLY))

        def log():
            worker.close(), os.close(writer), os.close(shared), os.close(opened[0])
            opened.append(os.open("/tmp", os.O_WRONLY | os.O_TMPFILE))
            opened.append(os.open("/dev/null", os.O_WRONLY))

        child("logger", log)
        os.close(reader)
        for message in (b"to front", b"", b"and more"):
            worker.send(message)
        os.write(writer, b"a line\n")
        syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        syslog.connect("\0sc-test-log-%d" % port)
        opened.append(syslog)

    child("worker", work)
    worker.close(), os.close(reader), os.close(writer)
    front.send(b"to worker")
    socket.send_fds(front, [b"the connection"], [connection.fileno()])
    # Not connected to anything.
    opened.extend([front, shared, again, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)])


def outside(connection):
    other = socket.socket(socket.AF_UNIX)
    other.connect(sys.argv[2])
    opened.append(other)


def deleted(connection):
    path = "/tmp/sc-deleted-%d" % os.getpid()
    with open(path, "w") as file:
        file.write("x")
    opened.append(os.open(path, os.O_RDONLY))
    os.unlink(path)


def per_connection(work):
    while True:
        connection, _ = listener.accept()

        def front():
            listener.close(), daemon.close()
            work(connection)

        child("front", front)
        connection.close()


if scenario in ("chain", "outside", "deleted"):
    per_connection(globals()[scenario])
elif scenario == "shared-worker":
    # One worker for all; the pairs are made before the connections come.
    pairs = [socket.socketpair() for _ in range(2)]
    reader, writer = os.pipe()

    def work():
        for front, _ in pairs:
            front.close()
        child("logger", lambda: (os.close(writer), [worker.close() for _, worker in pairs], listener.close()))
        os.close(reader), listener.close()
        for number, (_, worker) in enumerate(pairs):
            worker.send(b"for %d" % number)
        os.write(writer, b"of all")

    child("worker", work)
    os.close(reader), os.close(writer)
    for number in range(2):
        connection, _ = listener.accept()

        def front():
            listener.close()
            for other in range(2):
                if other != number:
                    pairs[other][0].close()
                pairs[other][1].close()

        child("front", front)
        connection.close()
    for front, worker in pairs:
        front.close(), worker.close()
    time.sleep(1000)
elif scenario == "shared-pipe":
    # One pipe to one logger, which all fronts write to.
    reader, writer = os.pipe()
    child("logger", lambda: (os.close(writer), listener.close()))
    for number in range(2):
        connection, _ = listener.accept()
        child("front", lambda: (listener.close(), os.close(reader)))
        connection.close()
    os.close(reader), os.close(writer)
    time.sleep(1000)
elif scenario == "loop":
    # An event loop with two clients, and a helper process for each.
    become("front")
    for number in range(2):
        connection, _ = listener.accept()
        front, helper = socket.socketpair()
        child("helper", lambda: (front.close(), connection.close(), [other.close() for other in opened], listener.close()))
        helper.close()
        front.send(b"for helper %d" % number)
        opened.extend([connection, front])
    time.sleep(1000)
