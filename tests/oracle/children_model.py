"""A naive model of copy-on-write children: what zircon-pager 2.12 and 5.3 say, page by page, without hidden nodes.

What a snapshot freezes is copied when it is made. A clone is a dict of the pages that are its own, and a window on its
parent. Waiting for the root's pager is ``tests.oracle.model``'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.oracle.model import OK, WRITE_BATCH, ZEROS, ModelAccess, ModelNeed, ModelVmo
from vmofs.core.pages.states import PageState
from vmofs.status import Status, VmoError
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import ChildKind, PacketCommand


@dataclass(eq=False)
class ModelClone:
    """A clone of a pager VMO.

    ``own``: its pages; ``blank``: pages that were zeroed, and hide the parent below the limit; ``group``: those that
    froze pages of each other; ``users``: open handles and views.
    """

    root: ModelVmo
    size: int
    parent: ModelVmo | ModelClone
    offset: int
    limit: int
    own: dict[int, bytes] = field(default_factory=dict)
    blank: set[int] = field(default_factory=set)
    group: set[ModelClone] = field(default_factory=set)
    users: int = 1
    resizable: bool = False
    no_write: bool = False

    def look(self, page: int) -> bytes | int:
        """Return the bytes of a page, or the page of the root that is absent."""
        if page in self.own:
            return self.own[page]
        if page in self.blank or page >= self.limit:
            return ZEROS
        return look(self.parent, page + self.offset)

    def data(self, page: int) -> bytes:
        """Return the bytes of a page that is not absent."""
        found = self.look(page)
        assert isinstance(found, bytes)
        return found

    def absent_run(self, page: int, end: int) -> list[int]:
        """Return the pages of the root that are absent from ``page`` on, below ``end``, without interruption."""
        run = []
        while page < end and isinstance(found := self.look(page), int):
            run.append(found)
            page += 1
        return run

    def shows_own(self, pages: range) -> bool:
        """Return whether any page shows something else than the parent's page, or the zeros beyond the limit."""
        return any(page in self.own or (page in self.blank and page < self.limit) for page in pages)

    def zero(self, pages: range) -> None:
        """Make whole pages zero."""
        for page in pages:
            self.own.pop(page, None)
            self.blank.add(page)

    def check_inside(self, offset: int, length: int) -> None:
        """Fail with OUT_OF_RANGE unless the bytes lie inside."""
        if offset + length > self.size * PAGE_SIZE:
            raise VmoError.of(Status.OUT_OF_RANGE, "")

    def check_writable(self) -> None:
        """Fail with ACCESS_DENIED if made with NO_WRITE."""
        if self.no_write:
            raise VmoError.of(Status.ACCESS_DENIED, "")


def look(vmo: ModelVmo | ModelClone, page: int) -> bytes | int:
    """Return the bytes of a page of any VMO, or the page of the root that is absent."""
    if isinstance(vmo, ModelClone):
        return vmo.look(page)
    return page if vmo.state(page) is PageState.GAP else vmo.data(page)


class ModelFamily:
    """All clones of one root, those that are closed but seen through included."""

    def __init__(self, root: ModelVmo) -> None:
        self.root = root
        self.clones: list[ModelClone] = []

    def clone(
        self, parent: ModelVmo | ModelClone, kind: ChildKind, offset: int, size: int, *, slice_: bool, frozen: bool
    ) -> ModelClone:
        """Make a clone of pages ``[offset, offset+size)``; fail as 2.12 says.

        ``frozen``: what the parent shows may not change for its child, also if nobody else shares it.
        """
        of_clone = isinstance(parent, ModelClone)
        frozen |= isinstance(parent, ModelClone) and len(parent.group) > 1
        two_way = (kind is ChildKind.SNAPSHOT_MODIFIED and of_clone) or frozen
        if kind is ChildKind.SNAPSHOT or (two_way and slice_):
            raise VmoError.of(Status.NOT_SUPPORTED, "")
        limit = max(0, min(size, parent.size - offset))
        if not two_way:
            above = parent
            while isinstance(above, ModelClone) and not above.shows_own(range(offset, offset + limit)):
                limit = max(0, min(limit, above.limit - offset))
                offset += above.offset
                above = above.parent
            made = ModelClone(self.root, size, above, offset, limit)
        else:
            assert isinstance(parent, ModelClone)
            if any(other.parent is parent for other in self.clones) or isinstance(parent.parent, ModelClone):
                raise VmoError.of(Status.NOT_SUPPORTED, "")
            seen = max(0, min(limit, parent.limit - offset))
            own = {page - offset: data for page, data in parent.own.items() if offset <= page < offset + limit}
            blank = {page - offset for page in parent.blank if offset <= page < offset + limit}
            made = ModelClone(self.root, size, parent.parent, offset + parent.offset, seen, own, blank)
            made.group = parent.group
        made.group.add(made)
        self.clones.append(made)
        return made

    def cut_root(self, size: int) -> None:
        """Shrink the root: what is cut is zero in clones for ever."""
        self._cut_below(self.root, size)

    def _cut_below(self, vmo: ModelVmo | ModelClone, size: int) -> None:
        for clone in self.clones:
            if clone.parent is vmo:
                clone.limit = min(clone.limit, max(0, size - clone.offset))

    def resize(self, clone: ModelClone, size: int) -> None:
        """Set the size of a clone in pages."""
        clone.check_writable()
        if not clone.resizable:
            raise VmoError.of(Status.UNAVAILABLE, "")
        clone.own = {page: data for page, data in clone.own.items() if page < size}
        clone.blank = {page for page in clone.blank if page < size}
        clone.limit = min(clone.limit, size)
        clone.size = size
        self._cut_below(clone, size)

    def close(self, clone: ModelClone) -> None:
        """Drop a handle or a view; forget clones that nobody needs."""
        clone.users -= 1
        gone: ModelVmo | ModelClone = clone
        while isinstance(gone, ModelClone) and not gone.users and not any(c.parent is gone for c in self.clones):
            self.clones.remove(gone)
            gone.group.discard(gone)
            gone = gone.parent


