"""VMOs as users hold them: handles, each a window on pages. Zircon: VmObjectPaged over VmCowPages; zircon-pager 2.12.

Rules:

* A handle has a window (``start``, and a size if it is a slice), the right to write, and a place among parents and
  children. The bytes, the pins and what the pager is asked for belong to the pages; handles keep none of it.
* A call checks its arguments against the window when it is started, in Zircon's order: first the right to write, then
  the range. From there on it works on the pages, in their offsets, and so does what is checked again after a wait.
* A call is a generator of steps, written once for all kinds of pages: in ``transfer``, ``commit``, ``zero``, ``resize``
  and ``hints``. What differs between the kinds is a method of the pages. A handle adds nothing but the window.

Theory. Five kinds of handles, three kinds of pages::

    PagerVmo ------> PagerPages        asks its pager
    CloneVmo ------> ClonePages        forks what it writes, asks the root's pager
    AuxVmo --------> AuxPages          never absent, never waits (``aux``)
    PagerView, AuxView: slices and references, windows on the pages of one of these

    slice, start 1, 2 pages         | b  C |
    clone, which wrote page 1     _ | b  _ | _      where the bytes of a page are: ``cow_pages``
    root                          A   B  C   D

So a write through a slice of a pager VMO is DIRTY there and sets "modified". A slice has a size of its own that never
changes, and a content size of its own; a reference has those of the VMO. A view of a view is a view of the VMO. Memory
is counted with the VMO and shown by every view of it.

Not nice: the calls of a pager family return an ``Access``, those of an aux their result, so each call has a line for
either. An aux has DECOMMIT, a write that grows it and a pin that holds what it has committed, and checks the range
before the right; these stand in ``aux``. Sentences of errors name the kind of the handle, and no rule tells when.

What changes with it: ``children``, which makes handles; ``operations`` and ``pager``, which take handles of any kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from vmofs.core.pages.content import Bytes
from vmofs.core.pages.pins import Pin
from vmofs.core.pages.ranges import RangeSet
from vmofs.core.pages.states import PageState
from vmofs.core.requests.access import Access, Steps, as_access, at_once
from vmofs.core.requests.page_source import PageSource
from vmofs.core.vmos import commit, hints, marks, resize, transfer, zero
from vmofs.core.vmos.cow_pages import CowPages, Window
from vmofs.core.vmos.lineage import Lineage
from vmofs.core.vmos.pager_pages import Maker, PagerPages, VmoOptions, VmoStatistics
from vmofs.core.vmos.vmo_pages import ClonePages, CloneStatistics, VmoPages
from vmofs.status import AccessDeniedError, NotSupportedError, OutOfRangeError, UnavailableError
from vmofs.units import ALL_PAGES, PAGE_SIZE, PageRange, page_count

if TYPE_CHECKING:
    from vmofs.core.pages.account import Account
    from vmofs.core.requests.request import Reader
    from vmofs.core.requests.system import System

T = TypeVar("T")


class Vmo:
    """What handles of all kinds have. ``owner`` is the edge's.

    ``start`` is the byte of the pages where the window begins. Ranges of bytes need no alignment; all calls but read,
    write and ZERO round them outward to pages.
    """

    __slots__ = ("__weakref__", "lineage", "node", "owner")

    node: VmoPages
    start = 0
    slice_size: int | None = None
    no_write = False

    def __init__(self, node: VmoPages) -> None:
        self.node = node
        self.lineage = Lineage()
        self.owner: object = None

    @property
    def is_slice(self) -> bool:
        """Whether this shows a fixed part of the pages."""
        return self.slice_size is not None

    @property
    def resizable(self) -> bool:
        """Whether the size can change."""
        return self.node.resizable and self.slice_size is None

    @property
    def size_pages(self) -> int:
        """The size in pages."""
        return self.node.size_pages

    @property
    def pinned(self) -> RangeSet:
        """The pages that are pinned, wherever the window is."""
        return self.node.pins.pages

    @property
    def committed_pages(self) -> int:
        """Pages shown that occupy memory, shared ones included."""
        return self.node.runs.committed_pages + self.node.shared_pages

    def committed(self, pages: PageRange) -> list[PageRange]:
        """Return the runs of pages in a range that show more than zeros and are there."""
        shift = self.start // PAGE_SIZE
        return [part.moved(-shift) for part in self.node.committed(pages.moved(shift))]

    def check_inside(self, offset: int, length: int) -> None:
        """Check that a byte range lies inside.

        Raises:
            OutOfRangeError: it overflows 64 bits, or ends beyond the size.
        """
        self.node.check_inside(offset, length)

    def check_writable(self) -> None:
        """Check that this may be written to.

        Raises:
            AccessDeniedError: it was made with NO_WRITE.
        """
        if self.no_write:
            raise AccessDeniedError(f"the {self.node.CALLED} was made with NO_WRITE")

    def check_write(self, offset: int, length: int) -> None:
        """Check that a byte range may be written to.

        Raises:
            AccessDeniedError: this was made with NO_WRITE.
            OutOfRangeError: the range overflows 64 bits, or ends beyond the size.
        """
        self.check_writable()
        self.check_inside(offset, length)

    def set_size_steps(self, size: int) -> Steps[None]:
        """Cut or extend the VMO to ``size`` bytes. What is cut off is gone, what is new reads as zeros.

        In a pager VMO that is a dirty zero interval. The size changes at the start, in steps if there are many pieces
        to cut off. If it is not page aligned, the rest of the last page is then zeroed by a write, which may wait, and
        whose failure is ignored; not so on an aux, which zeroes it first. Fails with ACCESS_DENIED (NO_WRITE),
        UNAVAILABLE (not resizable, or a slice), OUT_OF_RANGE (above the largest VMO), BAD_STATE (a pinned page would be
        cut off), NO_MEMORY; then nothing has changed. Zircon: zx_vmo_set_size.
        """
        self.check_resizable()
        yield from resize.set_size_steps(self.node, size)

    def check_resizable(self) -> None:
        """Check that this handle lets the size be changed. Whether the pages do is seen then."""
        self.check_writable()

    def _reading(self, offset: int, length: int, steps: Steps[T]) -> Steps[T]:
        """Check a range of the window, then take the steps on the pages, which check the range again."""
        self.check_inside(offset, length)
        return (yield from steps)

    def _writing(self, offset: int, length: int, steps: Steps[T]) -> Steps[T]:
        """Do the same for a call that needs the right to write."""
        self.check_write(offset, length)
        return (yield from steps)

    def commit_steps(self, offset: int, length: int) -> Steps[None]:
        """Give every page a frame; absent ones are READ. Pages of zero intervals become dirty, under TRAP_DIRTY asked.

        A clone or snapshot forks every page; others between get nothing. Fails with OUT_OF_RANGE when the range does
        not lie inside, but in a pager family not when it is cut off meanwhile; with NO_MEMORY an aux is unchanged,
        unless the range has very many pieces. Zircon: zx_vmo_op_range with ZX_VMO_OP_COMMIT.
        """
        return self._writing(offset, length, commit.commit_steps(self.node, self.start + offset, length))

    def op_zero_steps(self, offset: int, length: int) -> Steps[None]:
        """Zero bytes. Whole pages give their memory back, unless they are pinned, or of special memory.

        In a pager VMO they become a dirty zero interval without any request, also under TRAP_DIRTY. Parts of pages, and
        pinned pages, are written as by ``write``, which they also fail as. What was zeroed before a failure stays
        zeroed. Zircon: zx_vmo_op_range with ZX_VMO_OP_ZERO.
        """
        return self._writing(offset, length, zero.zero_steps(self.node, self.start + offset, length))

    def charge_to(self, account: Account | None) -> None:
        """Let its pages be another's from now on, whatever his limits. Not those that it shares."""
        self.node.runs.charge_to(account)

    def close(self) -> None:
        """Give up the handle. What nobody needs any more is freed; COMPLETE is sent with the last of a family."""
        self.lineage.close()
        self.node.close(self)

    def check(self) -> None:
        """Assert the invariants of the pages."""
        self.node.check()


