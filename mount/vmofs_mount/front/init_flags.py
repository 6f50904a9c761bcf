"""What the kernel is told when a mount begins, as far as libfuse decides it and asks nobody.

By default libfuse has the kernel drop all cached pages of a file, in whatever process hears that its mtime is another
one (``FUSE_AUTO_INVAL_DATA``), or that its size is. That process waits for the pages that are locked, and writes those
that were stored to through mappings, for which it waits as well: ``ls`` would wait for a pager, and a pager that looks
at its own file for itself. Not telling a new mtime while a READ waits does not help: the READ may come just after the
answer. Nor is it needed, since pages that change are dropped by ``page_cache``, and those behind a new end by the
kernel in any case. ``FUSE_EXPLICIT_INVAL_DATA`` says so.

And by default O_TRUNC comes with OPEN (``FUSE_ATOMIC_O_TRUNC``), during which the kernel goes on writing back what was
stored through mappings: the file, just emptied, has a size again. SETATTR, which comes otherwise, holds that up.

The kernel cuts what is written straight to the filesystem, to ``supply/`` for instance, into pieces of ``max_write``
bytes, and of 256 pages of the writer's memory. 1 MiB that does not begin with a page of memory is 257 of them, so the
first piece would end within a page. A ``max_write`` of 255 pages is never more than 256, wherever it begins: each piece
of a write that begins with a page of the file ends with one.

Neither pyfuse3 nor an option of libfuse can change these. But its answer comes by way of us (``device``).
"""

from __future__ import annotations

import struct

from vmofs.units import PAGE_SIZE

INIT = 26
"""The opcode of FUSE_INIT."""

_HEADER = struct.Struct("=IiQ")  # <linux/fuse.h>: fuse_out_header
_NUMBER = struct.Struct("=I")
_FLAGS_AT = _HEADER.size + 12  # in fuse_init_out, behind major, minor and max_readahead
_MAX_WRITE_AT = _HEADER.size + 20  # behind max_background and congestion_threshold
_ATOMIC_O_TRUNC = 1 << 3
_AUTO_INVAL_DATA = 1 << 12
_EXPLICIT_INVAL_DATA = 1 << 25  # Linux 5.2; an older kernel takes no notice
_MOST_PAGES = 256  # of a request, in every kernel of ours
MAX_WRITE = (_MOST_PAGES - 1) * PAGE_SIZE
"""The longest WRITE."""


def changed(answer: bytes) -> bytes:
    """Return libfuse's answer to FUSE_INIT as the kernel is to have it."""
    if _HEADER.unpack_from(answer)[1]:
        return answer  # an error
    told = bytearray(answer)
    (flags,) = _NUMBER.unpack_from(told, _FLAGS_AT)
    _NUMBER.pack_into(told, _FLAGS_AT, flags & ~(_ATOMIC_O_TRUNC | _AUTO_INVAL_DATA) | _EXPLICIT_INVAL_DATA)
    (max_write,) = _NUMBER.unpack_from(told, _MAX_WRITE_AT)
    _NUMBER.pack_into(told, _MAX_WRITE_AT, min(max_write, MAX_WRITE))
    return bytes(told)
