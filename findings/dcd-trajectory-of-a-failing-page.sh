#!/usr/bin/env bash
# MDAnalysis ends a DCD trajectory at a page that cannot be read, without an error; an XTC one raises.
#
# One would guess: OSError for both, since both have the same reader interface.
#
# Seen (MDAnalysis 2.11.0, numpy 2.4.6): page 150 of a DCD file of 200 frames answers EIO. Iterating gives 100 frames
# and stops, while len() of the same file still says 200. So compare what came with len(), when trajectories are
# fetched as they are read.
#
# Needs root, /dev/fuse, python3 with venv, and PyPI. Exits 1 if the behaviour has changed, 2 if it cannot be tried
# here.
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

python3 -m venv "$place/venv" || cannot "no venv"
"$place/venv/bin/pip" install --quiet --no-compile MDAnalysis==2.11.0 numpy==2.4.6 ||
    cannot "the packages are not to be had"

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


class Finding(Server):
    """The files of a folder, with EIO for one page of one of them."""

    folder, failing, page = sys.argv[2], sys.argv[3], int(sys.argv[4])
    names = sorted(os.listdir(folder))

    def attributes(self, inode):
        if inode > 1:
            self.size = os.path.getsize(os.path.join(self.folder, self.names[inode - 2]))
        return super().attributes(inode)

    def handle(self, operation, unique, inode, argument):
        name = argument[:-1].decode() if operation == LOOKUP else None
        if name in self.names:
            argument = b"f%d\0" % (self.names.index(name) + 2)
        super().handle(operation, unique, inode, argument)

    def read(self, unique, inode, offset, size):
        name = self.names[inode - 2]
        if name == self.failing and offset <= self.page * 4096 < offset + size:
            self.answer(unique, error=errno.EIO)
            return
        with open(os.path.join(self.folder, name), "rb") as file:
            self.answer(unique, os.pread(file.fileno(), size, offset))


Finding(sys.argv[1]).serve()
PYTHON
mkdir "$place/files"
"$place/venv/bin/python" - "$place/files/frames.dcd" <<'PYTHON'
import sys

import numpy
from MDAnalysis.lib.formats.libdcd import DCDFile

with DCDFile(sys.argv[1], "w") as file:
    file.write_header("", 500, 0, 1, 1.0, 1)
    for number in range(200):
        file.write(numpy.full((500, 3), number, "f4"), [1, 1, 1, 90, 90, 90])
PYTHON
# Shows $place/files in $place/mount; page $2 of file $1 fails.
mount_with_failing_page() {
    python3 "$place/server.py" "$place/mount" "$place/files" "$1" "$2" >/dev/null &
    server=$!
    for _ in $(seq 100); do
        if mountpoint -q "$place/mount"; then return; fi
        sleep 0.1
    done
    cannot "a FUSE mount failed"
}

mount_with_failing_page frames.dcd 150
"$place/venv/bin/python" - "$place/files/frames.dcd" "$place/mount/frames.dcd" <<'PYTHON'
import sys

import MDAnalysis
from MDAnalysis.lib.formats.libdcd import DCDFile

print("MDAnalysis", MDAnalysis.__version__)
results = []
for path in sys.argv[1:]:
    with DCDFile(path) as file:
        results.append((len(file), sum(1 for _ in file)))
print(f"len() and frames that came: {results[0]}, with a failing page: {results[1]}")
sys.exit(not (results[0] == (200, 200) and results[1][0] == 200 and 90 < results[1][1] < 110))
PYTHON