class View(Vmo):
    """A slice, if it has a size, or a reference: another name for the memory of a VMO, or of a part of it."""

    __slots__ = ("no_write", "slice_size", "start", "stream_size_of_slice")

    def __init__(
        self,
        node: VmoPages,
        start: int = 0,
        size: int | None = None,
        *,
        no_write: bool = False,
        account: Account | None = None,
    ) -> None:
        super().__init__(node)
        self.start = start
        self.slice_size = size
        self.stream_size_of_slice = size
        self.no_write = no_write
        node.add_window(self, Window(ALL_PAGES if size is None else PageRange.of_bytes(start, size), account))

    @property
    def size_pages(self) -> int:
        """The size in pages."""
        return self.node.size_pages if self.slice_size is None else page_count(self.slice_size)

    @property
    def committed_pages(self) -> int:
        """Pages shown that occupy memory. They are not this view's."""
        if self.slice_size is None:
            return super().committed_pages
        return sum(part.pages for part in self.committed(PageRange(0, self.size_pages)))

    def check_inside(self, offset: int, length: int) -> None:
        """Check that a byte range lies inside the window."""
        size = self.size_pages * PAGE_SIZE
        if offset + length > size:
            raise OutOfRangeError(f"range {offset}+{length} does not lie inside the child of {size} bytes")

    def check_writable(self) -> None:
        """Check that this may be written to. What was made from something without that right has it not."""
        if self.no_write:
            raise AccessDeniedError("the child was made with NO_WRITE")

    def check_resizable(self) -> None:
        """Check that the size of what is shown may be changed through this."""
        self.check_writable()
        if self.is_slice:
            raise UnavailableError("a slice cannot be resized")

    def charge_to(self, account: Account | None) -> None:
        """Belong to another from now on; the memory stays whose it is."""
        if self in self.node.windows:
            self.node.add_window(self, self.node.windows[self]._replace(account=account))


