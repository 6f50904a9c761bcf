"""The memory that holds pages: one sparse anonymous mapping, cut into page frames.

Pages move between objects as frame numbers, so supplying copies nothing. A frame that is free occupies no memory
(MADV_DONTNEED gives it back to the kernel at once), and a frame that is allocated reads as zeros until written.
So the daemon's resident memory is the number of used frames, exactly.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from vmofs.core.ranges import RangeSet
from vmofs.status import NoMemoryError
from vmofs.units import PAGE_SIZE, PageRange

# Address space, not memory: nothing is accounted before a page is touched (MAP_NORESERVE). Halved until the kernel
# grants it, for machines with RLIMIT_AS or strict overcommit.
_RESERVE_BYTES = 2**40
_SMALLEST_RESERVE_BYTES = 2**26
# <linux/mman.h> on every architecture that Python's mmap module does not name it for.
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_NEAREST_FITS = 8  # free ranges looked at for one that holds a whole allocation


class FrameRun(NamedTuple):
    """Frames ``[frame, frame+pages)``: consecutive in memory."""

    frame: int
    pages: int


@dataclass(frozen=True, slots=True)
class FramesStatistics:
    """Counts of page frames. ``held``: freed, but still lent to somebody who reads them."""

    used: int
    peak: int
    held: int
    limit: int | None


class Frames:
    """An allocator of page frames.

    ``limit_pages`` bounds the frames in use, those lent out included; None means no bound but the machine's. Before it
    would be passed, ``reclaim`` is told how many frames are wanted, and which must stay as they are.
    """

    def __init__(self, limit_pages: int | None = None) -> None:
        self.reclaim: Callable[[int, Iterable[FrameRun]], None] = _nothing_to_reclaim
        self._memory = _reserve()
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._view = memoryview(self._memory)
        self._free = RangeSet()  # below _top
        self._top = 0
        self._used = 0
        self._peak = 0
        self._limit_pages = limit_pages
        self._loans: dict[int, PageRange] = {}  # number of the loan -> frames
        self._last_loan = 0
        self._held: list[FrameRun] = []

    @property
    def used(self) -> int:
        """Frames in use, held ones included."""
        return self._used

    def allocate(self, pages: int, spared: Iterable[FrameRun] = ()) -> list[FrameRun]:
        """Return frames for ``pages`` pages, all zero, in as few runs as the free memory allows.

        Args:
            pages: how many.
            spared: frames that must not be reclaimed for this. All others may: look again at what may be evicted.

        Raises:
            NoMemoryError: the limit would be passed; nothing was allocated.
        """
        limit = self._limit_pages
        if limit is not None and self._used + pages > limit:
            if 0 < pages <= limit:
                self.reclaim(self._used + pages - limit, spared)
            if self._used + pages > limit:
                raise NoMemoryError(f"{pages} pages wanted, {self._used} of at most {limit} pages are in use")
        if self._top + pages - self._free.pages > len(self._memory) // PAGE_SIZE:
            raise NoMemoryError(f"{pages} pages wanted, the reserved address space is used up")
        self._used += pages
        self._peak = max(self._peak, self._used)
        taken = []
        while pages and self._free:
            run = self._take(pages)
            taken.append(run)
            pages -= run.pages
        if pages:
            taken.append(FrameRun(self._top, pages))
            self._top += pages
        return taken

    def _take(self, pages: int) -> FrameRun:
        """Return one run of at most ``pages`` free frames, from the lowest free range that fits if one is near."""
        near = islice(self._free, _NEAREST_FITS)
        lowest = found = next(near)
        while found.pages < pages:
            found = next(near, lowest)
            if found is lowest:
                break
        found = PageRange(found.start, min(found.end, found.start + pages))
        self._free.discard(found)
        return FrameRun(found.start, found.pages)

    def free(self, run: FrameRun) -> None:
        """Give frames back. Those that somebody borrows stay as they are until he returns them."""
        if not self._loans:
            self._release(run)
            return
        lent = RangeSet()
        for loan in self._loans.values():
            lent.add(loan)
        pages = PageRange(run.frame, run.frame + run.pages)
        self._held += [FrameRun(part.start, part.pages) for part in lent.over(pages)]
        for part in lent.missing(pages):
            self._release(FrameRun(part.start, part.pages))

    def _release(self, run: FrameRun) -> None:
        self._memory.madvise(mmap.MADV_DONTNEED, run.frame * PAGE_SIZE, run.pages * PAGE_SIZE)
        self._free.add(PageRange(run.frame, run.frame + run.pages))
        self._used -= run.pages

    def view(self, run: FrameRun) -> memoryview:
        """Return the bytes of the frames, writable, without a copy. Valid until they are freed; see ``lend``."""
        return self._view[run.frame * PAGE_SIZE : (run.frame + run.pages) * PAGE_SIZE]

    def part(self, run: FrameRun, offset: int, length: int) -> memoryview:
        """Return the bytes ``[offset, offset+length)`` of the frames, as ``view``."""
        start = run.frame * PAGE_SIZE + offset
        return self._view[start : start + length]

    def write(self, run: FrameRun, offset: int, data: bytes | memoryview) -> None:
        """Overwrite bytes of the frames from ``offset`` on. ``data`` must not be longer than they are."""
        start = run.frame * PAGE_SIZE + offset
        self._view[start : start + len(data)] = data

    def wipe(self, run: FrameRun) -> None:
        """Make frames zero. However many there are, it takes no time, and they occupy no memory until written to."""
        self._memory.madvise(mmap.MADV_DONTNEED, run.frame * PAGE_SIZE, run.pages * PAGE_SIZE)

    def lend(self, data: bytes | memoryview) -> int:
        """Open a loan: frames that ``data`` is a view of keep their content until the loan is returned, also if freed.

        For another thread that reads a view while this one may free the frames under it.
        """
        self._last_loan += 1
        self._loans[self._last_loan] = self._frames_of(data)
        return self._last_loan

    def _frames_of(self, data: bytes | memoryview) -> PageRange:
        """Return the frames that bytes lie in; none for bytes that are a copy."""
        if not isinstance(data, memoryview) or data.readonly or not data.nbytes:
            return PageRange(0, 0)
        offset = ctypes.addressof(ctypes.c_char.from_buffer(data)) - self._base
        return PageRange.of_bytes(offset, data.nbytes)

    def give_back(self, loan: int) -> None:
        """End a loan, and release what no other loan can still be reading."""
        del self._loans[loan]
        held, self._held = self._held, []
        for run in held:
            self.free(run)

    def close(self) -> None:
        """Give memory and address space back at once. Nothing of these frames may be used any more.

        Raises:
            BufferError: somebody still has a view.
        """
        self._view.release()
        self._memory.close()

    def statistics(self) -> FramesStatistics:
        """Return the present counts."""
        held = sum(run.pages for run in self._held)
        return FramesStatistics(self._used, self._peak, held, self._limit_pages)

    def check(self, owned: list[FrameRun]) -> None:
        """Assert that the frames of ``owned`` (all that objects hold), held and free ones make up the memory."""
        everything = RangeSet()
        for run in (*owned, *self._held):
            pages = PageRange(run.frame, run.frame + run.pages)
            assert not everything.over(pages), f"frames {pages} have two owners"
            everything.add(pages)
        assert everything.pages == self._used, (everything.pages, self._used)
        assert everything.pages + self._free.pages == self._top
        assert not any(everything.over(free) for free in self._free)
        self._free.check()


def _nothing_to_reclaim(_pages: int, _spared: Iterable[FrameRun]) -> None:
    """Stand for a reclaimer where there is no limit."""


def _reserve() -> mmap.mmap:
    """Map address space for frames: as much as is granted, at least ``_SMALLEST_RESERVE_BYTES``."""
    size = _RESERVE_BYTES
    while True:
        try:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        except OSError:
            size //= 2
            if size < _SMALLEST_RESERVE_BYTES:
                raise
        else:
            break
    # A huge page would make one supplied page cost 2 MiB; a core dump should not walk a terabyte.
    for advice in (mmap.MADV_NOHUGEPAGE, mmap.MADV_DONTDUMP):
        try:
            memory.madvise(advice)
        except OSError:  # pragma: no cover - kernels built without transparent huge pages
            continue
    return memory
