#!/usr/bin/env python3
"""Serve the files of a directory read-write: writeback_pager.py MOUNT DIRECTORY shows each as MOUNT/vmo/NAME.

Missing pages come from the files. What was written goes back to them when somebody calls fsync, once a second, and at
the end, which SIGTERM or Ctrl-C is. The client library does the rest, in this order for each file: WRITEBACK_BEGIN,
reading what is dirty, ``set_size`` and ``write_back``, WRITEBACK_END. A page that is written to meanwhile is dirty
again, and comes with the next time.

This is to be read, and to begin a pager of your own with. It knows the files that were there when it began. To serve a
whole tree, with what is made, renamed and removed in it, there is ``vmofs serve DIRECTORY MOUNT/vmo/NAME``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from vmofs.client import Object, Pager, serve


class Folder(Pager):
    """Reads and writes the files of one directory."""

    ahead = 0  # a page that was read ahead might be older than what was written meanwhile

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def objects(self) -> Iterator[Object]:
        """Return the files; who may write to them is said by their mode."""
        for path in sorted(self.directory.iterdir()):
            if path.is_file():
                yield Object(path.name, path.stat().st_size, mode=path.stat().st_mode & 0o777)

    def read(self, obj: Object, offset: int, length: int) -> bytes:
        """Return bytes of a file. It may be shorter than the object: what was never written is zeros."""
        with (self.directory / obj.name).open("rb") as file:
            return os.pread(file.fileno(), length, offset).ljust(length, b"\0")

    def write_back(self, obj: Object, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store what was written. When this returns it is safe, and then ``fsync`` returns in the mount."""
        with (self.directory / obj.name).open("r+b") as file:
            file.seek(offset)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def set_size(self, obj: Object, size: int) -> None:
        """Make a file as long as it is in the mount; its data comes after that."""
        os.truncate(self.directory / obj.name, size)

    def close(self, obj: Object) -> None:
        """Remove a file that was removed in the mount, and that nobody has open any more."""
        (self.directory / obj.name).unlink(missing_ok=True)


if __name__ == "__main__":
    serve(sys.argv[1], Folder(Path(sys.argv[2])))
