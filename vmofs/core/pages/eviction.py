"""Which clean pages go when memory is short: the least recently used ones first. Zircon: zircon-pager 5.1, 5.2.

Recency is kept for aligned groups of 16 pages, as in Zircon, and only where there is a memory limit: one entry of an
ordered dictionary for a group, moved to the end when a page of it is used. So a use costs O(1) for 16 pages, and so
does an eviction, whatever the number of VMOs and pages. An entry promises nothing: what is evictable in its group is
looked up when its turn comes. But every evictable page of a VMO that takes part has its group in the order. So whatever
makes a page evictable (it is supplied, becomes clean, is unpinned) puts the group there. Zeros without a frame have no
place: they cannot be evicted.

Pages that DONT_NEED named go before all others, unless they were used since.

Only what the model is asked for is a use. A read that the kernel serves from its own page cache is not seen here.
"""

# Rules
#
# 1. Every evictable page of a VMO that takes part has its group in `groups`. Whatever makes a page evictable puts it
#    there: `used` when it is supplied, `became_evictable` when it becomes clean or loses its last pin.
# 2. An entry promises nothing. What is evictable in its group is looked up when its turn comes (`Member.evict_idle`).
# 3. Nothing of VMOs is remembered here but their numbers. A number is never used twice.
# 4. `reclaim` may be called in the middle of any allocation. The caller names frames that must stay (`spared`).
#
# How it works
#
#     supplied, read      --> used:             the group goes to the end
#     clean, unpinned     --> became_evictable: the group is there, where it was if it had a place
#     DONT_NEED           --> unneeded:         goes before all groups
#
#     reclaim: unneeded pages --> groups from the front --> (until enough frames are free, or nothing is left)
#
# A VMO that leaves is forgotten by number. Its groups stay in the order until their turn comes, or until `_sweep`. That
# runs when there are more than twice as many groups as frames in use. What it leaves has a frame each, so it takes away
# more than half of what it looks at, and costs no more than putting that there did. `EvictedPages` keeps a bit for each
# page that was evicted, for one counter only: how many came back.
#
# What is not nice
#
# A read that the kernel serves from its page cache is no use that is seen here. So the pages that are read most may
# look like those that are not used at all. The key of a group is a number packed from two, so that one dictionary does
# for all VMOs.
#
# What else changes with this file
#
# `PagerPages.evict_idle`, `next_piece`, `has_frames` and `check` in vmofs/core/vmos/pager_pages.py; hints.py;
# `System.reclaim`; mount/vmofs_mount/loop/reclaim.py, which drops from the page cache what went. Tests:
# tests/unit/test_core_eviction.py, tests/unit/test_core_hints.py, tests/fuse/test_memory_limit.py;
# tests/oracle/eviction_model.py is the naive model.

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from vmofs.core.pages.frames import FrameRun, Frames
from vmofs.core.pages.ranges import RangeSet
from vmofs.units import PageRange

GROUP_PAGES = 16
"""Pages that are evicted together."""

_CHUNK_PAGES = 1024  # whose eviction is remembered in one integer
_MOST_CHUNKS = 100_000  # some 25 MB, and 400 GiB if all pages of the chunks were evicted
_NUMBER_SHIFT = 48  # a group's key is its VMO's number and, below, its own; the largest VMO has 2**47 groups
_FEW = 1024


class Member(Protocol):
    """A VMO that takes part."""

    unneeded: RangeSet

    @property
    def idle_pages(self) -> int:
        """How many pages may be evicted, at least."""

    def next_piece(self, page: int, limit: int, most_pages: int) -> PageRange:
        """Return the first present pages in ``[page, limit)``: so many at most, or all of a run without frames."""

    def has_frames(self, pages: PageRange) -> bool:
        """Return whether any page of a range has a frame."""

    def evict_idle(self, pages: PageRange, spared: RangeSet) -> list[PageRange]:
        """Drop what is evictable in a range, except pages in the frames ``spared``; return what was dropped."""


@dataclass(frozen=True, slots=True)
class EvictionStatistics:
    """Pages that went because memory was short, and how many of those were supplied again. ``*_total`` only grow."""

    eviction_groups: int
    evicted_pages_total: int
    refaulted_pages_total: int


