"""Slices and references: other names for the memory of a VMO, or of a part of it. Zircon: zircon-pager 2.12, 5.3.

All calls act on the VMO itself, in its offsets, so a write through a slice of a pager VMO is DIRTY there and sets
"modified". A slice has a size of its own that never changes, and a stream size of its own; a reference has those of the
VMO. A view of a view is a view of the VMO. Memory is counted with the VMO and shown by every view of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from vmofs.core.pages.account import Account
from vmofs.core.pages.content import Bytes
from vmofs.core.pages.pins import Pin
from vmofs.core.pages.runs import Run
from vmofs.core.pages.states import PageState
from vmofs.core.requests.access import Access, Steps, without_waiting
from vmofs.core.requests.page_source import PageSource
from vmofs.core.vmos import zero
from vmofs.core.vmos.aux import AuxStatistics, AuxVmo
from vmofs.core.vmos.clone import CloneStatistics, CloneVmo
from vmofs.core.vmos.cow_pages import Window
from vmofs.core.vmos.lineage import Lineage
from vmofs.core.vmos.vmo import PagerVmo, VmoStatistics
from vmofs.status import AccessDeniedError, OutOfRangeError, UnavailableError, VmoError
from vmofs.units import ALL_PAGES, PAGE_SIZE, UINT64_MAX, PageRange, page_count
from vmofs.vocabulary import AuxKind

T = TypeVar("T")
VmoT = TypeVar("VmoT", AuxVmo, PagerVmo | CloneVmo)


class View(Generic[VmoT]):
    """What both kinds of views have. ``of`` is the VMO; ``start`` the byte in it where a slice begins."""

    def __init__(
        self,
        of: VmoT,
        start: int = 0,
        size: int | None = None,
        *,
        no_write: bool = False,
        account: Account | None = None,
    ) -> None:
        self.of: VmoT = of
        self.start = start
        self.no_write = no_write
        self.node = of.node
        self.lineage = Lineage()
        self.owner: object = None  # the edge's
        self._slice_size = size
        of.node.add_window(self, Window(ALL_PAGES if size is None else PageRange.of_bytes(start, size), account))

    @property
    def is_slice(self) -> bool:
        """Whether this is a slice and not a reference."""
        return self._slice_size is not None

    @property
    def size_pages(self) -> int:
        """The size in pages."""
        return self.of.size_pages if self._slice_size is None else page_count(self._slice_size)

    @property
    def committed_pages(self) -> int:
        """Pages shown that occupy memory. They are not this view's."""
        if self._slice_size is None:
            return self.of.committed_pages
        return sum(part.pages for part in self.committed(PageRange(0, self.size_pages)))

    def committed(self, pages: PageRange) -> list[PageRange]:
        """Return the runs of pages in a range that show more than zeros and are there."""
        shift = self.start // PAGE_SIZE
        return [part.moved(-shift) for part in self.node.committed(pages.moved(shift))]

    def check_inside(self, offset: int, length: int) -> None:
        """Check that a byte range lies inside.

        Raises:
            OutOfRangeError: it overflows 64 bits, or ends beyond the size.
        """
        size = self.size_pages * PAGE_SIZE
        if offset + length > min(UINT64_MAX, size):
            raise OutOfRangeError(f"range {offset}+{length} does not lie inside the child of {size} bytes")

    def check_writable(self) -> None:
        """Check that this may be written to.

        Raises:
            AccessDeniedError: it was made with NO_WRITE.
        """
        if self.no_write:
            raise AccessDeniedError("the child was made with NO_WRITE")

    def _at(self, offset: int, length: int, *, write: bool = False) -> int:
        """Check a call and return its offset in the VMO."""
        if write:
            self.check_writable()
        self.check_inside(offset, length)
        return self.start + offset

    def _check_resizable(self) -> None:
        self.check_writable()
        if self.is_slice:
            raise UnavailableError("a slice cannot be resized")

    def charge_to(self, account: Account | None) -> None:
        """Belong to another from now on; the memory stays whose it is."""
        if self in self.node.windows:
            self.node.add_window(self, self.node.windows[self]._replace(account=account))

    def close(self) -> None:
        """Give up the handle. When nobody needs the VMO either, it is freed."""
        self.lineage.close()
        self.node.close(self)


