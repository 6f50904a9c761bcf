#!/usr/bin/env bash
# preadv2(RWF_NOWAIT) on a FUSE file is EOPNOTSUPP even when the page is in the page cache.
#
# One would guess: RWF_NOWAIT gives what is cached and EAGAIN otherwise, as on ext4 or tmpfs, so an event loop can try
# it before it hands the read to a thread.
#
# Seen (Linux 6.18.44): EOPNOTSUPP for a page that was read a moment ago (and would be given in microseconds), and for
# one that was not. mincore(2) on a mapping does tell them apart.
#
# Needs root, /dev/fuse, python3. Exits 1 if the behaviour has changed, 2 if it cannot be tried here.
set -euo pipefail

cannot() {
    echo "cannot be tried here: $1"
    exit 2
}
[ "$(id -u)" = 0 ] || cannot "needs root"
[ -e /dev/fuse ] || cannot "needs /dev/fuse"

place=$(mktemp -d)
server=
clean_up() {
    umount -l "$place/mount" 2>/dev/null || true
    if [ -n "$server" ]; then
        kill -9 "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$place"
}
trap clean_up EXIT
mkdir "$place/mount"

# A FUSE server on the raw device: every name fN is a regular file, its inode number is N.
cat >"$place/server.py" <<'PYTHON'
import ctypes
import errno
import os
import stat
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
LOOKUP, FORGET, GETATTR, OPEN, READ, FLUSH, INIT, OPENDIR, INTERRUPT, BATCH_FORGET = (
    1,
    2,
    3,
    14,
    15,
    25,
    26,
    27,
    36,
    42,
)
RELEASE, RELEASEDIR = 18, 29
ASYNC_READ, WRITEBACK_CACHE, MAX_PAGES, INIT_EXT, PASSTHROUGH = 1 << 0, 1 << 16, 1 << 22, 1 << 30, 1 << 37
DIRECT_IO, KEEP_CACHE = 1 << 0, 1 << 1


class Server:
    size = 4 << 20
    wanted = ASYNC_READ | MAX_PAGES | INIT_EXT
    read_ahead = 128 << 10

    def __init__(self, where):
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0"
        if libc.mount(b"finding", where.encode(), b"fuse", 6, options.encode()):
            sys.exit("mount: " + os.strerror(ctypes.get_errno()))

    def answer(self, unique, data=b"", error=0):
        os.writev(self.device, [struct.pack("<IiQ", 16 + len(data), -error, unique), data])

    def attributes(self, inode):
        size, mode = (0, stat.S_IFDIR | 0o755) if inode == 1 else (self.size, stat.S_IFREG | 0o644)
        return struct.pack("<6Q10I", inode, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def init(self, unique, argument):
        _, minor, _, flags = struct.unpack_from("<4I", argument)
        more = struct.unpack_from("<I", argument, 16)[0] if flags & INIT_EXT else 0
        flags = (flags | more << 32) & self.wanted
        low, high = flags & 0xFFFFFFFF, flags >> 32
        reply = struct.pack("<4I2H2I2H2I", 7, min(minor, 41), self.read_ahead, low, 0, 0, 1 << 20, 1, 256, 0, high, 1)
        self.answer(unique, reply + bytes(24))

    def open(self, unique, inode):
        self.answer(unique, struct.pack("<QIi", 0, KEEP_CACHE, 0))

    def read(self, unique, inode, offset, size):
        self.answer(unique, bytes(size))

    def handle(self, operation, unique, inode, argument):
        if operation == INIT:
            self.init(unique, argument)
        elif operation == LOOKUP and argument[:1] == b"f" and argument[1:-1].isdigit():
            found = int(argument[1:-1])
            self.answer(unique, struct.pack("<4Q2I", found, 0, 1000, 1000, 0, 0) + self.attributes(found))
        elif operation == LOOKUP:
            self.answer(unique, error=errno.ENOENT)
        elif operation == GETATTR:
            self.answer(unique, struct.pack("<Q2I", 1000, 0, 0) + self.attributes(inode))
        elif operation == OPEN:
            self.open(unique, inode)
        elif operation == READ:
            offset, size = struct.unpack_from("<QI", argument, 8)
            print("READ", inode, offset, size, flush=True)
            self.read(unique, inode, offset, size)
        elif operation == OPENDIR:
            self.answer(unique, bytes(16))
        elif operation in (FLUSH, RELEASE, RELEASEDIR):
            self.answer(unique)
        elif operation not in (FORGET, BATCH_FORGET, INTERRUPT):
            self.answer(unique, error=errno.ENOSYS)

    def serve(self):
        while True:
            try:
                message = os.read(self.device, (1 << 20) + 8192)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                continue
            _, operation, unique, inode = struct.unpack_from("<IIQQ", message)
            self.handle(operation, unique, inode, message[40:])


Server(sys.argv[1]).serve()
PYTHON
python3 "$place/server.py" "$place/mount" "$place" >"$place/log" &
server=$!
for _ in $(seq 100); do
    if mountpoint -q "$place/mount"; then break; fi
    sleep 0.1
done
mountpoint -q "$place/mount" || cannot "a FUSE mount failed"

echo "Linux $(uname -r)"
python3 - "$place" <<'PYTHON'
import ctypes
import mmap
import os
import sys
import time

place = sys.argv[1]


def without_waiting(descriptor, page):
    try:
        return os.preadv(descriptor, [bytearray(4096)], page * 4096, os.RWF_NOWAIT)
    except OSError as error:
        return os.strerror(error.errno)


def cached(descriptor, page):
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, ctypes.c_size_t(4 << 20), mmap.PROT_READ, mmap.MAP_SHARED, descriptor, ctypes.c_long(0))
    answer = ctypes.create_string_buffer(1)
    libc.mincore(ctypes.c_void_p(address + page * 4096), ctypes.c_size_t(4096), answer)
    return answer.raw[0] & 1


descriptor = os.open(f"{place}/mount/f2", os.O_RDONLY)
os.pread(descriptor, 4096, 0)
first, far = without_waiting(descriptor, 0), without_waiting(descriptor, 900)
in_core = cached(descriptor, 0), cached(descriptor, 900)
print(f"RWF_NOWAIT on FUSE: cached page: {first}; absent page: {far}; mincore of the two: {in_core}")
other = os.open(f"{place}/other", os.O_RDWR | os.O_CREAT)
os.write(other, bytes(4096))
print(f"RWF_NOWAIT on the file system of {os.path.dirname(place)}: {without_waiting(other, 0)}")
sys.exit(not (first == far == "Operation not supported" and in_core == (1, 0)))
PYTHON
