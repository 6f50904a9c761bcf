#!/usr/bin/env bash
# With read_ahead_kb = 0 on a FUSE mount a process that waits in a page fault cannot be killed; with 4 it can.
#
# One would guess: read-ahead decides how much is read, not how a reader waits.
#
# Seen (Linux 6.18.44): with read-ahead of one page the fault hands the READ to read-ahead and waits for the page's
# lock, which SIGKILL ends at once. With 0 it makes the READ itself and waits for the answer in state D: here the
# server takes 2 s, and the killed process is there for that long. pread(2) can be killed in both. So who wants exact
# requests sets 4, not 0.
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
import threading

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
    def read(self, unique, inode, offset, size):
        threading.Timer(2.0, self.answer, [unique, bytes(size)]).start()


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
import signal
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


def dies_at_once(access, inode, kilobytes):
    set_read_ahead(kilobytes)
    child = os.fork()
    if child == 0:
        access(os.open(f"{place}/mount/f{inode}", os.O_RDONLY))
        os._exit(0)
    time.sleep(0.5)
    assert reads(inode)
    os.kill(child, signal.SIGKILL)
    began = time.monotonic()
    os.waitpid(child, 0)
    return time.monotonic() - began < 0.8


outcomes = [dies_at_once(by_fault, 2, 4), dies_at_once(by_fault, 3, 0), dies_at_once(by_pread, 4, 0)]
print("dies at once: fault with read-ahead 4, fault with 0, pread with 0:", outcomes)
sys.exit(outcomes != [True, False, True])
PYTHON
