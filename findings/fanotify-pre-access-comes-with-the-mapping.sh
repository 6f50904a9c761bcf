#!/usr/bin/env bash
# A fanotify listener for FAN_PRE_ACCESS is asked for the whole of a mapping when it is made, and never when it is
# touched.
#
# One would guess: pre-content events exist to fetch what is about to be read, so a mapped file is fetched as its
# pages are touched, like a FUSE file.
#
# Seen (Linux 6.18.44), ext4): pread(2) of 10 bytes is an event for the one page around them. mmap(2) of 3 MiB is one
# event with offset and length of all of the 3 MiB, before anything is touched, also for PROT_NONE; the touches give
# no event. So programs that map a file and look at little of it (databases, indexes, executables) make such a fetcher
# bring the whole file.
#
# Needs root, Linux 6.14 or later with FAN_PRE_ACCESS, x86-64, python3. Exits 1 if the behaviour has changed, 2 if it
# cannot be tried here.
set -euo pipefail

cannot() {
    echo "cannot be tried here: $1"
    exit 2
}
[ "$(id -u)" = 0 ] || cannot "needs root"

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
head -c 4194304 /dev/urandom >"$place/file"

echo "Linux $(uname -r)"
python3 - "$place/file" <<'PYTHON'
import ctypes
import mmap
import os
import struct
import sys
import threading
import time

CLASS_PRE_CONTENT, CLOEXEC, MARK_ADD, PRE_ACCESS, ALLOW, RANGE_RECORD = 0x8, 0x1, 0x1, 0x100000, 1, 6
libc = ctypes.CDLL(None, use_errno=True)
path = sys.argv[1]
listener = libc.fanotify_init(CLASS_PRE_CONTENT | CLOEXEC, os.O_RDONLY)
if listener < 0 or libc.fanotify_mark(listener, MARK_ADD, ctypes.c_uint64(PRE_ACCESS), -100, path.encode()):
    print("cannot be tried here: FAN_PRE_ACCESS:", os.strerror(ctypes.get_errno()))
    sys.exit(2)


def reader(steps):
    """Do one step for each byte that comes."""
    file = os.open(path, os.O_RDONLY)
    while step := os.read(steps, 1):
        if step == b"r":
            os.pread(file, 10, 5000)
        elif step == b"m":
            mapping = mmap.mmap(file, 3 << 20, prot=mmap.PROT_READ, offset=1 << 20)
        elif step == b"t":
            sum(mapping[page * 4096] for page in range(768))
    os._exit(0)


steps, control = os.pipe()
if os.fork() == 0:
    os.close(control)
    reader(steps)
events = []


def listen():
    while True:
        data = os.read(listener, 4096)
        while data:
            length, _, _, head, _, file, _ = struct.unpack_from("<IBBHQii", data)
            kind = data[head] if length > head else None
            events.append(struct.unpack_from("<QQ", data, head + 8) if kind == RANGE_RECORD else None)
            os.write(listener, struct.pack("<iI", file, ALLOW))
            os.close(file)
            data = data[length:]


threading.Thread(target=listen, daemon=True).start()


def events_of(step):
    events.clear()
    os.write(control, step)
    time.sleep(0.7)
    return list(events)


by_pread, by_mmap, by_touch = events_of(b"r"), events_of(b"m"), events_of(b"t")
os.close(control)
os.wait()
print(f"(offset, length): pread of 10 bytes {by_pread}, mmap of 3 MiB {by_mmap}, its 768 pages {by_touch}")
sys.exit(not (by_pread == [(4096, 4096)] and by_mmap == [(1 << 20, 3 << 20)] and by_touch == []))
PYTHON
