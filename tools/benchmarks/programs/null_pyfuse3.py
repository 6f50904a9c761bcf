"""null_pyfuse3.py MOUNT FILE: "null", one file that is answered at once from memory, by pyfuse3 with its default loop.

Writing ``OFFSET LENGTH BLOCK`` to the file ``store`` puts that range of ``object`` into the kernel's page cache in
blocks, with nothing beside it, and returns when it is there: what supplying can reach at best.
"""

import errno
import mmap
import os
import stat
import sys
from pathlib import Path

import pyfuse3
import trio

OBJECT, STORE = pyfuse3.InodeT(2), pyfuse3.InodeT(3)
NAMES = {b"object": OBJECT, b"store": STORE}


class Null(pyfuse3.Operations):
    """Answers everything at once."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, data: memoryview) -> None:
        super().__init__()
        self._data = data

    def _attributes(self, inode: pyfuse3.InodeT) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_nlink = inode, 1
        entry.st_mode = stat.S_IFDIR | 0o755 if inode == pyfuse3.ROOT_INODE else stat.S_IFREG | 0o644
        entry.st_size = len(self._data) if inode == OBJECT else 0
        entry.attr_timeout = entry.entry_timeout = 300
        return entry

    async def getattr(self, inode, ctx=None):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201, ARG002, D102
        return self._attributes(inode)

    async def setattr(self, inode, attr, fields, fh, ctx):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201, ARG002, D102
        return self._attributes(inode)

    async def lookup(self, parent_inode, name, ctx=None):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201, ARG002, D102
        if name not in NAMES:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(NAMES[name])

    async def open(self, inode, flags, ctx):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201, ARG002, D102
        return pyfuse3.FileInfo(fh=inode, direct_io=inode == STORE, keep_cache=inode == OBJECT)

    async def read(self, fh, off, size):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201, ARG002, D102
        return self._data[off : off + size]

    async def write(self, fh, off, buf):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201, ARG002, D102
        offset, length, block = map(int, buf.split())
        for start in range(offset, offset + length, block):
            pyfuse3.notify_store(OBJECT, start, self._data[start : start + block])  # type: ignore[arg-type] # takes any buffer
        return len(buf)


def main() -> None:
    """Serve until unmounted."""
    mount, path = sys.argv[1:]
    fd = os.open(path, os.O_RDONLY)
    data = memoryview(mmap.mmap(fd, Path(path).stat().st_size, prot=mmap.PROT_READ))
    pyfuse3.init(Null(data), mount, {*pyfuse3.default_options, "fsname=null"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