class Eviction:
    """The order in which the pages of all VMOs go."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._members: dict[int, Member] = {}
        self._last_number = 0
        self.groups: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._unneeded: OrderedDict[int, None] = OrderedDict()  # numbers of VMOs that have unneeded pages
        self.evicted = EvictedPages()
        self._evicted_total = 0
        self._refaulted_total = 0

    def join(self, member: Member) -> Recency:
        """Let a VMO take part."""
        self._last_number += 1
        recency = Recency(self, self._last_number, member.unneeded)
        self._members[recency.number] = member
        return recency

    def leave(self, number: int) -> None:
        """Let a VMO take part no longer. Its groups are forgotten when their turn comes, or at the next sweep.

        With the last VMO they go at once.
        """
        # Its groups stay: to find them would cost a look at all groups of all VMOs.
        self._members.pop(number, None)
        if not self._members:
            self.groups.clear()
        self._unneeded.pop(number, None)
        self.evicted.forget(number)

    def use(self, number: int, pages: PageRange, *, now: bool) -> None:
        """Put the groups of a range last; those that have a place keep it unless they are used ``now``."""
        groups = self.groups
        base = number << _NUMBER_SHIFT
        for key in range(base + pages.start // GROUP_PAGES, base + -(-pages.end // GROUP_PAGES)):
            if key not in groups:
                groups[key] = None
            # Only a use moves it. A page that has just become clean was not used.
            elif now:
                groups.move_to_end(key)
        # A group that is worth its place has a frame. So this happens after more than half as many uses as it looks at.
        if len(groups) > 2 * self._frames.used + _FEW:
            self._sweep()

    def unneeded(self, number: int) -> None:
        """Note that a VMO has unneeded pages."""
        self._unneeded[number] = None

    def supplied(self, number: int, pages: PageRange) -> None:
        """Count those of newly supplied pages that were evicted before."""
        self._refaulted_total += self.evicted.take(number, pages)

    def _sweep(self) -> None:
        # A group without a frame, or of a VMO that is gone. Zeros are no reason to stay: a sweep would find them again.
        for key in [key for key in self.groups if not self._is_worth_its_place(key)]:
            del self.groups[key]

    def _is_worth_its_place(self, key: int) -> bool:
        member = self._members.get(key >> _NUMBER_SHIFT)
        return member is not None and member.has_frames(_pages_of(key))

    def reclaim(self, pages: int, spared: Iterable[FrameRun] = ()) -> None:
        """Evict until that many frames are free again, or nothing is left that may go.

        Args:
            pages: how many.
            spared: frames that must stay: the caller is about to read or write them.
        """
        enough = self._frames.used - pages
        # As ranges of frames: the pages of a VMO are looked up in it by their frames.
        kept = RangeSet()
        for run in spared:
            kept.add(PageRange(run.frame, run.frame + run.pages))
        self._evict_unneeded(enough, kept)
        passed_over = []
        while self.groups and self._frames.used > enough:
            key, _ = self.groups.popitem(last=False)
            number = key >> _NUMBER_SHIFT
            # Where frames are spared the group keeps its place: some of its pages may be among them.
            if number in self._members and self._evict(number, _pages_of(key), kept):
                passed_over.append(key)
        # In the order in which they were.
        for key in reversed(passed_over):
            self.groups[key] = None
            self.groups.move_to_end(key, last=False)

    def _evict_unneeded(self, enough: int, kept: RangeSet) -> None:
        in_vain = 0
        while self._unneeded and self._frames.used > enough:
            number = next(iter(self._unneeded))
            member = self._members[number]
            while member.unneeded and self._frames.used > enough:
                if in_vain == _FEW:  # the rest has its turn when frames are short again: nobody is served meanwhile
                    return
                part = next(iter(member.unneeded))
                piece = member.next_piece(part.start, part.end, GROUP_PAGES)
                member.unneeded.discard(PageRange(part.start, piece.end))
                before = self._frames.used
                self._evict(number, piece, kept)
                in_vain += self._frames.used == before
            if not member.unneeded:
                del self._unneeded[number]

    def _evict(self, number: int, pages: PageRange, kept: RangeSet) -> bool:
        """Evict pages of one VMO; return whether ``kept`` may have kept some."""
        for part in self._members[number].evict_idle(pages, kept):
            self._evicted_total += part.pages
            self.evicted.add(number, part)
        return bool(kept)

    def idle_pages(self) -> int:
        """Return how many pages may be evicted, at least. Costs a look at each VMO."""
        return sum(member.idle_pages for member in self._members.values())

    def statistics(self) -> EvictionStatistics:
        """Return the present counts."""
        return EvictionStatistics(len(self.groups), self._evicted_total, self._refaulted_total)

    def check(self) -> None:
        """Assert that only members are remembered where that is promised."""
        assert self._unneeded.keys() <= self._members.keys()
        self.evicted.check()

    def has_group(self, number: int, page: int) -> bool:
        """Return whether the group of a page has a place in the order. For ``check`` of the members."""
        return (number << _NUMBER_SHIFT) + page // GROUP_PAGES in self.groups


def _pages_of(key: int) -> PageRange:
    group = key & ((1 << _NUMBER_SHIFT) - 1)
    return PageRange(group * GROUP_PAGES, (group + 1) * GROUP_PAGES)


class Recency:
    """One VMO's access to the order."""

    __slots__ = ("_base", "_eviction", "_unneeded")

    def __init__(self, eviction: Eviction, number: int, unneeded: RangeSet) -> None:
        self._eviction = eviction
        self._base = number << _NUMBER_SHIFT
        self._unneeded = unneeded

    @property
    def number(self) -> int:
        """The number of the VMO."""
        return self._base >> _NUMBER_SHIFT

    def used(self, start: int, end: int) -> None:
        """Note that the pages ``[start, end)`` are being used; they are unneeded no longer.

        All of them have frames.
        """
        key = self._base + start // GROUP_PAGES
        groups = self._eviction.groups
        # Mostly one group that is there. Other than ``use``, this is on the way of every read.
        if key in groups and (end - 1) // GROUP_PAGES == start // GROUP_PAGES:
            groups.move_to_end(key)
        else:
            self._eviction.use(self.number, PageRange(start, end), now=True)
        if self._unneeded:
            self._unneeded.discard(PageRange(start, end))

    def became_evictable(self, pages: PageRange) -> None:
        """Note that pages may now be evictable that were not, without being used."""
        self._eviction.use(self.number, pages, now=False)

    def unneeded(self) -> None:
        """Note that the VMO has unneeded pages."""
        self._eviction.unneeded(self.number)

    def supplied(self, pages: PageRange) -> None:
        """Note that gaps were filled by the pager."""
        if self._eviction.evicted:
            self._eviction.supplied(self.number, pages)

    def leave(self) -> None:
        """Take part no longer."""
        self._eviction.leave(self.number)

    def has(self, page: int) -> bool:
        """Return whether the page's group has a place in the order."""
        return self._eviction.has_group(self.number, page)


