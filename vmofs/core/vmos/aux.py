"""Aux VMOs: ordinary anonymous memory in which page data is staged before it moves into a pager VMO."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vmofs.core.pages import content
from vmofs.core.pages.account import Account
from vmofs.core.pages.content import Bytes
from vmofs.core.pages.pins import Pin, Pins
from vmofs.core.pages.runs import Run, RunMap
from vmofs.core.pages.spans import SLICE
from vmofs.core.requests.access import Steps, without_waiting
from vmofs.core.requests.system import System
from vmofs.core.vmos.checksum import check_sum
from vmofs.core.vmos.cow_pages import Node
from vmofs.core.vmos.lineage import Lineage
from vmofs.status import (
    AccessDeniedError,
    BadStateError,
    NotSupportedError,
    OutOfRangeError,
    UnavailableError,
)
from vmofs.units import MAX_VMO_BYTES, PAGE_SIZE, UINT64_MAX, PageRange, page_count
from vmofs.vocabulary import AuxKind


@dataclass(frozen=True, slots=True)
class AuxStatistics:
    """Sizes of one aux VMO."""

    size_bytes: int
    committed_pages: int


class AuxVmo:
    """Anonymous memory: absent pages read as zeros and occupy nothing. Never waits for anybody.

    ``size_bytes`` is exact; the VMO is that, rounded up to pages. Snapshots are of this class too; pages that a
    snapshot shares count as committed in all who see them. Zircon: zx_vmo_create.
    """

    def __init__(
        self,
        system: System,
        size_bytes: int = 0,
        kind: AuxKind = AuxKind.PLAIN,
        *,
        resizable: bool = True,
        no_write: bool = False,
        account: Account | None = None,
    ) -> None:
        self.system = system
        self._frames = system.frames
        self._runs = RunMap(account)
        self.node = Node(system, self._runs, self)
        self.lineage = Lineage()
        self._size_bytes = size_bytes
        self.kind = kind
        self.resizable = resizable
        self.no_write = no_write
        self.owner: object = None  # the edge's
        self.pins = Pins()
        self.pinned = self.pins.pages
        system.register(self, self._runs)

    @property
    def size_bytes(self) -> int:
        """The size in bytes, not rounded."""
        return self._size_bytes

    @property
    def size_pages(self) -> int:
        """The size of the VMO in pages."""
        return page_count(self._size_bytes)

    @property
    def committed_pages(self) -> int:
        """Pages that occupy memory, shared ones included."""
        return self._runs.committed_pages + self.node.shared_pages

    def read_nowait(self, offset: int, length: int) -> Bytes:
        """Return the bytes ``[offset, offset+length)``, fewer at the end. Valid until the next call on any object."""
        end = min(offset + length, self._size_bytes)
        if end <= offset:
            return b""
        data = self.node.read_present(offset, end)
        assert data is not None
        return data

    def write_nowait(self, offset: int, data: Bytes, by: object = None) -> int:
        """Write bytes, growing the file if they end beyond it; return their number. ``by``: the view written to.

        Raises:
            AccessDeniedError: a snapshot that was made with NO_WRITE.
            OutOfRangeError: they would end beyond the largest VMO.
            UnavailableError: they end beyond an aux that is not resizable.
            NoMemoryError: the memory limit is reached; nothing changed.
        """
        self.check_writable()
        if not data:
            return 0  # as in Unix, writing nothing beyond the end does not extend
        end = offset + len(data)
        if end > self._size_bytes:
            self._check_size(end)
        pages = PageRange.of_bytes(offset, len(data))
        self.node.own(pages, filled=True)
        content.write_committed(self._frames, self._runs, offset, data)
        self.node.changed(pages, by or self)
        self._size_bytes = max(self._size_bytes, end)
        return len(data)

    def set_size(self, size_bytes: int) -> None:
        """Cut or extend; what is beyond the end is gone, what is new reads as zeros.

        Raises:
            UnavailableError: not resizable.
            OutOfRangeError: larger than the largest VMO.
            BadStateError: pinned pages would be cut off.
            NoMemoryError: the rest of the last page is shared, and there is no memory for a copy; nothing changed.
        """
        without_waiting(self.set_size_steps(size_bytes))

    def set_size_steps(self, size_bytes: int) -> Steps[None]:
        """Do what ``set_size`` does, with rests: if there are many pieces to cut off, the size sinks in steps."""
        first = page_count(size_bytes)
        while first < (step := self._runs.reach_back(first, self.size_pages, SLICE)) < self.size_pages:
            self._check_size(size_bytes)
            self._check_unpinned(first)
            self._set_size(step * PAGE_SIZE)
            yield None
        self._check_size(size_bytes)
        self._check_unpinned(first)
        self._set_size(size_bytes)

    def _check_unpinned(self, first: int) -> None:
        if self.pinned.over(PageRange(first, self.size_pages)):
            raise BadStateError(f"pinned pages lie beyond the new size {first} in pages")

    def _set_size(self, size_bytes: int) -> None:
        cut = PageRange(page_count(size_bytes), self.size_pages)
        if size_bytes < self._size_bytes:
            self.zero_tail(size_bytes)
        if cut:
            self._changed_if_present(cut)
            self.node.cut(cut.start)
        self._size_bytes = size_bytes

    def zero_tail(self, size_bytes: int) -> None:
        """Zero the rest of the last page of a content of this size: it must not show up when the content grows.

        Raises:
            NoMemoryError: the page is shared, and there is no memory for a copy.
        """
        self._overwrite_with_zeros(size_bytes, size_bytes + -size_bytes % PAGE_SIZE)

    def check_writable(self) -> None:
        """Check that this may be written to.

        Raises:
            AccessDeniedError: it was made with NO_WRITE.
        """
        if self.no_write:
            raise AccessDeniedError("the snapshot was made with NO_WRITE")

    def _check_size(self, size_bytes: int) -> None:
        if not self.resizable:
            raise UnavailableError(f"the size {self._size_bytes} of this aux is fixed, {size_bytes} was asked for")
        if size_bytes > MAX_VMO_BYTES:
            raise OutOfRangeError(f"size {size_bytes} is above the largest VMO, {MAX_VMO_BYTES}")

    # zx_vmo_op_range

    def _check_inside(self, offset: int, length: int) -> None:
        size = self.size_pages * PAGE_SIZE
        if offset + length > min(UINT64_MAX, size):
            raise OutOfRangeError(f"range {offset}+{length} does not lie inside the aux VMO of {size} bytes")

    def commit(self, offset: int, length: int) -> None:
        """Give every page of a range of bytes (rounded outward) memory.

        Raises:
            OutOfRangeError: the range overflows or does not lie inside the VMO.
            NoMemoryError: the memory limit is reached; nothing changed.

        Zircon: ZX_VMO_OP_COMMIT.
        """
        without_waiting(self.commit_steps(offset, length))

    def commit_steps(self, offset: int, length: int) -> Steps[None]:
        """Do what ``commit`` does, with rests: of very many pieces some may have memory after a failure."""
        for part in self._slices(offset, length):
            self.check_writable()
            self.node.own(part)
            if part.end * PAGE_SIZE < offset + length:
                yield None

    def _slices(self, offset: int, length: int) -> Iterator[PageRange]:
        """Yield the pages of a range that has to lie inside, one empty range if it is empty, in slices."""
        position, end = PageRange.of_bytes(offset, length)
        while True:
            self._check_inside(offset, length)
            start, position = position, self.node.reach(position, end)
            yield PageRange(start, position)
            if position >= end:
                break

    def decommit(self, offset: int, length: int) -> None:
        """Free the memory of a range of bytes (rounded outward to pages), which then reads as zeros.

        Raises:
            OutOfRangeError: the range overflows or does not lie inside the VMO.
            NotSupportedError: contiguous or physical memory, or there are snapshots.
            BadStateError: a page is pinned.

        Zircon: ZX_VMO_OP_DECOMMIT.
        """
        without_waiting(self.decommit_steps(offset, length))

    def decommit_steps(self, offset: int, length: int) -> Steps[None]:
        """Do what ``decommit`` does, with rests."""
        for part in self._slices(offset, length):
            self.check_writable()
            if self.node.parent is not None:
                raise NotSupportedError("memory that snapshots share cannot be decommitted")
            if self.kind is not AuxKind.PLAIN:
                raise NotSupportedError(f"{self.kind.value} memory cannot be decommitted")
            pinned = self.pinned.over(PageRange.of_bytes(offset, length))
            if pinned:
                raise BadStateError(f"aux pages {pinned[0]} are pinned")
            self._changed_if_present(part)
            self.node.blank(part)
            if part.end * PAGE_SIZE < offset + length:
                yield None

    def op_zero(self, offset: int, length: int) -> None:
        """Zero a range of bytes. Whole pages give their memory back, unless they are pinned or of special memory.

        Raises:
            OutOfRangeError: the range overflows or does not lie inside the VMO.

        Zircon: ZX_VMO_OP_ZERO.
        """
        without_waiting(self.op_zero_steps(offset, length))

    def op_zero_steps(self, offset: int, length: int) -> Steps[None]:
        """Do what ``op_zero`` does, with rests."""
        end = offset + length
        for part in self._slices(offset, length):
            self.check_writable()
            self._runs.check_ranges()
            first = max(offset, part.offset)
            self._zero(first, max(0, min(end, part.end * PAGE_SIZE) - first))
            if part.end * PAGE_SIZE < end:
                yield None

    def _zero(self, offset: int, length: int) -> None:
        end = offset + length
        whole = PageRange(page_count(offset), end // PAGE_SIZE)
        kept = self.pinned.over(whole) if self.kind is AuxKind.PLAIN else [whole]
        if whole.end < whole.start:  # both ends lie in one page
            self._overwrite_with_zeros(offset, end)
            return
        self._overwrite_with_zeros(offset, whole.offset)
        self._overwrite_with_zeros(whole.end * PAGE_SIZE, end)
        for part in kept:
            self._overwrite_with_zeros(part.offset, part.end * PAGE_SIZE)
        if self.kind is AuxKind.PLAIN:
            for part in self.pinned.missing(whole):
                self._changed_if_present(part)
                self.node.blank(part)

    def prefetch(self, offset: int, length: int) -> None:
        """Do nothing: no page is ever absent. Zircon: ZX_VMO_OP_PREFETCH.

        Raises:
            OutOfRangeError: the range overflows or does not lie inside the VMO.
        """
        self._check_inside(offset, length)

    def pin(self, offset: int, length: int) -> Pin:
        """Commit the pages of a range of bytes (rounded outward) and keep them until ``unpin``.

        Raises:
            OutOfRangeError: the range overflows or does not lie inside the VMO.
            NoMemoryError: the memory limit is reached; nothing changed.
        """
        return without_waiting(self.pin_steps(offset, length))

    def pin_steps(self, offset: int, length: int) -> Steps[Pin]:
        """Do what ``pin`` does, with rests: nothing that has memory is taken meanwhile."""
        held: list[Pin] = []
        try:
            for part in self._slices(offset, length):
                self.check_writable()
                self.node.own(part)
                held.append(self.pins.add(part))
                if part.end * PAGE_SIZE < offset + length:
                    yield None
            return self.pins.add(PageRange.of_bytes(offset, length))
        finally:
            for pin in held:
                pin.unpin()

    def _overwrite_with_zeros(self, start: int, end: int) -> None:
        """Zero bytes of pages that have memory; the others are zero anyway."""
        for part in self.node.committed(PageRange.of_bytes(start, end - start)):
            self.node.own(part)
            first, last = max(start, part.offset), min(end, part.end * PAGE_SIZE)
            content.wipe_committed(self._frames, self._runs, first, last)
            self.node.changed(part)

    def _changed_if_present(self, pages: PageRange) -> None:
        for part in self.node.committed(pages):
            self.node.changed(part)

    # Giving pages away

    def check_can_give(self, offset: int, length: int, xxh3: int | None = None, children: int | None = None) -> None:
        """Check everything that would keep ``take`` from taking a page-aligned range of bytes.

        Raises:
            NotSupportedError: contiguous or physical memory.
            OutOfRangeError: the range overflows or does not lie inside the VMO.
            AccessDeniedError: a snapshot that was made with NO_WRITE.
            BadStateError: there are children, or a page is pinned.
            IoDataIntegrityError: the bytes do not have the XXH3-64 sum ``xxh3``.

        Zircon: zx_pager_supply_pages, step 6.
        """
        self.check_writable()
        if self.kind is not AuxKind.PLAIN:
            raise NotSupportedError(f"pages of {self.kind.value} memory cannot be taken")
        if length == 0:
            return  # not even the end of the aux is looked at
        children = self.lineage.num_children if children is None else children
        size = self.size_pages * PAGE_SIZE
        if offset + length > UINT64_MAX or offset + length > size:
            raise OutOfRangeError(f"aux range {offset}+{length} does not lie inside the aux VMO of {size} bytes")
        if children:
            raise BadStateError(f"the aux has {children} children")
        if self.pinned:
            pinned = self.pinned.over(PageRange.of_bytes(offset, length))
            if pinned:
                raise BadStateError(f"aux pages {pinned[0]} are pinned")
        if xxh3 is not None:
            check_sum(self.node, offset, length, xxh3)

    def take(self, offset: int, length: int) -> list[Run]:
        """Remove the pages of a range and return them as runs; from now on it reads as zeros. Frames change hands.

        Raises:
            NoMemoryError: snapshots share pages of the range, and there is no memory for copies; nothing changed.
        """
        return self.node.take(PageRange.of_bytes(offset, length))

    def charge_to(self, account: Account | None) -> None:
        """Let its pages be another's from now on, whatever his limits. Not those that it shares."""
        self._runs.charge_to(account)

    def close(self) -> None:
        """Give up the handle. What no child needs is freed."""
        self.lineage.close()
        self.node.close(self)

    def freed(self) -> None:
        """End, for the family: the last reference is gone."""
        self.system.unregister(self)

    def statistics(self) -> AuxStatistics:
        """Return the present sizes."""
        return AuxStatistics(self._size_bytes, self.committed_pages)

    def check(self) -> None:
        """Assert that every page lies inside, and that pinned ones have frames."""
        self._runs.check()
        self.node.check()
        self.pins.check()
        for part in self.pinned:
            assert all(found.node is self.node for _, found in self.node.find_all(part)), part
        assert not self._runs.whole_over(PageRange(self.size_pages, MAX_VMO_BYTES // PAGE_SIZE))
