"""Messages to the kernel that pyfuse3 has no call for, or only a coarser one: stores and drops of parts of a file.

pyfuse3 offers neither the session nor a range for its invalidation, so these are written to /dev/fuse as the kernel's
``<linux/fuse.h>`` defines them. All of them may block: worker threads only. A page whose READ is pending is locked. And
each message takes a lock of the mount (``killsb``), which an unmount wants for itself: it waits for the messages that
are under way, and all messages that come later wait for it, whatever they are about.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterable

_FUSE_DEVICE = "/dev/fuse"
_NOTIFY_INVAL_INODE = 2
_NOTIFY_INVAL_ENTRY = 3
_NOTIFY_STORE = 4
_OUT_HEADER = struct.Struct("=IiQ")  # length, code, unique = 0 for a notification
_INVAL_INODE = struct.Struct("=Qqq")  # nodeid, offset, length
_INVAL_ENTRY = struct.Struct("=QII")  # nodeid of the directory, length of the name, flags
_STORE = struct.Struct("=QQII")  # nodeid, offset, size, padding


def fuse_devices() -> set[int]:
    """Return this process's descriptors of the FUSE device."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a Path for each descriptor would be wasted
        try:
            if os.readlink(f"/proc/self/fd/{name}") == _FUSE_DEVICE:  # noqa: PTH115
                found.add(int(name))
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found


class Kernel:
    """The kernel's side of one mount."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._under_way: set[int] = set()  # threads
        self._is_closed = False

    @property
    def busy_threads(self) -> int:
        """How many threads are giving a message: what they wait for, an unmount waits for too."""
        return len(self._under_way)

    def close(self) -> None:
        """Give no message any more: the mount ends, and nobody is left to answer what they might wait for."""
        self._is_closed = True

    def store(self, ino: int, offset: int, data: bytes | memoryview) -> None:
        """Put bytes in the page cache of a file. Blocks while a READ or WRITE of one of the pages is pending.

        A store beyond the file's size makes the kernel think it longer: never pass bytes beyond ``st_size``.
        """
        self._send(_NOTIFY_STORE, _STORE.pack(ino, offset, len(data), 0), data)

    def store_all(self, ino: int, pieces: Iterable[tuple[int, bytes | memoryview]]) -> None:
        """Store several pieces of a file, each an offset and its bytes, one after the other."""
        for offset, data in pieces:
            self.store(ino, offset, data)

    def drop(self, ino: int, offset: int, length: int) -> None:
        """Drop cached pages of a file, mapped ones too (dirty ones are written first), and its cached attributes.

        Blocks while a READ of one of the pages is pending. ``length`` 0 stands for everything from ``offset`` on.
        """
        self._send(_NOTIFY_INVAL_INODE, _INVAL_INODE.pack(ino, offset, length))

    def drop_attributes(self, ino: int) -> None:
        """Make the kernel ask for a file's attributes anew. Takes no page lock: it blocks for an unmount only."""
        self._send(_NOTIFY_INVAL_INODE, _INVAL_INODE.pack(ino, -1, 0))

    def forget_name(self, directory_ino: int, name: bytes) -> None:
        """Make the kernel forget a name, and the inode when it is no longer used.

        Blocks while the kernel has the directory locked, as it has during RMDIR until that is answered.
        """
        self._send(_NOTIFY_INVAL_ENTRY, _INVAL_ENTRY.pack(directory_ino, len(name), 0) + name, b"\0")

    def _send(self, code: int, body: bytes, data: bytes | memoryview = b"") -> None:
        header = _OUT_HEADER.pack(_OUT_HEADER.size + len(body) + len(data), code, 0)
        thread = threading.get_ident()
        self._under_way.add(thread)  # and only then look: who closes looks at these afterwards
        try:
            if not self._is_closed:
                os.writev(self._device, [header, body, data])
        except OSError as error:
            # The kernel does not know the inode (nobody looked it up), or the mount is gone: nothing is cached.
            if error.errno not in {errno.ENOENT, errno.ENODEV, errno.ENOTCONN}:
                raise
        finally:
            self._under_way.discard(thread)
