"""Answers of libfuse that are changed on their way to the kernel: it asks nobody, and has no call for what we want.

**FUSE_INIT**, what the kernel is told when a mount begins. By default libfuse has the kernel drop all cached pages of a
file, in whatever process hears that its mtime is another one (``FUSE_AUTO_INVAL_DATA``), or that its size is. That
process waits for the pages that are locked, and writes those that were stored to through mappings, for which it waits
as well: ``ls`` would wait for a pager, and a pager that looks at its own file for itself. Not telling a new mtime while
a READ waits does not help: the READ may come just after the answer. Nor is it needed, since pages that change are
dropped by ``page_cache``, and those behind a new end by the kernel in any case. ``FUSE_EXPLICIT_INVAL_DATA`` says so.

And by default O_TRUNC comes with OPEN (``FUSE_ATOMIC_O_TRUNC``), during which the kernel goes on writing back what was
stored through mappings: the file, just emptied, has a size again. SETATTR, which comes otherwise, holds that up.

The kernel cuts what is written straight to the filesystem, to ``supply/`` for instance, into pieces of ``max_write``
bytes, and of 256 pages of the writer's memory. 1 MiB that does not begin with a page of memory is 257 of them, so the
first piece would end within a page. So a WRITE has fewer pages, and never touches more than 256, wherever it begins:
each piece of a write that begins with a page of the file ends with one.

**CREATE**, how the file that was made is open: see ``NOFLUSH`` and ``PARALLEL_DIRECT_WRITES``.
"""

from __future__ import annotations

import struct

from vmofs.units import PAGE_SIZE

INIT, CREATE = 26, 35  # <linux/fuse.h>: enum fuse_opcode

DIRECT_IO = 1 << 0
"""FOPEN flag: no page cache, each read and write comes here."""

NOFLUSH = 1 << 5
"""FOPEN flag, since Linux 5.16; an older kernel takes no notice. ``close`` writes nothing back: it would wait for what
others have stored through mappings. For whoever cannot have stored anything."""

PARALLEL_DIRECT_WRITES = 1 << 6
"""FOPEN flag, since Linux 6.6; an older kernel takes no notice. Several writes of a file may be under way."""

_HEADER = struct.Struct("=IiQ")  # <linux/fuse.h>: fuse_out_header
_NUMBER = struct.Struct("=I")
_FLAGS_AT = _HEADER.size + 12  # in fuse_init_out, behind major, minor and max_readahead
_MAX_WRITE_AT = _HEADER.size + 20  # behind max_background and congestion_threshold
_OPEN_FLAGS_AT = _HEADER.size + 128 + 8  # in fuse_open_out, behind fuse_entry_out and the number of the open file
_ATOMIC_O_TRUNC = 1 << 3
_AUTO_INVAL_DATA = 1 << 12
_EXPLICIT_INVAL_DATA = 1 << 25  # Linux 5.2; an older kernel takes no notice
_MOST_PAGES = 240  # 255 would do; these are whole batches of DIRTY requests, 16 pages each
MAX_WRITE = _MOST_PAGES * PAGE_SIZE
"""The longest WRITE."""


def changed(opcode: int, answer: bytes) -> bytes:
    """Return libfuse's answer to a request as the kernel is to have it."""
    change = _CHANGES.get(opcode)
    if change is None or _HEADER.unpack_from(answer)[1]:
        return answer  # none of these, or an error
    told = bytearray(answer)
    change(told)
    return bytes(told)


def _change_init(told: bytearray) -> None:
    (flags,) = _NUMBER.unpack_from(told, _FLAGS_AT)
    _NUMBER.pack_into(told, _FLAGS_AT, flags & ~(_ATOMIC_O_TRUNC | _AUTO_INVAL_DATA) | _EXPLICIT_INVAL_DATA)
    (max_write,) = _NUMBER.unpack_from(told, _MAX_WRITE_AT)
    _NUMBER.pack_into(told, _MAX_WRITE_AT, min(max_write, MAX_WRITE))


def _change_create(told: bytearray) -> None:
    (flags,) = _NUMBER.unpack_from(told, _OPEN_FLAGS_AT)
    if flags & DIRECT_IO:  # what is made is always an aux
        _NUMBER.pack_into(told, _OPEN_FLAGS_AT, flags | NOFLUSH | PARALLEL_DIRECT_WRITES)


_CHANGES = {INIT: _change_init, CREATE: _change_create}
