#!/usr/bin/env bash
# A FUSE server that answers one READ with EIO has said nothing to a pread(2), and two say nothing to a page fault.
#
# One would guess: the error of a READ is the error of the access that caused it.
#
# Seen (Linux 6.18.44): the READ is made by read-ahead, whose errors nobody sees. The page is then asked for once more
# by pread(2), twice more by a page fault, and only the last answer counts: with one EIO (pread) or two (fault) the
# reader gets the data. So a server that means an error has to repeat it, and one that fails now and then is not
# noticed.
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
    failed = {}

    def read(self, unique, inode, offset, size):
        self.failed[inode] = self.failed.get(inode, 0) + 1
        if self.failed[inode] <= inode % 10:  # the last digit of the name: how many READs fail
            self.answer(unique, error=errno.EIO)
        else:
            self.answer(unique, b"x" * size)


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


def reads(inode):
    """Return offset and size of the READs that came for a file."""
    time.sleep(0.2)
    with open(f"{place}/log") as log:
        return [tuple(map(int, line.split()[2:])) for line in log if line.startswith(f"READ {inode} ")]


def set_read_ahead(kilobytes):
    minor = os.minor(os.stat(f"{place}/mount").st_dev)
    with open(f"/sys/class/bdi/0:{minor}/read_ahead_kb", "w") as setting:
        setting.write(str(kilobytes))


def by_pread(descriptor):
    os.pread(descriptor, 1, 0)


def by_fault(descriptor):
    mmap.mmap(descriptor, 4096, prot=mmap.PROT_READ)[0]


def outcome(access, inode):
    child = os.fork()
    if child == 0:
        try:
            access(os.open(f"{place}/mount/f{inode}", os.O_RDONLY))
        except OSError:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    name = "SIGBUS" if os.WIFSIGNALED(status) else ["data", "error"][os.WEXITSTATUS(status)]
    return name, len(reads(inode))


set_read_ahead(4)
preads = [outcome(by_pread, 100 + failures) for failures in range(4)]
faults = [outcome(by_fault, 200 + failures) for failures in range(4)]
print("0 to 3 READs fail, then (outcome, READs)")
print("pread:", preads)
print("fault:", faults)
expected = (
    [("data", 1), ("data", 2), ("error", 2), ("error", 2)],
    [("data", 1), ("data", 2), ("data", 3), ("SIGBUS", 3)],
)
sys.exit((preads, faults) != expected)
PYTHON