class PagedVmo(Vmo):
    """The calls of VMOs of a pager family: those that may wait for the pager return an ``Access``.

    Those with ``nowait``, and those that return something else, never wait. All may fail with what the pager failed
    pages with, BAD_STATE without a pager, TIMED_OUT at the deadline, and NO_MEMORY; and those that change bytes or
    sizes with ACCESS_DENIED if this was made with NO_WRITE.
    """

    __slots__ = ()

    node: PagerPages | ClonePages

    @property
    def may_lack_pages(self) -> bool:
        """Whether a page may be absent, as far as that is known without a look at each: in ancestors it is not."""
        return self.size_pages > 0

    @property
    def of(self) -> PagerVmo | CloneVmo:
        """The VMO whose pages these are; this itself, if it is no view."""
        return cast("PagerVmo | CloneVmo", self.node.owner)

    @property
    def source(self) -> PageSource:
        """The page source of the root."""
        return self.node.source

    @property
    def stream_size(self) -> int:
        """The size of the content, in bytes."""
        return self.node.stream_size

    @property
    def is_whole(self) -> bool:
        """Whether no page of the root is absent, so that nothing can be asked for."""
        root: CowPages = self.node
        while root.parent is not None:
            root = root.parent
        assert isinstance(root, PagerPages)
        return root.runs.pages == root.size_pages

    def absent(self, pages: PageRange) -> PageRange:
        """Return the rest of a range from its first absent page on; the range itself if none is absent."""
        shift = self.start // PAGE_SIZE
        return self.node.absent(pages.moved(shift)).moved(-shift)

    def touch(self, pages: PageRange) -> None:
        """Note that a program reads pages, if some are marked. Zircon has no such thing; see ``marks``."""
        marks.touch(self.node, pages.moved(self.start // PAGE_SIZE))

    def unmarked(self, pages: PageRange) -> list[PageRange]:
        """Return what ``committed`` does, without marked pages."""
        shift = self.start // PAGE_SIZE
        return [part.moved(-shift) for part in marks.unmarked(self.node, pages.moved(shift))]

    def state_at(self, page: int) -> PageState:
        """Return the state of one page."""
        return self.node.state_at(page + self.start // PAGE_SIZE)

    def promote(self, pages: PageRange = ALL_PAGES) -> None:
        """Make ordinary reads of those on the short path of a miss, if some of these pages are missed."""

    def read_nowait(self, offset: int, length: int) -> Bytes | None:
        """Return the bytes if every page is there, else None. Valid until the next call on any object.

        Raises:
            OutOfRangeError: the range does not lie inside.
        """
        node = self.node
        if self.slice_size is not None or offset + length > node.size_pages * PAGE_SIZE:
            self.check_inside(offset, length)
        if length == 0:
            return b""
        offset += self.start
        return node.read_present(offset, offset + length)

    def read(self, offset: int, length: int) -> Access[bytes]:
        """Read bytes, asking the pager for what is absent. Zircon: zx_vmo_read.

        Fails with OUT_OF_RANGE when the range does not lie inside, now or after a wait.
        """
        return Access(self._reading(offset, length, transfer.read_steps(self.node, self.start + offset, length)))

    def write(self, offset: int, data: Bytes) -> Access[int]:
        """Write bytes; absent pages are READ first, and under TRAP_DIRTY the pager is asked. Zircon: zx_vmo_write.

        Fails as ``read`` does. What was written before the failure stays written.
        """
        steps = transfer.write_steps(self.node, self.start + offset, len(data), data, self)
        return Access(self._writing(offset, len(data), steps))

    op_zero = as_access(Vmo.op_zero_steps)

    set_size = as_access(Vmo.set_size_steps)

    def set_stream_size(self, size: int) -> Access[None]:
        """Set the size of the content, in bytes; everything beyond the old or the new one, if smaller, is zero then.

        The part of a page at the boundary is zeroed by a write, which may wait, and which this fails as. Also fails
        with OUT_OF_RANGE beyond the size of the VMO. Nothing else has changed after a failure.
        Zircon: zx_vmo_set_stream_size.
        """
        return Access(self._set_stream_size_steps(size))

    def _set_stream_size_steps(self, size: int) -> Steps[None]:
        self.check_writable()
        yield from resize.set_stream_size_steps(self.node, size)

    commit = as_access(Vmo.commit_steps)

    def prefetch_steps(self, offset: int, length: int) -> Steps[None]:
        """READ every absent page; nothing that is present changes. Fails as ``commit``. Zircon: ZX_VMO_OP_PREFETCH."""
        return self._reading(offset, length, commit.prefetch_steps(self.node, self.start + offset, length))

    prefetch = as_access(prefetch_steps)

    def always_need_steps(self, offset: int, length: int) -> Steps[None]:
        """READ every absent page and protect the range from eviction for good; pages that fail are skipped.

        Fails only with OUT_OF_RANGE, and NO_MEMORY for too many such ranges. Zircon: ZX_VMO_OP_ALWAYS_NEED.
        """
        return self._reading(offset, length, commit.always_need_steps(self.node, self.start + offset, length))

    always_need = as_access(always_need_steps)

    def dont_need_steps(self, offset: int, length: int) -> Steps[None]:
        """Let pages of the root go before others when memory is short, except those that are always needed.

        Raises:
            OutOfRangeError: the range does not lie inside.

        Zircon: ZX_VMO_OP_DONT_NEED.
        """
        self.check_inside(offset, length)
        hints.dont_need(self.node, PageRange.of_bytes(self.start + offset, length))
        yield from ()

    dont_need = at_once(dont_need_steps)

    def decommit_steps(self, offset: int, length: int) -> Steps[None]:
        """Refuse: what a VMO of a pager family holds is not its user's to drop.

        Raises:
            OutOfRangeError: the range does not lie inside.
            NotSupportedError: always, unless the range is empty.

        Zircon: ZX_VMO_OP_DECOMMIT.
        """
        self.check_inside(offset, length)
        if length:
            what = "pager VMO" if self.node.has_source else "clone of a pager VMO"
            raise NotSupportedError(f"pages of a {what} cannot be decommitted")
        yield from ()

    decommit = at_once(decommit_steps)

    def pin_steps(self, offset: int, length: int, *, write: bool = False) -> Steps[Pin]:
        """Bring pages in as ``commit`` does and keep them as they are until ``unpin``. A page may have many pins.

        With ``write`` they become dirty first, as by a write of the whole range in one piece. Fails as ``commit``, and
        with OUT_OF_RANGE also when the range is cut off meanwhile; then nothing is pinned. Zircon: zx_bti_pin.
        """
        checked = self._writing if write else self._reading
        return checked(offset, length, commit.pin_steps(self.node, self.start + offset, length, write=write))

    pin = as_access(pin_steps)

    def statistics(self) -> VmoStatistics | CloneStatistics:
        """Return the present page counts of all the pages."""
        return self.node.statistics()


class PagerVmo(PagedVmo):
    """A VMO made by a pager. The last of its family sends COMPLETE, unless it was sent."""

    __slots__ = ()

    node: PagerPages

    def _reading(self, offset: int, length: int, steps: Steps[T]) -> Steps[T]:  # noqa: ARG002
        """Take the steps at once: here the window is all pages, and they may always be written to."""
        return steps

    _writing = _reading

    def __init__(
        self,
        system: System,
        source: PageSource,
        stream_size: int,
        options: VmoOptions,
        maker: Maker,
        account: Account | None = None,
    ) -> None:
        super().__init__(PagerPages(system, self, source, stream_size, options, maker, account))

    def miss(self, offset: int, reader: Reader, lane: object, now: float) -> bool | None:
        """Let somebody wait for an absent page of the content that ``read_nowait`` has just not found.

        Return whether its packet is to be sent by ``lane``, as for ``Port.miss``; None if a ``read`` is needed.
        """
        node = self.node
        if offset % PAGE_SIZE or offset + PAGE_SIZE > node.stream_size:
            return None
        source = node.source
        return source.port.miss(source, offset // PAGE_SIZE, reader, lane, now)

    def promote(self, pages: PageRange = ALL_PAGES) -> None:
        """Make ordinary reads of those on the short path of a miss, if some of these pages are missed."""
        source = self.node.source
        if source.misses and source.port.missed(source, pages):
            source.port.promote()

    @property
    def modified(self) -> bool:
        """Whether it was written to, or resized, since the pager last asked."""
        return self.node.modified

    @property
    def dirty_pages(self) -> int:
        """Pages that were not written back, zeros and those that await it included. Costs nothing to ask."""
        return sum(map(self.node.runs.pages_in, (PageState.DIRTY, PageState.AWAITING, PageState.ZERO)))

    @property
    def may_lack_pages(self) -> bool:
        """Whether a page is absent."""
        return not self.is_whole

    def statistics(self) -> VmoStatistics:
        """Return the present page counts."""
        return self.node.statistics()

    def sync(self) -> Access[None]:
        """Wait until every page that is dirty now was written back; at once if the VMO was made without ``writeback``.

        Fails with what the pager failed the range with, BAD_STATE without a pager, TIMED_OUT at the deadline.
        """
        node = self.node
        if node.options.writeback:
            return Access(node.syncs.steps(node.source, node.runs, node.size_pages))
        return Access(_nothing_to_wait_for())


class CloneVmo(PagedVmo):
    """A clone of a pager VMO, of a clone, or of a slice or reference of one. Made by ``create_child``.

    Its calls mean what they mean for a pager VMO, except that no page is ever dirty; all pager calls refuse it.
    """

    __slots__ = ("no_write",)

    node: ClonePages

    def __init__(
        self,
        system: System,
        source: PageSource,
        stream_size: int,
        *,
        resizable: bool = False,
        no_write: bool = False,
        account: Account | None = None,
    ) -> None:
        self.no_write = no_write
        super().__init__(ClonePages(system, self, stream_size, source, resizable=resizable, account=account))

    @property
    def root(self) -> PagerVmo:
        """The VMO whose pager is asked."""
        return cast("PagerVmo", self.node.root().owner)

    def statistics(self) -> CloneStatistics:
        """Return the present page counts."""
        return self.node.statistics()


class PagerView(View, PagedVmo):
    """A slice of, or a reference to, a pager VMO or a clone of one. Has the calls of those, but not the pager calls."""

    __slots__ = ()

    @property
    def stream_size(self) -> int:
        """The size of the content, in bytes."""
        return self.node.stream_size if self.stream_size_of_slice is None else self.stream_size_of_slice

    def _set_stream_size_steps(self, size: int) -> Steps[None]:
        """Set the size of the content; that of a slice is its own, and what lies beyond becomes zero at once."""
        if not self.is_slice:
            yield from super()._set_stream_size_steps(size)
            return
        self.check_write(size, 0)
        shown = PageRange(0, self.size_pages).moved(self.start // PAGE_SIZE)
        yield from resize.zero_beyond_steps(self.node, shown, self.stream_size, size)
        self.stream_size_of_slice = size


def _nothing_to_wait_for() -> Steps[None]:
    yield from ()
