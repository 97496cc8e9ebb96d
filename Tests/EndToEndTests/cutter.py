"""A link between the two ends of a migration that breaks after so many bytes of one direction.

usage: cutter.py LISTEN TARGET up|down BYTES cut|hang
up is from the source to the target. Serves one connection; says how many bytes each direction carried in the end.
"""
import os, select, socket, sys, time

path, target, direction, limit, how = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(1)
print("listening", flush=True)
source, _ = listener.accept()
os.unlink(path)
far = socket.socket(socket.AF_UNIX)
far.connect(target)
carried = {"up": 0, "down": 0}
is_open = True
while is_open:
    for end in select.select([source, far], [], [])[0]:
        way = "up" if end is source else "down"
        left = limit - carried[way] if way == direction else 65536
        data = end.recv(min(65536, max(1, left)))
        if not data or (way == direction and left <= 0):
            is_open = False
            break
        (far if end is source else source).sendall(data)
        carried[way] += len(data)
        if way == direction and carried[way] >= limit:
            is_open = False
            break
print("carried", carried["up"], carried["down"], flush=True)
if how == "hang" and carried[direction] >= limit:
    time.sleep(60)