class PagerView(View[PagerVmo | CloneVmo]):
    """A slice of, or a reference to, a pager VMO or a clone of one. Has the calls of those, but not the pager calls."""

    def __init__(
        self,
        of: PagerVmo | CloneVmo,
        start: int = 0,
        size: int | None = None,
        *,
        no_write: bool = False,
        account: Account | None = None,
    ) -> None:
        super().__init__(of, start, size, no_write=no_write, account=account)
        self._stream_size = size

    @property
    def source(self) -> PageSource:
        """The page source of the root."""
        return self.of.source

    @property
    def stream_size(self) -> int:
        """The size of the content, in bytes."""
        return self.of.stream_size if self._stream_size is None else self._stream_size

    def absent(self, pages: PageRange) -> PageRange:
        """Return the rest of a range from its first absent page on; the range itself if none is absent."""
        shift = self.start // PAGE_SIZE
        return self.of.absent(pages.moved(shift)).moved(-shift)

    def state_at(self, page: int) -> PageState:
        """Return the state of one page."""
        return self.of.state_at(page + self.start // PAGE_SIZE)

    def read_nowait(self, offset: int, length: int) -> Bytes | None:
        """Return the bytes if every page is there, else None. Valid until the next call on any object.

        Raises:
            OutOfRangeError: the range does not lie inside.
        """
        return self.of.read_nowait(self._at(offset, length), length)

    def read(self, offset: int, length: int) -> Access[bytes]:
        """Read bytes. Zircon: zx_vmo_read."""
        return _checked(lambda: self.of.read(self._at(offset, length), length))

    def write(self, offset: int, data: Bytes) -> Access[int]:
        """Write bytes; also fails with ACCESS_DENIED if made with NO_WRITE. Zircon: zx_vmo_write."""
        return _checked(lambda: Access(self.of.write_steps(self._at(offset, len(data), write=True), data, self)))

    def op_zero(self, offset: int, length: int) -> Access[None]:
        """Zero bytes. Zircon: ZX_VMO_OP_ZERO."""
        return _checked(lambda: self.of.op_zero(self._at(offset, length, write=True), length))

    def set_size(self, size: int) -> Access[None]:
        """Cut or extend the VMO; UNAVAILABLE on a slice. Zircon: zx_vmo_set_size."""

        def resize() -> Access[None]:
            self._check_resizable()
            return self.of.set_size(size)

        return _checked(resize)

    def set_stream_size(self, size: int) -> Access[None]:
        """Set the size of the content; that of a slice is its own, and what lies beyond becomes zero at once."""
        return Access(self._slice_stream_size_steps(size)) if self.is_slice else self._set_stream_size(size)

    def _set_stream_size(self, size: int) -> Access[None]:
        def set_it() -> Access[None]:
            self.check_writable()
            return self.of.set_stream_size(size)

        return _checked(set_it)

    def _slice_stream_size_steps(self, size: int) -> Steps[None]:
        self._at(size, 0, write=True)
        end = min(size, self.stream_size)
        if size != self.stream_size:
            start, length = self.start + end, self.size_pages * PAGE_SIZE - end
            of = self.of
            yield from zero.zero_steps(of, start, length) if isinstance(of, PagerVmo) else of.zero_steps(start, length)
            self._stream_size = size

    def commit(self, offset: int, length: int) -> Access[None]:
        """Bring every page in. Zircon: ZX_VMO_OP_COMMIT."""
        return _checked(lambda: self.of.commit(self._at(offset, length, write=True), length))

    def prefetch(self, offset: int, length: int) -> Access[None]:
        """READ every absent page. Zircon: ZX_VMO_OP_PREFETCH."""
        return _checked(lambda: self.of.prefetch(self._at(offset, length), length))

    def always_need(self, offset: int, length: int) -> Access[None]:
        """READ every absent page, and protect the range from eviction. Zircon: ZX_VMO_OP_ALWAYS_NEED."""
        return _checked(lambda: self.of.always_need(self._at(offset, length), length))

    def dont_need(self, offset: int, length: int) -> None:
        """Let pages go before others. Zircon: ZX_VMO_OP_DONT_NEED.

        Raises:
            OutOfRangeError: the range does not lie inside.
        """
        self.of.dont_need(self._at(offset, length), length)

    def decommit(self, offset: int, length: int) -> None:
        """Refuse, as the VMO does. Zircon: ZX_VMO_OP_DECOMMIT.

        Raises:
            OutOfRangeError: the range does not lie inside.
            NotSupportedError: always, unless the range is empty.
        """
        self.of.decommit(self._at(offset, length), length)

    def pin(self, offset: int, length: int, *, write: bool = False) -> Access[Pin]:
        """Bring pages in and keep them until ``unpin``. Zircon: zx_bti_pin."""
        return _checked(lambda: self.of.pin(self._at(offset, length, write=write), length, write=write))

    def statistics(self) -> VmoStatistics | CloneStatistics:
        """Return the present page counts of the whole VMO."""
        return self.of.statistics()


class AuxView(View[AuxVmo]):
    """A slice of, or a reference to, an aux VMO. Has the calls of that."""

    @property
    def kind(self) -> AuxKind:
        """How the memory came to be."""
        return self.of.kind

    @property
    def resizable(self) -> bool:
        """Whether the size can change."""
        return self.of.resizable and not self.is_slice

    @property
    def size_bytes(self) -> int:
        """The size in bytes, not rounded."""
        return self.of.size_bytes if self._slice_size is None else self._slice_size

    def read_nowait(self, offset: int, length: int) -> Bytes:
        """Return the bytes ``[offset, offset+length)``, fewer at the end. Valid until the next call on any object."""
        length = min(length, self.size_bytes - offset)
        return self.of.read_nowait(self.start + offset, length) if length > 0 else b""

    def write_nowait(self, offset: int, data: Bytes) -> int:
        """Write bytes; a reference may grow by that, as the VMO may.

        Raises:
            AccessDeniedError: made with NO_WRITE.
            UnavailableError: they end beyond a slice.
            VmoError: as ``AuxVmo.write_nowait``.
        """
        self.check_writable()
        if self.is_slice and data and offset + len(data) > self.size_bytes:
            raise UnavailableError(f"the size {self.size_bytes} of this slice is fixed")
        return self.of.write_nowait(self.start + offset, data, self)

    def set_size(self, size_bytes: int) -> None:
        """Cut or extend the VMO.

        Raises:
            AccessDeniedError: made with NO_WRITE.
            UnavailableError: a slice.
            VmoError: as ``AuxVmo.set_size``.
        """
        without_waiting(self.set_size_steps(size_bytes))

    def set_size_steps(self, size_bytes: int) -> Steps[None]:
        """Do what ``set_size`` does, with rests."""
        self._check_resizable()
        yield from self.of.set_size_steps(size_bytes)

    def commit(self, offset: int, length: int) -> None:
        """Give every page memory, as ``AuxVmo.commit``."""
        without_waiting(self.commit_steps(offset, length))

    def commit_steps(self, offset: int, length: int) -> Steps[None]:
        """Do what ``commit`` does, with rests."""
        yield from self.of.commit_steps(self._at(offset, length, write=True), length)

    def decommit(self, offset: int, length: int) -> None:
        """Free memory, as ``AuxVmo.decommit``."""
        without_waiting(self.decommit_steps(offset, length))

    def decommit_steps(self, offset: int, length: int) -> Steps[None]:
        """Do what ``decommit`` does, with rests."""
        yield from self.of.decommit_steps(self._at(offset, length, write=True), length)

    def op_zero(self, offset: int, length: int) -> None:
        """Zero bytes, as ``AuxVmo.op_zero``."""
        without_waiting(self.op_zero_steps(offset, length))

    def op_zero_steps(self, offset: int, length: int) -> Steps[None]:
        """Do what ``op_zero`` does, with rests."""
        yield from self.of.op_zero_steps(self._at(offset, length, write=True), length)

    def prefetch(self, offset: int, length: int) -> None:
        """Do nothing, as ``AuxVmo.prefetch``."""
        self.of.prefetch(self._at(offset, length), length)

    def pin(self, offset: int, length: int) -> Pin:
        """Commit pages and keep them, as ``AuxVmo.pin``."""
        return without_waiting(self.pin_steps(offset, length))

    def pin_steps(self, offset: int, length: int) -> Steps[Pin]:
        """Do what ``pin`` does, with rests."""
        return (yield from self.of.pin_steps(self._at(offset, length), length))

    def check_can_give(self, offset: int, length: int, xxh3: int | None = None) -> None:
        """Check everything that would keep ``take`` from taking, as ``AuxVmo.check_can_give``."""
        self.check_writable()
        if length and self.kind is AuxKind.PLAIN:  # else the VMO refuses, or does not even look at the range
            self.check_inside(offset, length)
        self.of.check_can_give(self.start + offset, length, xxh3, children=self.lineage.num_children)

    def take(self, offset: int, length: int) -> list[Run]:
        """Remove the pages of a range, as ``AuxVmo.take``. Their numbers are those of the range."""
        return [run.moved(-(self.start // PAGE_SIZE)) for run in self.of.take(self.start + offset, length)]

    def statistics(self) -> AuxStatistics:
        """Return the present sizes."""
        return AuxStatistics(self.size_bytes, self.committed_pages)


def _checked(call: Callable[[], Access[T]]) -> Access[T]:
    """Return the access, or if it is refused one that fails when it is started, as other accesses do."""
    try:
        return call()
    except VmoError as error:
        return Access(_failing(error))


def _failing(error: VmoError) -> Steps[T]:
    yield from ()
    raise error
