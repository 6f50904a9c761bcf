"""Bytes to and from the pages of a VMO of any kind. Zircon: zx_vmo_read, zx_vmo_write; zircon-pager 3.1, 3.2, 4.1.

After each wait the range is looked at again: the VMO may have shrunk, pages may have come or gone.
"""

from __future__ import annotations

from vmofs.core.pages import content
from vmofs.core.pages.content import Bytes
from vmofs.core.requests.access import Need, Steps
from vmofs.core.vmos.vmo_pages import VmoPages
from vmofs.units import PAGE_SIZE, PageRange, page_count

WRITE_BATCH_PAGES = 16
"""A write asks for at most this many pages at a time (zircon-pager 3.2; a tuning number, not API)."""


def read_steps(cow: VmoPages, offset: int, length: int) -> Steps[bytes]:
    """Read bytes; what is absent is READ."""
    cow.check_inside(offset, length)
    pieces, position, end = [], offset, offset + length
    while position < end:
        page = position // PAGE_SIZE
        found = cow.find(page, page_count(end))
        if found.run is None and found.node is not None:
            yield found.need(found.page)
            cow.check_inside(offset, length)
            continue
        base = page * PAGE_SIZE
        stop = min(end, base + found.pages * PAGE_SIZE)
        # Copied now, not at the end: a page that is evicted meanwhile does not have to be asked for again.
        pieces.append(bytes(cow.bytes_of(found, position - base, stop - base)))
        position = stop
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def write_steps(cow: VmoPages, offset: int, length: int, data: Bytes, by: object = None) -> Steps[int]:
    """Write bytes; ``by`` is the handle that was written to, None if nobody has the new bytes."""
    cow.check_inside(offset, length)
    position, end = offset, offset + length
    while position < end:
        batch_end = min(page_count(end), position // PAGE_SIZE + WRITE_BATCH_PAGES)
        while position < min(end, batch_end * PAGE_SIZE):
            ready = cow.make_writable(PageRange(position // PAGE_SIZE, batch_end))
            if isinstance(ready, Need):
                yield ready
                cow.check_inside(offset, length)
                continue
            stop = min(end, ready.end * PAGE_SIZE)
            content.write_committed(cow.frames, cow.runs, position, data[position - offset : stop - offset])
            cow.written(PageRange.of_bytes(position, stop - position), by)
            position = stop
    return length
