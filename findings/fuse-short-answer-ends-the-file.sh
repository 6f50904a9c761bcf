#!/usr/bin/env bash
# When a FUSE server answers one READ too short, cat(1) stops there and succeeds.
#
# One would guess: the size of the file is known (4 MiB), so the kernel asks again for what is missing, or the reader
# gets an error.
#
# Seen (Linux 6.18.44): the kernel takes the short answer for a new end of the file. cat ends with 410,600 of
# 4,194,304 bytes and status 0, and asking the page again gives the same 1,000 bytes without a READ, until the
# attributes are asked for anew. With FUSE_WRITEBACK_CACHE negotiated the missing bytes are zeros instead: cat gives
# 4,194,304 bytes and succeeds, too. So a server whose own source came up short must answer with an error.
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


class Finding(Server):
    if sys.argv[2] == "writeback":
        wanted = Server.wanted | WRITEBACK_CACHE

    def read(self, unique, inode, offset, size):
        cut = 100 * 4096 + 1000
        short = offset <= cut < offset + size
        self.answer(unique, b"x" * (cut - offset if short else size))


Finding(sys.argv[1]).serve()
PYTHON
cat >"$place/reader.py" <<'PYTHON'
import os
import subprocess
import sys

place, kind = sys.argv[1:]
cat = subprocess.run(["cat", f"{place}/mount/f2"], stdout=subprocess.PIPE)
descriptor = os.open(f"{place}/mount/f3", os.O_RDONLY)
size = os.fstat(descriptor).st_size
print(f"{kind}: st_size {size}, cat {len(cat.stdout)} bytes, {cat.stdout.count(0)} zeros, status {cat.returncode}")
page = [len(os.pread(descriptor, 4096, 100 * 4096)) for _ in range(2)]
with open(f"{place}/log") as log:
    asked = sum(line.startswith("READ 3 ") for line in log)
print(f"  the page read twice: {page} bytes by {asked} READ")
expected = (410600, False, [1000, 1000]) if kind == "plain" else (4 << 20, True, [4096, 4096])
sys.exit(cat.returncode != 0 or asked != 1 or (len(cat.stdout), 0 in cat.stdout, page) != expected)
PYTHON

echo "Linux $(uname -r)"
for kind in plain writeback; do
    python3 "$place/server.py" "$place/mount" "$kind" >"$place/log" &
    server=$!
    for _ in $(seq 100); do
        if mountpoint -q "$place/mount"; then break; fi
        sleep 0.1
    done
    mountpoint -q "$place/mount" || cannot "a FUSE mount failed"
    python3 "$place/reader.py" "$place" "$kind"
    umount "$place/mount"
    wait "$server"
    server=
done
