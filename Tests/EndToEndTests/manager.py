"""As much of a service manager as the agent speaks to: readiness and kept descriptors (sd_notify(3), sd_listen_fds(3)).

usage: manager.py NOTIFY_SOCKET PROGRAM ARGS...
Reads "kill" and "start" from standard input; says "ready", "killed" and how many descriptors it keeps.
"""
import array, os, signal, socket, subprocess, sys

path, command = sys.argv[1], sys.argv[2:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
kept = {}


def start():
    names, fds = list(kept), list(kept.values())

    high = [os.dup2(fd, 100 + place, inheritable=True) for place, fd in enumerate(fds)]
    script = "".join(f"exec {3 + place}<&{fd} {fd}<&-; " for place, fd in enumerate(high))
    if fds:
        script += f"export LISTEN_PID=$$ LISTEN_FDS={len(fds)} LISTEN_FDNAMES={':'.join(names)}; "
    environment = dict(os.environ, NOTIFY_SOCKET=path)
    # bash: sh cannot name descriptors above 9.
    child = subprocess.Popen(["bash", "-c", script + 'exec "$@"', "bash"] + command, env=environment, pass_fds=high)
    while True:
        text, ancillary, _, _ = notify.recvmsg(4096, socket.CMSG_SPACE(16 * 4))
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and b"FDSTORE=1" in text:
                fds = array.array("i", payload[: len(payload) - len(payload) % 4])
                name = [line[7:] for line in text.decode().splitlines() if line.startswith("FDNAME=")][0]
                kept.setdefault(name, fds[0])
        if b"READY=1" in text:
            print("ready, keeping", len(kept), flush=True)
            return child


child = start()
for line in sys.stdin:
    if line.strip() == "kill":
        child.send_signal(signal.SIGKILL)
        child.wait()
        print("killed", flush=True)
    else:
        child = start()
