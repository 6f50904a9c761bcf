"""The pages of one VMO: a node of the tree with a size, and the pieces of which the calls of a VMO are made.

The calls themselves are generators of steps in ``transfer``, ``commit``, ``zero`` and ``resize``, each written once for
all kinds of pages. Such a call goes through a range and has the pages do the next piece. What a piece is differs:
``PagerPages`` track what is dirty, the pages of clones are forked, those of an aux are never absent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmofs.core.pages import content
from vmofs.core.pages.dirty import page_state
from vmofs.core.pages.pins import Pins, Unpinned
from vmofs.core.pages.ranges import RangeSet
from vmofs.core.pages.runs import RunMap
from vmofs.core.pages.spans import SLICE
from vmofs.core.pages.states import PageState
from vmofs.core.requests.access import Need, Steps
from vmofs.core.vmos.cow_pages import CowPages
from vmofs.status import BadStateError, OutOfRangeError, UnavailableError
from vmofs.units import ALL_PAGES, MAX_VMO_BYTES, PAGE_SIZE, PageRange, page_count

if TYPE_CHECKING:
    from vmofs.core.pages.account import Account
    from vmofs.core.requests.page_source import PageSource
    from vmofs.core.requests.system import System
    from vmofs.core.vmos.cow_pages import Viewer
    from vmofs.vocabulary import AuxKind


class VmoPages(CowPages):
    """What the pages of VMOs of all kinds have. ``stream_size`` is in bytes, and exact; only resizing assigns to it."""

    __slots__ = ("pins", "resizable", "size_pages", "stream_size")

    CALLED = "VMO"
    """In sentences."""

    kind: AuxKind | None = None
    """How the memory of an aux came to be; None in a pager family."""

    def __init__(
        self,
        system: System,
        owner: Viewer,
        stream_size: int,
        *,
        resizable: bool,
        account: Account | None,
        has_source: bool = False,
        told: Unpinned | None = None,
    ) -> None:
        runs = RunMap(account)
        super().__init__(system, runs, owner, has_source=has_source)
        self.stream_size = stream_size
        self.size_pages = page_count(stream_size)
        self.resizable = resizable
        self.pins = Pins(told)
        system.register(owner, runs)

    @property
    def pinned(self) -> RangeSet:
        """The pages that are pinned."""
        return self.pins.pages

    def state_at(self, page: int) -> PageState:
        """Return the state of the page that is shown, wherever it is; zeros without a page are a marker."""
        found = self.find(page, page + 1)
        if found.run is None:
            return PageState.GAP if found.absent else PageState.MARKER
        return page_state(found.run, found.page)

    def absent(self, pages: PageRange) -> PageRange:
        """Return the rest of a range from its first absent page on; the range itself if none is absent."""
        page = pages.start
        while page < pages.end:
            found = self.find(page, pages.end)
            if found.absent:
                return PageRange(page, pages.end)
            page += found.pages
        return pages

    def check_inside(self, offset: int, length: int) -> None:
        """Check that a byte range lies inside. One that overflows 64 bits does not: no VMO is so large.

        Raises:
            OutOfRangeError: it ends beyond the size.
        """
        size = self.size_pages * PAGE_SIZE
        if offset + length > size:
            raise OutOfRangeError(f"range {offset}+{length} does not lie inside the {self.CALLED} of {size} bytes")

    def check_new_size(self, size: int) -> None:
        """Check that the size may become ``size`` bytes.

        Raises:
            UnavailableError: it is fixed.
            OutOfRangeError: that is above the largest VMO.
            BadStateError: pinned pages lie beyond it.
        """
        if not self.resizable:
            raise UnavailableError(f"the {self.CALLED} of {self.size_pages * PAGE_SIZE} bytes was not made resizable")
        if size > MAX_VMO_BYTES:
            raise OutOfRangeError(f"size {size} is above the largest VMO, {MAX_VMO_BYTES}")
        pinned = self.pinned.over(PageRange(page_count(size), self.size_pages))
        if pinned:
            raise BadStateError(f"pinned pages {pinned[0]} lie beyond the new size {size}")

    def in_turns(self, offset: int, length: int, do: Callable[[PageRange], Need | PageRange]) -> Steps[None]:
        """Do something to the pages of a range, some at a time, as far as it lies inside; others may go on in between.

        ``do`` returns which pages are done from the start of what it is given on, or what must be asked first.
        """
        self.check_inside(offset, length)
        (position, last), looked_at = PageRange.of_bytes(offset, length), 0
        while position < (end := min(last, self.size_pages)):
            looked_at += 1
            if not looked_at % SLICE:
                yield None
                continue
            done = do(PageRange(position, end))
            if isinstance(done, Need):
                yield done
            else:
                position = done.end

    def make_writable(self, pages: PageRange) -> Need | PageRange:
        """Let pages from the start of a range on be written to; return them, or what must be asked first."""
        found = self.find(*pages)
        if found.absent:
            return found.need()
        ready = PageRange(pages.start, pages.start + found.pages)
        self.own(ready)
        return ready

    def commit_some(self, pages: PageRange) -> Need | PageRange:
        """Give pages from the start of a range on a frame; return them, or what must be asked first."""
        return self.make_writable(pages)

    def written(self, pages: PageRange, by: object) -> None:
        """Note that bytes of pages were written through the handle ``by``; None: nobody has the new bytes."""
        self.changed(pages, by)

    def zero_whole(self, pages: PageRange) -> None:
        """Make whole pages zeros for good, pinned ones in place. They never show again what is above."""
        for part in self.pinned.over(pages):
            self.wipe(part)
        for part in self.pinned.missing(pages):
            self.mark_stale(part)
            self.blank(part)

    def wipe(self, pages: PageRange) -> None:
        """Zero pages that have frames of their own, in place."""
        content.wipe_committed(self.frames, self.runs, pages.offset, pages.end * PAGE_SIZE)
        self.changed(pages)

    def mark_stale(self, pages: PageRange) -> None:
        """Note that what these pages show has changed or gone, other than by a write."""
        for part in self.committed(pages):
            self.changed(part)

    def first_to_cut(self, first: int) -> int:
        """Return from where on, at least ``first``, no more lies behind than is cut off in one go."""
        return self.runs.reach_back(first, self.size_pages, SLICE)

    def resize(self, size: int) -> None:
        """Change the size at once: what lies beyond is gone, and what comes there later is zero, not the parent's."""
        pages = page_count(size)
        if pages < self.size_pages:
            self.mark_stale(PageRange(pages, self.size_pages))
            self.cut(pages)
        self.size_pages, self.stream_size = pages, size

    def tail_after(self, size: int) -> int:
        """Return from which byte on the rest of a page is to be zeroed once the size is ``size``.

        A clone that grows shows zeros from where it ended on, not what the pages above have there.
        """
        return min(size, self.stream_size)

    def sink(self, size: int) -> None:
        """Sink to a size on the way to a smaller one. The content becomes no longer by that."""
        content = min(self.stream_size, size)
        self.resize(size)
        self.stream_size = content

    def check(self) -> None:
        """Assert that pages lie inside and pinned ones have frames."""
        super().check()
        self.runs.check()
        self.pins.check()
        assert not self.runs.whole_over(PageRange(self.size_pages, ALL_PAGES.end))
        assert self.limit <= self.size_pages
        for part in self.pinned:
            assert all(found.node is self and found.has_frames for _, found in self.find_all(part)), part


