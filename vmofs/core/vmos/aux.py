"""Aux VMOs: ordinary anonymous memory in which page data is staged before it moves into a pager VMO.

Their calls never wait for anybody, so they return their result. What may have much to do is a generator of steps all
the same, which rests now and then; a slice of it changes all of its pages or, without memory, none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from vmofs.core.pages import content
from vmofs.core.pages.account import Account
from vmofs.core.pages.content import Bytes
from vmofs.core.pages.pins import Pin
from vmofs.core.pages.runs import Run
from vmofs.core.requests.access import Steps, at_once
from vmofs.core.requests.system import System
from vmofs.core.vmos.checksum import check_sum
from vmofs.core.vmos.vmo import View, Vmo
from vmofs.core.vmos.vmo_pages import VmoPages
from vmofs.status import AccessDeniedError, BadStateError, NotSupportedError, OutOfRangeError, UnavailableError
from vmofs.units import MAX_VMO_BYTES, PAGE_SIZE, PageRange, page_count
from vmofs.vocabulary import AuxKind

if TYPE_CHECKING:
    from vmofs.core.vmos.cow_pages import Viewer


@dataclass(frozen=True, slots=True)
class AuxStatistics:
    """Sizes of one aux VMO."""

    size_bytes: int
    committed_pages: int


class AuxPages(VmoPages):
    """The pages of an aux, or of a snapshot of one: absent ones read as zeros and occupy nothing."""

    __slots__ = ("kind",)

    CALLED = "aux VMO"

    kind: AuxKind

    def __init__(
        self, system: System, owner: Viewer, size_bytes: int, kind: AuxKind, *, resizable: bool, account: Account | None
    ) -> None:
        super().__init__(system, owner, size_bytes, resizable=resizable, account=account)
        self.kind = kind

    def check_size(self, size_bytes: int) -> None:
        """Check that the size may become that, apart from pins.

        Raises:
            UnavailableError: not resizable.
            OutOfRangeError: larger than the largest VMO.
        """
        if not self.resizable:
            raise UnavailableError(f"the size {self.stream_size} of this aux is fixed, {size_bytes} was asked for")
        if size_bytes > MAX_VMO_BYTES:
            raise OutOfRangeError(f"size {size_bytes} is above the largest VMO, {MAX_VMO_BYTES}")

    def check_new_size(self, size: int) -> None:
        """Check that the size may become that.

        Raises:
            VmoError: as ``check_size``.
            BadStateError: pinned pages would be cut off.
        """
        self.check_size(size)
        first = page_count(size)
        if self.pinned.over(PageRange(first, self.size_pages)):
            raise BadStateError(f"pinned pages lie beyond the new size {first} in pages")

    def resize(self, size: int) -> None:
        """Change the size at once. What a shorter content leaves in its last page must not show up when it grows.

        Raises:
            NoMemoryError: that page is shared, and there is no memory for a copy; nothing changed.
        """
        if size < self.stream_size:
            self.zero_tail(size)
        super().resize(size)

    def tail_after(self, _size: int) -> int:
        """Return that no tail is left to be zeroed."""
        return 0

    def zero_tail(self, size_bytes: int) -> None:
        """Zero the rest of the last page of a content of this size, if that page has memory.

        Raises:
            NoMemoryError: the page is shared, and there is no memory for a copy.
        """
        end = size_bytes + -size_bytes % PAGE_SIZE
        for page in self.committed(PageRange.of_bytes(size_bytes, end - size_bytes)):
            self.own(page)
            content.wipe_committed(self.frames, self.runs, size_bytes, end)
            self.changed(page)

    def in_turns(self, offset: int, length: int, do: Callable[[PageRange], object]) -> Steps[None]:
        """Do something to the pages of a range, to one empty range if it is empty, in slices, with rests.

        A slice is done in one go: without memory, nothing of it. If the range is cut off in a rest, that is an error.
        """
        position, end = PageRange.of_bytes(offset, length)
        while True:
            self.check_inside(offset, length)
            part = PageRange(position, self.reach(position, end))
            do(part)
            position = part.end
            if position >= end:
                break
            yield None

    def commit_some(self, pages: PageRange) -> PageRange:
        """Give all pages of a slice frames."""
        self.own(pages)
        return pages

    def zero_whole(self, pages: PageRange) -> None:
        """Make whole pages zeros for good; special memory keeps its frames, as pinned pages do."""
        if self.kind is AuxKind.PLAIN:
            super().zero_whole(pages)
            return
        for part in self.committed(pages):
            self.wipe(part)

    def check_unpinned(self, offset: int, length: int) -> None:
        """Check that no page of a range of bytes is pinned.

        Raises:
            BadStateError: one is.
        """
        pinned = self.pinned.over(PageRange.of_bytes(offset, length))
        if pinned:
            raise BadStateError(f"aux pages {pinned[0]} are pinned")


class AnonymousVmo(Vmo):
    """The calls of an aux and its children: anonymous memory, which never waits for anybody."""

    __slots__ = ()

    node: AuxPages

    @property
    def of(self) -> AuxVmo:
        """The VMO whose pages these are; this itself, if it is no view."""
        return cast("AuxVmo", self.node.owner)

    @property
    def kind(self) -> AuxKind:
        """How the memory came to be."""
        return self.node.kind

    @property
    def size_bytes(self) -> int:
        """The size in bytes, not rounded."""
        return self.node.stream_size if self.slice_size is None else self.slice_size

    def read_nowait(self, offset: int, length: int) -> Bytes:
        """Return the bytes ``[offset, offset+length)``, fewer at the end. Valid until the next call on any object."""
        node = self.node
        end = min(offset + length, node.stream_size if self.slice_size is None else self.slice_size)
        if end <= offset:
            return b""
        data = node.read_present(self.start + offset, self.start + end)
        assert data is not None
        return data

    def write_nowait(self, offset: int, data: Bytes) -> int:
        """Write bytes, growing the content if they end beyond it; return their number.

        Raises:
            AccessDeniedError: made with NO_WRITE.
            OutOfRangeError: they would end beyond the largest VMO.
            UnavailableError: they end beyond a slice, or an aux that is not resizable.
            NoMemoryError: the memory limit is reached; nothing changed.
        """
        if self.no_write:
            self.check_writable()
        length = len(data)
        if not length:
            return 0  # as in Unix, writing nothing beyond the end does not extend
        if self.slice_size is not None and offset + length > self.slice_size:
            raise UnavailableError(f"the size {self.slice_size} of this slice is fixed")
        node = self.node
        offset += self.start
        end = offset + length
        if end > node.stream_size:
            node.check_size(end)
        pages = PageRange.of_bytes(offset, length)
        node.own(pages, filled=True)
        content.write_committed(node.frames, node.runs, offset, data)
        node.changed(pages, self)
        if end > node.stream_size:
            node.stream_size, node.size_pages = end, page_count(end)
        return length

    set_size = at_once(Vmo.set_size_steps)

    # zx_vmo_op_range

    commit = at_once(Vmo.commit_steps)

    op_zero = at_once(Vmo.op_zero_steps)

    def decommit_steps(self, offset: int, length: int) -> Steps[None]:
        """Free the memory of a range of bytes (rounded outward to pages), which then reads as zeros.

        Raises:
            AccessDeniedError: made with NO_WRITE.
            OutOfRangeError: the range overflows or does not lie inside the VMO.
            NotSupportedError: contiguous or physical memory, or there are snapshots.
            BadStateError: a page is pinned.

        Zircon: ZX_VMO_OP_DECOMMIT.
        """
        node = self.node

        def free(part: PageRange) -> None:
            if node.parent is not None:
                raise NotSupportedError("memory that snapshots share cannot be decommitted")
            if node.kind is not AuxKind.PLAIN:
                raise NotSupportedError(f"{node.kind.value} memory cannot be decommitted")
            node.check_unpinned(self.start + offset, length)
            node.zero_whole(part)

        return self._writing(offset, length, node.in_turns(self.start + offset, length, free))

    decommit = at_once(decommit_steps)

    def prefetch_steps(self, offset: int, length: int) -> Steps[None]:
        """Do nothing: no page is ever absent. Zircon: ZX_VMO_OP_PREFETCH.

        Raises:
            OutOfRangeError: the range overflows or does not lie inside the VMO.
        """
        self.check_inside(offset, length)
        yield from ()

    prefetch = at_once(prefetch_steps)

    def always_need_steps(self, _offset: int, _length: int) -> Steps[None]:
        """Do nothing: here the hints are always good, not even their range is looked at. Zircon: ALWAYS_NEED."""
        yield from ()

    dont_need_steps = always_need_steps

    def pin_steps(self, offset: int, length: int) -> Steps[Pin]:
        """Commit the pages of a range of bytes (rounded outward) and keep them until ``unpin``.

        Raises:
            OutOfRangeError: the range overflows or does not lie inside the VMO.
            AccessDeniedError: the VMO itself was made with NO_WRITE.
            NoMemoryError: the memory limit is reached; nothing changed.
        """
        node, held = self.node, list[Pin]()

        def keep(part: PageRange) -> None:
            node.own(part)
            held.append(node.pins.add(part))

        self.check_inside(offset, length)
        self.of.check_writable()
        offset += self.start
        try:
            yield from node.in_turns(offset, length, keep)
            return node.pins.add(PageRange.of_bytes(offset, length))
        finally:
            for pin in held:
                pin.unpin()

    pin = at_once(pin_steps)

    # Giving pages away

    def check_can_give(self, offset: int, length: int, xxh3: int | None = None) -> None:
        """Check everything that would keep ``take`` from taking a page-aligned range of bytes.

        Raises:
            AccessDeniedError: made with NO_WRITE.
            NotSupportedError: contiguous or physical memory.
            OutOfRangeError: the range overflows or does not lie inside the VMO.
            BadStateError: there are children, or a page is pinned.
            IoDataIntegrityError: the bytes do not have the XXH3-64 sum ``xxh3``.

        Zircon: zx_pager_supply_pages, step 6.
        """
        if self.no_write:
            self.check_writable()
        node = self.node
        if node.kind is not AuxKind.PLAIN:
            raise NotSupportedError(f"pages of {node.kind.value} memory cannot be taken")
        if length == 0:
            return  # not even the end of the aux is looked at
        if offset + length > (size := self.size_pages * PAGE_SIZE):
            if self is not self.of:
                self.check_inside(offset, length)
            raise OutOfRangeError(f"aux range {offset}+{length} does not lie inside the aux VMO of {size} bytes")
        if self.lineage.children:
            raise BadStateError(f"the aux has {self.lineage.num_children} children")
        if node.pinned:
            node.check_unpinned(self.start + offset, length)
        if xxh3 is not None:
            check_sum(node, self.start + offset, length, xxh3)

    def take(self, offset: int, length: int) -> list[Run]:
        """Remove the pages of a range and return them as runs; from now on it reads as zeros. Frames change hands.

        Their numbers are those of the range.

        Raises:
            NoMemoryError: snapshots share pages of the range, and there is no memory for copies; nothing changed.
        """
        taken = self.node.take(PageRange.of_bytes(self.start + offset, length))
        return [run.moved(-(self.start // PAGE_SIZE)) for run in taken] if self.start else taken

    def statistics(self) -> AuxStatistics:
        """Return the present sizes."""
        return AuxStatistics(self.size_bytes, self.committed_pages)


class AuxVmo(AnonymousVmo):
    """An aux, or a snapshot of one. Zircon: zx_vmo_create.

    ``size_bytes`` is exact; the VMO is that, rounded up to pages. Pages that a snapshot shares are committed in all who
    see them.
    """

    __slots__ = ("no_write",)

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
        self.no_write = no_write
        super().__init__(AuxPages(system, self, size_bytes, kind, resizable=resizable, account=account))

    def check_writable(self) -> None:
        """Check that this may be written to: only a snapshot may not."""
        if self.no_write:
            raise AccessDeniedError("the snapshot was made with NO_WRITE")

    def check_resizable(self) -> None:
        """Check nothing: what was made with NO_WRITE has a fixed size, and that is what is said."""

    def check_write(self, offset: int, length: int) -> None:
        """Check that a byte range may be written to: here, and only here, the range comes first."""
        self.check_inside(offset, length)
        self.check_writable()


class AuxView(View, AnonymousVmo):
    """A slice of, or a reference to, an aux VMO. Has the calls of that."""

    __slots__ = ()
