#!/usr/bin/env bash
# Closing a read-only descriptor of a FUSE file waits until what other processes stored through mappings is written.
#
# One would guess: a descriptor that was opened for reading has nothing to write, so its close returns at once.
# Seen (Linux 6.18.44, mfusepy 3.1.1, libfuse 3.14.0): close(2) of an O_RDONLY descriptor sends every dirty page of the
# inode to the server first, whoever dirtied it, and waits for the answers. With a server that takes 1.5 s for a WRITE,
# the close takes 1.5 s; the next one, with nothing dirty, takes microseconds. (fuse_flush in fs/fuse/file.c; a server
# can have it left out for an open by FOPEN_NOFLUSH, which neither of the two sets by itself.)
#
# Needs /dev/fuse, fusermount3, libfuse3, python3 with venv, and PyPI. Exits 1 if the behaviour has changed.
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
    content = bytearray(4096)

    def getattr(self, path, fh=None):
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path == "/file":
            return {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": len(self.content)}
        raise mfusepy.FuseOSError(errno.ENOENT)

    def read(self, path, size, offset, fh):
        return bytes(self.content[offset : offset + size])

    def write(self, path, data, offset, fh):
        time.sleep(1.5)
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
import mmap
import os
import sys
import time


def close_of_a_reader(path):
    descriptor = os.open(path, os.O_RDONLY)
    began = time.monotonic()
    os.close(descriptor)
    return time.monotonic() - began


path = sys.argv[1]
mapping = mmap.mmap(os.open(path, os.O_RDWR), 4096)
mapping[0] = 1
with_stores, without = close_of_a_reader(path), close_of_a_reader(path)
print(f"close of a read-only descriptor: {with_stores:.3f} s with a store of another mapping, {without:.6f} s without")
sys.exit(not (with_stores > 1.0 and without < 0.5))
PYTHON
