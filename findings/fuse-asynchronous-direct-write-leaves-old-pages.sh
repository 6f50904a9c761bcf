#!/usr/bin/env bash
# After an asynchronous O_DIRECT write to a FUSE file has completed, buffered reads may show what was there before it.
#
# One would guess: libaio and pwrite(2) differ in who waits, not in what readers see. Linux drops the pages that a direct
# write overwrote from the page cache once more when it is done, because somebody may have read them meanwhile.
# Seen (Linux 6.18.44, mfusepy 3.1.1, libfuse 3.14.0): that happens for pwrite(2) on an O_DIRECT descriptor, but not when
# the same write is made by io_submit(2). A page that was read while the write was under way stays in the cache with its
# old content, for all processes, until something else drops it, although the server has the new content.
# (xfstests has this situation as generic/451.)
#
# Needs /dev/fuse, fusermount3, libfuse3, python3 with venv, and PyPI; x86-64. Exits 1 if the behaviour has changed.
set -euo pipefail

place=$(mktemp -d)
server=
clean_up() {
    fusermount3 -u -z "$place/mount" 2>/dev/null || true
    if [ -n "$server" ]; then wait "$server" || true; fi
    rm -rf "$place"
}
trap clean_up EXIT

python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet mfusepy==3.1.1
mkdir "$place/mount"

cat >"$place/server.py" <<'PYTHON'
import errno
import stat
import sys
import time

import mfusepy


class SlowFile(mfusepy.Operations):
    use_ns = True
    content = bytearray(b"old " * 1024)

    def getattr(self, path, fh=None):
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path == "/file":
            return {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": len(self.content)}
        raise mfusepy.FuseOSError(errno.ENOENT)

    def read(self, path, size, offset, fh):
        return bytes(self.content[offset : offset + size])

    def write(self, path, data, offset, fh):
        time.sleep(1.0)  # in a thread of its own: reads are answered meanwhile
        self.content[offset : offset + len(data)] = data
        return len(data)


mfusepy.FUSE(SlowFile(), sys.argv[1], foreground=True, kernel_cache=True)
PYTHON
"$place/venv/bin/python" "$place/server.py" "$place/mount" 2>/dev/null &
server=$!
for _ in $(seq 100); do
    [ -e "$place/mount/file" ] && break
    sleep 0.1
done

echo "Linux $(uname -r), mfusepy $("$place/venv/bin/pip" show mfusepy | sed -n 's/^Version: //p')"
"$place/venv/bin/python" - "$place/mount/file" <<'PYTHON'
import ctypes
import mmap
import os
import struct
import sys
import threading
import time

IO_SETUP, IO_GETEVENTS, IO_SUBMIT = 206, 208, 209  # system call numbers of x86-64
PWRITE = 1
libc = ctypes.CDLL(None, use_errno=True)


def asynchronously(descriptor, address):
    context = ctypes.c_ulong(0)
    assert libc.syscall(IO_SETUP, 1, ctypes.byref(context)) == 0
    block = struct.pack("=QIiHhIQQqQII", 0, 0, 0, PWRITE, 0, descriptor, address, 4096, 0, 0, 0, 0)
    buffer = ctypes.create_string_buffer(block, len(block))
    pointer = ctypes.c_void_p(ctypes.addressof(buffer))
    assert libc.syscall(IO_SUBMIT, context, ctypes.c_long(1), ctypes.byref(pointer)) == 1
    event = ctypes.create_string_buffer(32)
    assert libc.syscall(IO_GETEVENTS, context, ctypes.c_long(1), ctypes.c_long(1), event, None) == 1
    assert struct.unpack("=QQqq", event.raw)[2] == 4096


def synchronously(descriptor, address):
    assert libc.pwrite(descriptor, ctypes.c_void_p(address), 4096, 0) == 4096


def read_after(write, path, content):
    """Return what is read after a write, when somebody has read while it was under way."""
    memory = mmap.mmap(-1, 4096)
    memory[:] = content * (4096 // len(content))
    address = ctypes.addressof((ctypes.c_char * 4096).from_buffer(memory))
    direct, buffered = os.open(path, os.O_RDWR | os.O_DIRECT), os.open(path, os.O_RDONLY)
    writing = threading.Thread(target=write, args=(direct, address))
    writing.start()
    time.sleep(0.5)
    os.pread(buffered, 4096, 0)
    writing.join()
    return os.pread(buffered, 4, 0)


path = sys.argv[1]
first = read_after(synchronously, path, b"new1")
second = read_after(asynchronously, path, b"new2")
print(f"read after pwrite(2) of new1: {first.decode()}; after io_submit(2) of new2: {second.decode()}")
sys.exit(not (first == b"new1" and second == b"new1"))
PYTHON
