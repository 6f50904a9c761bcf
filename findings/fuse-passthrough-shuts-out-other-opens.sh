#!/usr/bin/env bash
# While a FUSE file is open with passthrough every ordinary open of it is EIO, and the other way round.
#
# One would guess: passthrough is a matter of each open (a flag in the answer to OPEN), so a server can hand it to one
# reader and serve the next one itself.
#
# Seen (Linux 6.18.44): an inode is in one mode at a time. Cached and then passthrough: EIO; passthrough and then
# cached: EIO; passthrough and then direct_io: EIO. But direct_io and then passthrough works. And a mapping counts: a
# cached open that was closed keeps passthrough out as long as it is mapped. So a server that answers OPEN with
# passthrough must remember what the inode has open.
#
# Needs root, /dev/fuse, Linux 6.9 or later with FUSE passthrough, python3. Exits 1 if the behaviour has changed, 2 if
# it cannot be tried here.
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
head -c 4194304 /dev/zero | tr "\0" b >"$place/backing"

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
    """The file `mode` says how the next open is answered."""

    wanted = Server.wanted | PASSTHROUGH

    def init(self, unique, argument):
        super().init(unique, argument)
        offered = struct.unpack_from("<I", argument, 16)[0] << 32 if len(argument) >= 20 else 0
        print("PASSTHROUGH" if offered & PASSTHROUGH else "NONE", flush=True)
        self.backing = {}

    def backing_id(self, inode):
        if inode not in self.backing:
            file = os.open(sys.argv[2] + "/backing", os.O_RDONLY)
            request = struct.pack("<iIQ", file, 0, 0)
            self.backing[inode] = libc.ioctl(
                self.device, ctypes.c_ulong(0x4010E501), request
            )  # FUSE_DEV_IOC_BACKING_OPEN
        return self.backing[inode]

    def open(self, unique, inode):
        with open(sys.argv[2] + "/mode") as file:
            mode = file.read()
        flags = {"cached": KEEP_CACHE, "direct": DIRECT_IO, "passthrough": 1 << 7}[mode]
        backing = self.backing_id(inode) if mode == "passthrough" else 0
        self.answer(unique, struct.pack("<QIi", 0, flags, backing))


Finding(sys.argv[1]).serve()
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
import mmap
import os
import sys
import time

place = sys.argv[1]
with open(f"{place}/log") as log:
    if "PASSTHROUGH" not in log.read():
        print("cannot be tried here: the kernel does not offer passthrough")
        sys.exit(2)


def opened(inode, mode):
    with open(f"{place}/mode", "w") as file:
        file.write(mode)
    return os.open(f"{place}/mount/f{inode}", os.O_RDONLY)


def second_open(inode, first, second):
    kept = opened(inode, first)
    try:
        return os.pread(opened(inode, second), 1, 0).decode()
    except OSError as error:
        return os.strerror(error.errno)
    finally:
        os.close(kept)


modes = [("cached", "passthrough"), ("passthrough", "cached"), ("passthrough", "direct"), ("direct", "passthrough")]
outcomes = [second_open(inode, *pair) for inode, pair in enumerate(modes, start=2)]
for pair, outcome in zip(modes, outcomes):
    print(f"{pair[0]}, then {pair[1]}: {outcome}")

file = opened(9, "cached")
mapping = mmap.mmap(file, 4096, prot=mmap.PROT_READ)
os.close(file)
time.sleep(0.2)
try:
    opened(9, "passthrough")
    mapped = "opened"
except OSError as error:
    mapped = os.strerror(error.errno)
mapping.close()
time.sleep(0.2)
unmapped = os.pread(opened(9, "passthrough"), 1, 0).decode()
print(f"cached, closed, but still mapped, then passthrough: {mapped}; unmapped: {unmapped}")
refused = "Input/output error"
sys.exit(not (outcomes == [refused, refused, refused, "b"] and mapped == refused and unmapped == "b"))
PYTHON
