"""What the kernel is told when a mount begins, as far as libfuse asks nobody about it.

By default libfuse has the kernel drop all cached pages of a file, in whatever process hears that its mtime is another
one (``FUSE_AUTO_INVAL_DATA``). That process waits for the pages that are locked: ``ls`` would wait for a pager, and a
pager that looks at its own file for itself. Not telling a new mtime while a READ waits does not help: the READ may come
just after the answer. Nor is it needed, since pages that change are dropped by ``pagecache``.

And by default O_TRUNC comes with OPEN (``FUSE_ATOMIC_O_TRUNC``), during which the kernel goes on writing back what was
stored through mappings: the file, just emptied, has a size again. SETATTR, which comes otherwise, holds that up.

Neither pyfuse3 nor an option of libfuse can switch them off. But libfuse asks for nothing that the kernel did not
offer: so the kernel's first message reaches it by way of a socket, and offers less.
"""

from __future__ import annotations

import os
import socket
import struct

import trio

_HEADER = struct.Struct("=IIQQIIIHH")  # <linux/fuse.h>: fuse_in_header; the second is the opcode
_INIT = 26
_FLAGS = struct.Struct("=I")
_FLAGS_AT = _HEADER.size + 12  # in fuse_init_in, behind major, minor and max_readahead
_ATOMIC_O_TRUNC = 1 << 3
_AUTO_INVAL_DATA = 1 << 12
_MOST_BYTES = 1 << 20  # the kernel refuses to fill a buffer in which its largest message has no room


class Negotiation:
    """The beginning of one mount. Make it when it is mounted, before anything else looks at the device.

    Attributes:
        ended: set when the device is the device again.
    """

    def __init__(self, device: int) -> None:
        """Put a socket in the device's place, from which libfuse reads the first message.

        Raises:
            OSError: the kernel says nothing.
        """
        self.ended = trio.Event()
        self._number = device
        offer = _offer_less(os.read(device, _MOST_BYTES))
        self._device = os.dup(device)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.send(offer)
        with theirs:
            os.dup2(theirs.fileno(), device, inheritable=False)

    def end(self) -> None:
        """Put the device back. To be called when libfuse has read the first message and has not answered it."""
        os.dup2(self._device, self._number, inheritable=False)
        os.close(self._device)
        self._ours.close()
        self.ended.set()


def _offer_less(message: bytes) -> bytes:
    opcode = _HEADER.unpack_from(message)[1]
    assert opcode == _INIT, f"the first message of the kernel is {opcode}"
    (flags,) = _FLAGS.unpack_from(message, _FLAGS_AT)
    less = _FLAGS.pack(flags & ~(_ATOMIC_O_TRUNC | _AUTO_INVAL_DATA))
    return message[:_FLAGS_AT] + less + message[_FLAGS_AT + len(less) :]