class EvictedPages:
    """Which pages of which VMO (a number) were evicted and did not come back: one bit for each.

    Of more than ``_MOST_CHUNKS`` chunks of 1,024 pages the oldest are forgotten.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, dict[int, int]] = {}
        self._count = 0

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._chunks)

    def add(self, number: int, pages: PageRange) -> None:
        """Note that pages were evicted."""
        for chunk in range(pages.start // _CHUNK_PAGES, -(-pages.end // _CHUNK_PAGES)):
            chunks = self._chunks.setdefault(number, {})
            known = chunks.get(chunk)
            chunks[chunk] = (known or 0) | _mask(pages, chunk)
            if known is None:
                self._count += 1
                self._forget_some()

    def _forget_some(self) -> None:
        # The oldest VMO first, not the oldest page: this serves a counter, which may be too low.
        while self._count > _MOST_CHUNKS:
            oldest = next(iter(self._chunks))
            self._drop(oldest, next(iter(self._chunks[oldest])))

    def take(self, number: int, pages: PageRange) -> int:
        """Forget that pages were evicted; return how many of them were."""
        chunks = self._chunks.get(number)
        if chunks is None:
            return 0
        wanted = range(pages.start // _CHUNK_PAGES, -(-pages.end // _CHUNK_PAGES))
        count = 0
        # A supply may be 2^51 pages; then the chunks that there are are gone through instead.
        for chunk in [chunk for chunk in chunks if chunk in wanted] if len(wanted) > len(chunks) else wanted:
            bits = chunks.get(chunk, 0)
            found = bits & _mask(pages, chunk)
            if found:
                count += found.bit_count()
                chunks[chunk] = bits ^ found
                if bits == found:
                    self._drop(number, chunk)
        return count

    def _drop(self, number: int, chunk: int) -> None:
        del self._chunks[number][chunk]
        self._count -= 1
        if not self._chunks[number]:
            del self._chunks[number]

    def forget(self, number: int) -> None:
        """Forget everything about a VMO."""
        self._count -= len(self._chunks.pop(number, ()))

    def check(self) -> None:
        """Assert that no chunk is empty, and that they are counted right."""
        assert all(bits for chunks in self._chunks.values() for bits in chunks.values())
        assert all(self._chunks.values())
        assert self._count == sum(len(chunks) for chunks in self._chunks.values()) <= _MOST_CHUNKS


def _mask(pages: PageRange, chunk: int) -> int:
    """Return a bit for each of those pages that lie in a chunk."""
    start = chunk * _CHUNK_PAGES
    part = (pages & PageRange(start, start + _CHUNK_PAGES)).moved(-start)
    return ((1 << part.pages) - 1) << part.start
