"""The memory that holds pages: one sparse anonymous mapping, cut into page frames.

Pages move between objects as frame numbers, so supplying copies nothing. A frame that is allocated reads as zeros until
it is written to. One that is free is *cold*: it occupies no memory (MADV_DONTNEED gives it back to the kernel at once);
or it is *warm*: zeroed, or never used, but in memory. There are never more than some 4 MiB of warm ones, and none after
``cool``. So the daemon's resident memory is that of the frames in use and 4 MiB.

The first touch of a frame is most of what supplying a page costs, because the kernel must find and clear memory.
Measured of 4 KiB (see tools/bench): 2.1 us if pages are touched one by one, 1.4 if 256 are brought in together
(MADV_POPULATE_WRITE), 0.15 if zeroed ones are used again. Huge pages were tried and are not used: 0.4 to 8 us, as the
hypervisor must find the memory first, and the part of one that is freed stays occupied.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from vmofs.core.pages.pins import Pin, Pins
from vmofs.core.pages.ranges import RangeSet
from vmofs.status import NoMemoryError
from vmofs.units import PAGE_SIZE, PageRange

if TYPE_CHECKING:
    from vmofs.core.pages.account import Account

# Address space, not memory: nothing is accounted before a page is touched (MAP_NORESERVE). Halved until the kernel
# grants it, for machines with RLIMIT_AS or strict overcommit.
_RESERVE_BYTES = 2**40
_SMALLEST_RESERVE_BYTES = 2**26
# <linux/mman.h> on every architecture that Python's mmap module does not name it for.
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_NEAREST_FITS = 8  # free ranges looked at for one that holds a whole allocation
_WARM_PAGES = 1024  # free frames beyond these become cold
_AHEAD_PAGES = 32  # brought in together, if only one of them is needed now
_FEW_PAGES = 4  # touched one by one
_SCATTERED_PAGES = 16  # an allocation of so many is not made of warm frames in smaller pieces
_ZEROS = memoryview(bytes(256 * PAGE_SIZE))


class FrameRun(NamedTuple):
    """Frames ``[frame, frame+pages)``: consecutive in memory."""

    frame: int
    pages: int


@dataclass(frozen=True, slots=True)
class FramesStatistics:
    """Counts of page frames.

    ``held``: freed, but still lent to somebody who reads them. ``warm``: free, but in memory.
    """

    used: int
    peak: int
    held: int
    warm: int
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
        self._end = len(self._memory) // PAGE_SIZE
        self._top = 0  # no frame from here on was ever used
        self._cold = RangeSet()  # free frames below
        self._warm = RangeSet()  # the other free frames below
        self._next = self._next_end = 0  # the warm frames between are those that go next; they are in no set
        self._can_populate = True
        self._used = 0
        self._peak = 0
        self._limit_pages = limit_pages
        self._lent = Pins(most=2**62)
        self._loans: dict[int, Pin] = {}  # by number
        self._last_loan = 0
        self._held = RangeSet()

    @property
    def used(self) -> int:
        """Frames in use, held ones included."""
        return self._used

    @property
    def _warm_pages(self) -> int:
        return self._warm.pages + self._next_end - self._next

    def allocate(
        self,
        pages: int,
        spared: Iterable[FrameRun] = (),
        *,
        filled: bool = False,
        account: Account | None = None,
    ) -> list[FrameRun]:
        """Return frames for ``pages`` pages, all zero, in as few runs as the free memory allows.

        Args:
            pages: how many.
            spared: frames that must not be reclaimed for this. All others may: look again at what may be evicted.
            filled: most of them are about to be written to. Others occupy nothing until they are.
            account: whose pages they will be. Counted they are with the object that gets them.

        Raises:
            NoMemoryError: the limit, or that of the account, would be passed; nothing was allocated.
        """
        if account is not None:
            account.check(pages)
        limit = self._limit_pages
        if limit is not None and self._used + pages > limit:
            if 0 < pages <= limit:
                self.reclaim(self._used + pages - limit, spared)
            if self._used + pages > limit:
                raise NoMemoryError(f"{pages} pages wanted, {self._used} of at most {limit} pages are in use")
        if self._used + pages > self._end:
            raise NoMemoryError(f"{pages} pages wanted, the reserved address space is used up")
        self._used += pages
        self._peak = max(self._peak, self._used)
        taken = []
        while pages:
            if pages > self._next_end - self._next:
                self._find_next(pages, filled=filled)
            run = FrameRun(self._next, min(pages, self._next_end - self._next))
            self._next += run.pages
            taken.append(run)
            pages -= run.pages
        return taken

    def _find_next(self, pages: int, *, filled: bool) -> None:
        """Find free frames that lie together: warm ones, but for a large allocation only if they do."""
        self._warm.add(PageRange(self._next, self._next_end))
        found = _nearest(self._warm, pages)
        scattered = found is not None and found.pages < _SCATTERED_PAGES <= pages
        if found is None or (scattered and (self._cold or self._top < self._end)):
            found = self._take_cold(pages, filled=filled)
        else:
            self._warm.discard(found)
        self._next, self._next_end = found

    def _take_cold(self, pages: int, *, filled: bool) -> PageRange:
        """Take frames that lie together, ``pages`` or fewer; more if they become warm by that."""
        wanted = max(pages, _AHEAD_PAGES) if filled and self._warm.pages < _WARM_PAGES else pages
        found = _nearest(self._cold, wanted)
        if found is not None:
            found = PageRange(found.start, min(found.end, found.start + wanted))
            self._cold.discard(found)
        else:
            found = PageRange(self._top, min(self._end, self._top + wanted))
            self._top = found.end
        if filled:
            self._bring_in(found)
        return found

    def _bring_in(self, pages: PageRange) -> None:
        """Give frames their memory together, if the kernel can; otherwise each gets it when it is touched."""
        if self._can_populate and pages.pages >= _FEW_PAGES:
            try:
                self._memory.madvise(_MADV_POPULATE_WRITE, pages.offset, pages.length)
            except OSError:  # an older kernel; or there is no memory, then nothing is as fast as it was
                self._can_populate = False

    def free(self, *runs: FrameRun) -> None:
        """Give frames back. Those that somebody borrows stay as they are until he returns them."""
        for part in _merged(runs):
            if not self._loans:
                self._release(part)
                continue
            for lent in self._lent.pages.over(part):
                self._held.add(lent)
            for rest in self._lent.pages.missing(part):
                self._release(rest)

    def _release(self, pages: PageRange) -> None:
        self._used -= pages.pages
        start = min(pages.end, pages.start + max(0, _WARM_PAGES - self._warm_pages))
        warm, cold = PageRange(pages.start, start), PageRange(start, pages.end)
        for position in range(warm.start, warm.end, 256):
            part = self.view(FrameRun(position, min(256, warm.end - position)))
            part[:] = _ZEROS[: len(part)]
        self._warm.add(warm)
        if cold:
            self._memory.madvise(mmap.MADV_DONTNEED, cold.offset, cold.length)
            self._cold.add(cold)

    def cool(self) -> None:
        """Give the memory of all free frames back to the kernel: for a time when nobody wants any."""
        self._warm.add(PageRange(self._next, self._next_end))
        self._next = self._next_end = 0
        for free in self._warm:
            self._memory.madvise(mmap.MADV_DONTNEED, free.offset, free.length)
            self._cold.add(free)
        self._warm = RangeSet()

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
        self._loans[self._last_loan] = self._lent.add(self._frames_of(data))
        return self._last_loan

    def _frames_of(self, data: bytes | memoryview) -> PageRange:
        """Return the frames that bytes lie in; none for bytes that are a copy."""
        if not isinstance(data, memoryview) or data.readonly or not data.nbytes:
            return PageRange(0, 0)
        offset = ctypes.addressof(ctypes.c_char.from_buffer(data)) - self._base
        return PageRange.of_bytes(offset, data.nbytes)

    def give_back(self, loan: int) -> None:
        """End a loan, and release what no other loan can still be reading."""
        lent = self._loans.pop(loan)
        lent.unpin()
        for held in self._held.over(lent.pages):
            for part in self._lent.pages.missing(held):
                self._held.discard(part)
                self._release(part)

    def close(self) -> None:
        """Give memory and address space back at once. Nothing of these frames may be used any more.

        Raises:
            BufferError: somebody still has a view.
        """
        self._view.release()
        self._memory.close()

    def statistics(self) -> FramesStatistics:
        """Return the present counts."""
        return FramesStatistics(self._used, self._peak, self._held.pages, self._warm_pages, self._limit_pages)

    def check(self, owned: list[FrameRun]) -> None:
        """Assert that the frames of ``owned`` (all that objects hold), held, and free ones make up the memory."""
        everything = RangeSet()
        for pages in (*(PageRange(run.frame, run.frame + run.pages) for run in owned), *self._held):
            assert not everything.over(pages), f"frames {pages} have two owners"
            everything.add(pages)
        assert everything.pages == self._used, (everything.pages, self._used)
        for pages in (*self._cold, *self._warm, PageRange(self._next, self._next_end)):
            assert not everything.over(pages), f"frames {pages} are free twice, or not free"
            everything.add(pages)
        assert list(everything) == ([PageRange(0, self._top)] if self._top else [])
        assert self._warm_pages < _WARM_PAGES + _AHEAD_PAGES
        self._cold.check()
        self._warm.check()
        self._lent.check()


def _nearest(free: RangeSet, pages: int) -> PageRange | None:
    """Return the lowest free range that has so many pages, if one is near; else the lowest one."""
    near = islice(free, _NEAREST_FITS)
    lowest = next(near, None)
    if lowest is None or lowest.pages >= pages:
        return lowest
    return next((other for other in near if other.pages >= pages), lowest)


def _merged(runs: Iterable[FrameRun]) -> list[PageRange]:
    """Return the frames of runs as few ranges."""
    merged: list[PageRange] = []
    for frame, pages in sorted(runs):
        start = merged.pop().start if merged and merged[-1].end == frame else frame
        merged.append(PageRange(start, frame + pages))
    return merged


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
