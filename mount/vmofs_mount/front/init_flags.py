"""What the kernel is told when a mount begins, as far as libfuse decides it and asks nobody.

By default libfuse has the kernel drop all cached pages of a file, in whatever process hears that its mtime is another
one (``FUSE_AUTO_INVAL_DATA``), or that its size is. That process waits for the pages that are locked, and writes those
that were stored to through mappings, for which it waits as well: ``ls`` would wait for a pager, and a pager that looks
at its own file for itself. Not telling a new mtime while a READ waits does not help: the READ may come just after the
answer. Nor is it needed, since pages that change are dropped by ``page_cache``, and those behind a new end by the
kernel in any case. ``FUSE_EXPLICIT_INVAL_DATA`` says so.

And by default O_TRUNC comes with OPEN (``FUSE_ATOMIC_O_TRUNC``), during which the kernel goes on writing back what was
stored through mappings: the file, just emptied, has a size again. SETATTR, which comes otherwise, holds that up.

Neither pyfuse3 nor an option of libfuse can change these. So libfuse's first answer goes into a socket, and from there,
changed, to the kernel.
"""

from __future__ import annotations

import os
import socket
import struct

import trio

_HEADER = struct.Struct("=IiQ")  # <linux/fuse.h>: fuse_out_header
_FLAGS = struct.Struct("=I")
_FLAGS_AT = _HEADER.size + 12  # in fuse_init_out, behind major, minor and max_readahead
_ATOMIC_O_TRUNC = 1 << 3
_AUTO_INVAL_DATA = 1 << 12
_EXPLICIT_INVAL_DATA = 1 << 25  # Linux 5.2; an older kernel takes no notice
_MOST_BYTES = 4096


class Negotiation:
    """The beginning of one mount.

    Attributes:
        ended: set when the kernel has its answer and the device is the device again.
    """

    def __init__(self, device: int) -> None:
        self.ended = trio.Event()
        self._number = device

    def begin(self) -> None:
        """Put a socket in the device's place. To be called when libfuse is about to answer the first message."""
        self._device = os.dup(self._number)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.dup2(theirs.fileno(), self._number, inheritable=False)

    def end(self) -> None:
        """Put the device back and answer. To be called when libfuse has, before anybody waits for the device again.

        Raises:
            OSError: libfuse said nothing.
        """
        os.dup2(self._device, self._number, inheritable=False)
        os.close(self._device)
        with self._ours:
            answer = self._ours.recv(_MOST_BYTES, socket.MSG_DONTWAIT)
        os.write(self._number, _changed(answer))
        self.ended.set()


def _changed(answer: bytes) -> bytes:
    error = _HEADER.unpack_from(answer)[1]
    if error:
        return answer
    (flags,) = _FLAGS.unpack_from(answer, _FLAGS_AT)
    changed = _FLAGS.pack(flags & ~(_ATOMIC_O_TRUNC | _AUTO_INVAL_DATA) | _EXPLICIT_INVAL_DATA)
    return answer[:_FLAGS_AT] + changed + answer[_FLAGS_AT + len(changed) :]
