"""Asks the file server of examples/fileserver for files, several at a time, and compares every byte of the answers.

Usage: files_client.py ADDRESS PORT DIRECTORY SEED BYTES_PER_SECOND. SIGUSR1: no more requests; after the last answer it prints one line of JSON.
SIGUSR2: prints the longest silence since the last time, in microseconds.
"""
import collections, json, os, random, select, signal, socket, sys, time

address, port, directory, seed, rate = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
files = {name: open(os.path.join(directory, name), "rb").read() for name in sorted(os.listdir(directory))}
names = sorted(files)
choose = random.Random(seed)
ending = False
asked = False


def end(*_):
    global ending
    ending = True


def ask(*_):
    global asked
    asked = True


signal.signal(signal.SIGUSR1, end)
signal.signal(signal.SIGUSR2, ask)
connection = socket.socket()
# Small, so that the server is held up and bytes wait between its processes.
connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
connection.connect((address, port))
connection.setblocking(False)
expected = collections.deque()
requests = received = 0
error = None
out = b""
print("connected", flush=True)
begin = last = time.monotonic()
gap = 0
while error is None:
    if asked:
        asked = False
        print("gap", int(gap * 1e6), flush=True)
        gap = 0
    while not ending and len(expected) < 8:
        name = names[choose.randrange(len(names))]
        if choose.randrange(20) == 0:
            name = "missing"
        answer = b"OK %d\n" % len(files[name]) + files[name] if name in files else b"ERR No such file or directory\n"
        expected.append([answer, 0])
        out += b"GET %s\n" % name.encode()
        requests += 1
    if ending and not expected:
        break
    allowed = (time.monotonic() - begin) * rate - received
    readable, writable, _ = select.select([connection] if allowed > 0 else [], [connection] if out else [], [], 0.002)
    if writable:
        out = out[connection.send(out):]
    if not readable:
        continue
    try:
        data = connection.recv(min(65536, int(allowed) + 1))
    except OSError as failure:
        error = str(failure)
        break
    now = time.monotonic()
    gap, last = max(gap, now - last), now
    if not data:
        error = "the server ended the connection"
    received += len(data)
    while data:
        if not expected:
            error = "more bytes than were asked for"
            break
        answer, place = expected[0]
        part = data[: len(answer) - place]
        if answer[place : place + len(part)] != part:
            error = "wrong bytes in answer %d at %d" % (requests - len(expected) + 1, place)
            break
        expected[0][1] += len(part)
        data = data[len(part):]
        if expected[0][1] == len(answer):
            expected.popleft()
connection.close()
print(json.dumps({"requests": requests, "received": received, "error": error}), flush=True)
