#!/usr/bin/env bash
# A FUSE server that answers READs by splice with SPLICE_F_MOVE takes the pages out of its source's page cache.
#
# One would guess: SPLICE_F_MOVE saves a copy and leaves the source as it was; "moving" is said of pages in the pipe.
#
# Seen (Linux 6.18.44), source on ext4): after 4 MiB were read through the mount, nearly all of the 1,024 pages of the
# source are gone from the page cache (1,008 and more); answered without the flag, all are there. The frames now
# belong to the FUSE file, and whoever reads the source next goes to the disk. It happens to clean pages of disk files
# that nobody has mapped; tmpfs, dirty and mapped pages are copied. libfuse passes the flag on with
# FUSE_BUF_SPLICE_MOVE.
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
case $(stat -f -c %T "$place") in
    ext2/ext3 | xfs | btrfs) ;;
    *) cannot "needs a temporary folder on a disk file system" ;;
esac
head -c 4194304 /dev/urandom >"$place/source"
cp "$place/source" "$place/copy"
sync "$place/source"

# A FUSE server on the raw device: every name fN is a regular file, its inode number is N.
cat >"$place/server.py" <<'PYTHON'
import ctypes
import errno
import os
import stat
import struct
import sys
import fcntl

libc = ctypes.CDLL(None, use_errno=True)
SPLICE_F_MOVE = 1
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
    source = os.open(sys.argv[2] + "/source", os.O_RDONLY)
    out_of, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 1 << 20)

    def read(self, unique, inode, offset, size):
        flags = SPLICE_F_MOVE if inode == 3 else 0
        header = ctypes.create_string_buffer(struct.pack("<IiQ", 16 + size, 0, unique), 16)
        vector = struct.pack("<QQ", ctypes.addressof(header), 16)
        assert (
            libc.vmsplice(self.into, vector, ctypes.c_ulong(1), 0) == 16
        )  # a page of its own, so the data is aligned
        taken = 0
        while taken < size:
            taken += os.splice(self.source, self.into, size - taken, offset_src=offset + taken, flags=flags)
        os.splice(self.out_of, self.device, 16 + size, flags=flags)


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
import ctypes
import mmap
import os
import sys

place = sys.argv[1]
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
length = 4 << 20


def cached(descriptor):
    address = libc.mmap(None, ctypes.c_size_t(length), mmap.PROT_READ, mmap.MAP_SHARED, descriptor, ctypes.c_long(0))
    answer = ctypes.create_string_buffer(length // 4096)
    libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), answer)
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(length))
    return sum(page & 1 for page in answer.raw)


def left_after(name):
    source = os.open(f"{place}/source", os.O_RDONLY)
    os.pread(source, length, 0)
    before = cached(source)
    reader = os.open(f"{place}/mount/{name}", os.O_RDONLY)
    assert os.pread(reader, length, 0) == os.pread(os.open(f"{place}/copy", os.O_RDONLY), length, 0)
    return before, cached(source)


copied, moved = left_after("f2"), left_after("f3")
print(f"pages of the source in the page cache before and after: {copied} without SPLICE_F_MOVE, {moved} with it")
sys.exit(not (copied == (1024, 1024) and moved[0] == 1024 and moved[1] < 100))
PYTHON