@dataclass(frozen=True, slots=True)
class CloneStatistics:
    """Pages of one clone. ``private``: forked; ``shared``: frozen for several snapshots; ``zero``: zeroed here."""

    size_pages: int
    private: int
    shared: int
    zero: int
    runs: int


class ClonePages(VmoPages):
    """The pages of a clone of a pager VMO: forked ones, and what is seen of those above.

    A gap is READ at the root, in the root's offsets and with its key, as if the root were read. A write READs too, then
    forks. The pager knows nothing else of clones: they are never DIRTY, never modified, not written back. Zircon:
    zircon-pager 2.8 to 2.12, 5.3.
    """

    __slots__ = ("source",)

    CALLED = "clone"

    def __init__(
        self,
        system: System,
        owner: Viewer,
        stream_size: int,
        source: PageSource,
        *,
        resizable: bool,
        account: Account | None,
    ) -> None:
        super().__init__(system, owner, stream_size, resizable=resizable, account=account)
        self.source = source

    def statistics(self) -> CloneStatistics:
        """Return the present page counts."""
        return CloneStatistics(
            size_pages=self.size_pages,
            private=self.runs.committed_pages,
            shared=self.shared_pages,
            zero=self.runs.pages_in(PageState.MARKER),
            runs=len(self.runs),
        )
