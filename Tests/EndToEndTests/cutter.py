"""A link between the two ends of a migration that breaks after so many bytes of one direction.

usage: cutter.py LISTEN TARGET up|down BYTES cut|hang|flip
up is from the source to the target. The first connection breaks, and says how many bytes each direction carried in the end; later ones do not break.
flip changes one bit of the byte at that place instead.
"""
import os, select, socket, sys, threading

path, target, direction, limit, how = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(8)
print("listening", flush=True)


def carry(source, limit):
    far = socket.socket(socket.AF_UNIX)
    far.connect(target)
    carried = {"up": 0, "down": 0}
    is_open = True
    while is_open:
        for end in select.select([source, far], [], [])[0]:
            way = "up" if end is source else "down"
            left = limit - carried[way] if way == direction and not (how == "flip") else 65536
            data = end.recv(min(65536, max(1, left)))
            if how == "flip" and way == direction and carried[way] <= limit < carried[way] + len(data):
                place = limit - carried[way]
                data = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
            if not data or (way == direction and left <= 0):
                is_open = False
                break
            try:
                (far if end is source else source).sendall(data)
            except BrokenPipeError:
                is_open = False
                break
            carried[way] += len(data)
            if how != "flip" and way == direction and carried[way] >= limit:
                is_open = False
                break
    return far, carried


def first(source):
    far, carried = carry(source, limit)
    if how == "cut" or carried[direction] < limit:
        source.close()
        far.close()
    print("carried", carried["up"], carried["down"], flush=True)
    hanging.append((source, far))


def later(source):
    far, _ = carry(source, 1 << 60)
    source.close()
    far.close()


hanging = []
serve = first
while True:
    source, _ = listener.accept()
    threading.Thread(target=serve, args=(source,), daemon=True).start()
    serve = later