class ModelCloneRead(ModelAccess):
    """vmo_read of a clone; waits at the root."""

    def __init__(self, clone: ModelClone, offset: int, length: int) -> None:
        super().__init__(clone.root, offset, length)
        self.clone = clone
        self.bytes = b""

    def go_on(self) -> ModelNeed | None:
        """Take what is there; ask the root for the rest, up to the next page that is not its business."""
        self.clone.check_inside(self.offset, self.length)
        while self.position < self.end:
            page = self.position // PAGE_SIZE
            absent = self.clone.absent_run(page, -(-self.end // PAGE_SIZE))
            if absent:
                self.vmo.check_attached()
                return ModelNeed(PacketCommand.READ, absent, wanted=absent[0])
            stop = min(self.end, (page + 1) * PAGE_SIZE)
            self.bytes += self.clone.data(page)[self.position - page * PAGE_SIZE : stop - page * PAGE_SIZE]
            self.position = stop
        self.outcome = self.bytes
        return None


class ModelCloneWrite(ModelAccess):
    """vmo_write to a clone: READ, then fork."""

    def __init__(self, clone: ModelClone, offset: int, data: bytes) -> None:
        super().__init__(clone.root, offset, len(data))
        self.clone = clone
        self.bytes = data
        self.batch_end = 0

    def go_on(self) -> ModelNeed | None:
        """Write batch by batch."""
        self.clone.check_writable()
        self.clone.check_inside(self.offset, self.length)
        while self.position < self.end:
            page = self.position // PAGE_SIZE
            if page >= self.batch_end:
                self.batch_end = page + WRITE_BATCH
            absent = self.clone.absent_run(page, min(self.batch_end, -(-self.end // PAGE_SIZE)))
            if absent:
                self.vmo.check_attached()
                return ModelNeed(PacketCommand.READ, absent)
            stop = min(self.end, (page + 1) * PAGE_SIZE)
            new = bytearray(self.clone.data(page))
            new[self.position - page * PAGE_SIZE : stop - page * PAGE_SIZE] = self.bytes[
                self.position - self.offset : stop - self.offset
            ]
            self.clone.own[page] = bytes(new)
            self.position = stop
        self.outcome = self.length
        return None


class ModelCloneCommit(ModelAccess):
    """COMMIT of a clone: READ, then fork all. PREFETCH (2.11) is the same without the fork.

    What is cut off meanwhile does not matter.
    """

    def __init__(self, clone: ModelClone, offset: int, length: int, *, forks: bool) -> None:
        super().__init__(clone.root, offset, length)
        self.clone = clone
        self.forks = forks
        self.started = False

    def go_on(self) -> ModelNeed | None:
        """Go page by page."""
        if not self.started:
            if self.forks:
                self.clone.check_writable()
            self.clone.check_inside(self.offset, self.length)
        self.started = True
        while self.position < min(self.end, self.clone.size * PAGE_SIZE):
            page = self.position // PAGE_SIZE
            absent = self.clone.absent_run(page, min(-(-self.end // PAGE_SIZE), self.clone.size))
            if absent:
                self.vmo.check_attached()
                return ModelNeed(PacketCommand.READ, absent)
            if self.forks:
                self.clone.own[page] = self.clone.data(page)
            self.position = (page + 1) * PAGE_SIZE
        self.outcome = OK
        return None
