"""Runs a command (paced.py COMMAND …) and reads its standard output slowly until a line comes on its own standard input, then as fast as it can. Says
`reading`, and at the end the command's exit status and the digest of what it gave."""

import hashlib
import subprocess
import sys
import threading
import time

hurry = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), hurry.set()), daemon=True).start()
command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
sums = hashlib.sha256(command.stdout.read(16384))
print("reading", flush=True)
while block := command.stdout.read(16384):
    sums.update(block)
    hurry.wait(0.02)
print(command.wait(), sums.hexdigest(), flush=True)
