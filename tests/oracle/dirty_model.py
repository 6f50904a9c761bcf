"""The naive model of dirty tracking, sizes, ZERO, COMMIT, hints and pins: what sections 2.5 to 2.11 and 4 add.

Page by page, as ``model``. The one thing that is no property of a page is how much of a zero interval awaits being
cleaned; ``DirtyPages`` keeps it by the interval's start and moves it as 4.6 says when a page joins or leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.oracle.model import (
    OK,
    REAL,
    ZEROS,
    Model,
    ModelAccess,
    ModelAux,
    ModelNeed,
    ModelPage,
    ModelPager,
    ModelVmo,
    ModelWrite,
    runs,
)
from vmofs.core.pages.states import PageState
from vmofs.status import Status, VmoError
from vmofs.units import MAX_VMO_BYTES, PAGE_SIZE
from vmofs.vocabulary import PacketCommand

UNBOUNDED_PAGES = 40
"""Pages of an unbounded VMO that the model knows one by one; tests stay below."""

ZERO_PAGES = (PageState.ZERO, PageState.ZERO_AWAITING, PageState.UNTRACKED)
READ_AS_ZERO = (*ZERO_PAGES, PageState.MARKER)


class DirtyPages(dict[int, ModelPage]):
    """Pages, and how many await being cleaned in each zero interval: its first page -> that number."""

    def __init__(self) -> None:
        super().__init__()
        self.awaiting: dict[int, int] = {}

    def __setitem__(self, page: int, new: ModelPage) -> None:
        was_zero, is_zero = self.is_zero(page), new.state is PageState.ZERO
        if was_zero and not is_zero:
            self._leave(page)
        super().__setitem__(page, new)
        if is_zero and not was_zero:
            self.awaiting.pop(page + 1, None)  # what stood to the right starts no interval any more

    def __delitem__(self, page: int) -> None:
        if self.is_zero(page):
            self._leave(page)
        super().__delitem__(page)

    def _leave(self, page: int) -> None:
        left = self.awaiting.pop(page, 0)
        if left > 1 and self.is_zero(page + 1):
            self.awaiting[page + 1] = left - 1

    def is_zero(self, page: int) -> bool:
        """Return whether the page is part of a dirty zero interval."""
        return page in self and self[page].state is PageState.ZERO

    def start(self, page: int) -> int:
        """Return the first page of the interval that the page is part of."""
        while self.is_zero(page - 1):
            page -= 1
        return page

    def awaits(self, page: int) -> bool:
        """Return whether a page of an interval awaits being cleaned."""
        start = self.start(page)
        return page < start + self.awaiting.get(start, 0)


@dataclass(eq=False)
class DirtyVmo(ModelVmo):
    """A VMO whose zeros are all written down."""

    resizable: bool = False
    size_pages: int = 0
    always_needed: set[int] = field(default_factory=set)
    pins: list[list[int]] = field(default_factory=list)
    known: DirtyPages = field(default_factory=DirtyPages)

    def __post_init__(self) -> None:
        self.pages = self.known
        pages = -(-self.stream_size // PAGE_SIZE)
        self.size_pages = MAX_VMO_BYTES // PAGE_SIZE if self.unbounded else pages
        for page in range(pages, UNBOUNDED_PAGES) if self.unbounded else ():
            self.pages[page] = ModelPage(PageState.UNTRACKED)

    @property
    def size(self) -> int:
        """The size in pages."""
        return self.size_pages

    @property
    def end(self) -> int:
        """The first page that is not known one by one."""
        return min(self.size_pages, UNBOUNDED_PAGES)

    def state(self, page: int) -> PageState:
        """Return the state of a page."""
        if page not in self.pages:
            return PageState.GAP
        state = self.pages[page].state
        return PageState.ZERO_AWAITING if state is PageState.ZERO and self.known.awaits(page) else state

    def check_size(self, size: int) -> None:
        """Fail with OUT_OF_RANGE if so many bytes are more than the VMO has."""
        if size > self.size_pages * PAGE_SIZE:
            raise VmoError.of(Status.OUT_OF_RANGE, "")


def touched(offset: int, length: int) -> list[int]:
    """Return the pages of bytes, rounded outward."""
    return list(range(offset // PAGE_SIZE, -(-(offset + length) // PAGE_SIZE))) if length else []


class DirtyModel(Model):
    """The model with the calls that change what is dirty."""

    def start(self, access: ModelAccess, now: float) -> None:
        """Run an access; some of them do not mind that what they asked for failed."""
        waiter = access.waiter
        if waiter is not None and waiter.latched is not None and isinstance(access, DirtyAccess) and access.forgives():
            waiter.latched = None
        super().start(access, now)

    # What a pager says: 2.5 and 2.6

    def op_dirty(self, vmo: DirtyVmo, offset: int, length: int, data: int) -> None:
        """Make all pages dirty or none."""
        if data:
            raise VmoError.of(Status.INVALID_ARGS, "")
        if not vmo.trap_dirty:
            raise VmoError.of(Status.NOT_SUPPORTED, "")
        pages = touched(offset, length)
        if offset + length > vmo.size * PAGE_SIZE:
            self.resolve(vmo, PacketCommand.DIRTY, [page for page in pages if page < vmo.size])
            raise VmoError.of(Status.OUT_OF_RANGE, "")
        vmo.check_attached()
        if all(vmo.state(page) is not PageState.GAP for page in pages):
            for page in pages:
                vmo.pages[page] = ModelPage(PageState.DIRTY, vmo.data(page))
            self.resolve(vmo, PacketCommand.DIRTY, pages)
        else:
            self.resolve(vmo, PacketCommand.DIRTY, pages)
            raise VmoError.of(Status.NOT_FOUND, "")

    def begin(self, vmo: DirtyVmo, offset: int, length: int, data: int) -> None:
        """Let dirty pages, and the front of intervals whose start is covered, await being cleaned (4.5, 4.6)."""
        if data not in {0, 1}:
            raise VmoError.of(Status.INVALID_ARGS, "")
        vmo.check_inside(offset, length)
        pages = touched(offset, length)
        for page in pages:
            if vmo.state(page) is PageState.DIRTY and not data and page not in vmo.pinned:
                vmo.pages[page] = ModelPage(PageState.AWAITING, vmo.data(page))
        for page in pages:
            if vmo.known.is_zero(page) and vmo.known.start(page) in pages:
                start = vmo.known.start(page)
                vmo.known.awaiting[start] = max(vmo.known.awaiting.get(start, 0), page - start + 1)

    def end_writeback(self, vmo: DirtyVmo, offset: int, length: int, data: int) -> None:
        """Make awaiting pages clean, and the awaiting front of intervals gaps."""
        if data:
            raise VmoError.of(Status.INVALID_ARGS, "")
        vmo.check_inside(offset, length)
        pages = touched(offset, length)
        reach, cleaned = 0, []
        for page in pages:
            if vmo.state(page) is PageState.AWAITING:
                vmo.pages[page] = ModelPage(PageState.CLEAN, vmo.data(page))
            elif vmo.known.is_zero(page) and vmo.known.start(page) in pages:
                if vmo.known.start(page) == page:
                    reach = max(reach, page + vmo.known.awaiting.get(page, 0))
                if page < reach:
                    cleaned.append(page)
        for page in cleaned:
            del vmo.pages[page]

    def dirty_ranges(self, vmo: DirtyVmo, offset: int, length: int) -> list[tuple[int, int, bool]]:
        """Return (first page, pages, is zero) (4.4)."""
        vmo.check_inside(offset, length)
        records: list[tuple[int, int, bool]] = []
        for page in touched(offset, length):
            if vmo.state(page) in {PageState.GAP, PageState.CLEAN, PageState.MARKER, PageState.UNTRACKED}:
                continue
            is_zero = vmo.known.is_zero(page)
            if records and sum(records[-1][:2]) == page and records[-1][2] is is_zero:
                records[-1] = (records[-1][0], records[-1][1] + 1, is_zero)
            else:
                records.append((page, 1, is_zero))
        return records

    # What several calls share

    def supply(
        self, pager: ModelPager, vmo: ModelVmo, offset: int, length: int, aux: ModelAux | ModelVmo, aux_offset: int
    ) -> list[int]:
        """Supply; pages wholly beyond the stream size keep what was supplied."""
        given = list(aux.pages[aux_offset // PAGE_SIZE :]) if isinstance(aux, ModelAux) else []
        filled = super().supply(pager, vmo, offset, length, aux, aux_offset)
        for page in filled:
            data = given[page - offset // PAGE_SIZE]
            if data is not None and page * PAGE_SIZE >= vmo.stream_size:
                vmo.pages[page].data = data
        return filled

    def evict(self, pager: ModelPager, vmo: ModelVmo, offset: int, length: int) -> list[int]:
        """Drop clean pages that are neither pinned nor always needed."""
        assert isinstance(vmo, DirtyVmo)
        pinned = vmo.pinned
        vmo.pinned = pinned | vmo.always_needed
        try:
            return super().evict(pager, vmo, offset, length)
        finally:
            vmo.pinned = pinned

    def clear(self, vmo: DirtyVmo, pages: Iterable[int], state: PageState, keep: tuple[PageState, ...] = ()) -> None:
        """Make pages zeros, except those in the states ``keep``; readers of the gaps are served, pinned pages stay."""
        todo = list(pages)
        gaps = [page for page in todo if vmo.state(page) is PageState.GAP]
        for page in todo:
            if page in vmo.pinned:
                vmo.pages[page] = ModelPage(PageState.DIRTY)
                self.resolve(vmo, PacketCommand.DIRTY, [page])
            elif vmo.state(page) not in keep:
                vmo.pages[page] = ModelPage(state)
        for gap in runs(gaps):
            self.resolve(vmo, PacketCommand.READ, gap)

    def cut(self, vmo: DirtyVmo, pages: int) -> None:
        """Shrink; what is absent there, or not dirty, counts as resolved (3.8)."""
        beyond = list(range(pages, vmo.size_pages))
        absent = [page for page in beyond if vmo.state(page) is PageState.GAP]
        undecided = [page for page in beyond if vmo.state(page) is not PageState.DIRTY]
        for page in sorted(set(beyond) - set(absent)):
            del vmo.pages[page]
        vmo.always_needed -= set(beyond)
        vmo.size_pages = pages
        for gap in runs(absent):
            self.resolve(vmo, PacketCommand.READ, gap)
        for run in runs(undecided):
            self.resolve(vmo, PacketCommand.DIRTY, run)


class DirtyAccess(ModelAccess):
    """A call on a ``DirtyVmo`` that changes the model."""

    def __init__(self, model: DirtyModel, vmo: DirtyVmo, offset: int, length: int) -> None:
        super().__init__(vmo, offset, length)
        self.model = model
        self.own = vmo
        self.write: ModelWrite | None = None
        self.page = offset // PAGE_SIZE

    def forgives(self) -> bool:
        """Go on after what was asked for failed, if this call does that."""
        return False

    def zero_part(self, start: int, end: int) -> None:
        """Write zeros to a part of a page, or to pinned pages, unless it is a page that reads as zero."""
        if self.own.state(start // PAGE_SIZE) not in READ_AS_ZERO:
            self.write = ModelWrite(self.own, start, bytes(end - start))

    def go_on_writing(self) -> ModelNeed | None:
        """Go on with the write of zeros that is in progress."""
        need = self.write.go_on() if self.write is not None else None
        if need is None:
            self.write = None
        return need


class ModelZero(DirtyAccess):
    """ZERO (4.8): the part at the start, the part at the end, and then the pages between."""

    def __init__(self, model: DirtyModel, vmo: DirtyVmo, offset: int, length: int) -> None:
        super().__init__(model, vmo, offset, length)
        self.step = 0
        self.last = self.end // PAGE_SIZE
        self.page = -(-offset // PAGE_SIZE)

    def go_on(self) -> ModelNeed | None:
        """Finish a part, check, go to the next."""
        while True:
            need = self.go_on_writing()
            if need is not None:
                return need
            self.own.check_inside(self.offset, self.length)
            self.step += 1
            if self.step == 1:
                if self.offset % PAGE_SIZE and self.length:
                    self.zero_part(self.offset, min(self.end, self.page * PAGE_SIZE))
            elif self.step == 2:
                if self.end % PAGE_SIZE and self.end > self.page * PAGE_SIZE:
                    self.zero_part(self.last * PAGE_SIZE, self.end)
            elif self.page >= self.last:
                self.outcome = OK
                return None
            else:
                self._whole_pages()

    def _whole_pages(self) -> None:
        pages = range(self.page, self.last)
        pinned = runs([page for page in pages if page in self.own.pinned])
        if pinned and pinned[0][0] == self.page:
            part = pinned[0][:16]
            self.write = ModelWrite(self.own, self.page * PAGE_SIZE, ZEROS * len(part))
        else:
            part = list(range(self.page, pinned[0][0] if pinned else self.last))
            self.model.clear(self.own, part, PageState.ZERO, READ_AS_ZERO)
            self.own.modified = True
        self.page = part[-1] + 1


class ModelSetSize(DirtyAccess):
    """zx_vmo_set_size (2.10)."""

    def __init__(self, model: DirtyModel, vmo: DirtyVmo, size: int) -> None:
        super().__init__(model, vmo, size, 0)
        self.set = False

    def forgives(self) -> bool:
        """Forget the tail."""
        self.write = None
        return True

    def go_on(self) -> ModelNeed | None:
        """Resize, then zero the tail as far as possible."""
        if not self.set:
            self._resize()
        try:
            need = self.go_on_writing()
        except VmoError:
            need = None
        if need is None:
            self.outcome = OK
        return need

    def _resize(self) -> None:
        vmo, size = self.own, self.offset
        if not vmo.resizable:
            raise VmoError.of(Status.UNAVAILABLE, "")
        pages = -(-size // PAGE_SIZE)
        if any(page >= pages for page in vmo.pinned):
            raise VmoError.of(Status.BAD_STATE, "")
        self.set = vmo.modified = True
        old = vmo.size_pages
        self.model.cut(vmo, pages)
        vmo.size_pages, vmo.stream_size = pages, size
        tracked = [page for page in range(min(old, pages)) if vmo.state(page) is PageState.UNTRACKED]
        for page in (*tracked, *range(old, pages)):
            vmo.pages[page] = ModelPage(PageState.ZERO)
        if size % PAGE_SIZE:
            self.zero_part(size, pages * PAGE_SIZE)


class ModelSetStreamSize(DirtyAccess):
    """zx_vmo_set_stream_size (2.10, 4.3)."""

    def __init__(self, model: DirtyModel, vmo: DirtyVmo, size: int) -> None:
        super().__init__(model, vmo, size, 0)
        self.seen: int | None = None  # the stream size that the part at the boundary was zeroed for

    def go_on(self) -> ModelNeed | None:
        """Zero the part of a page at the boundary for as long as it moves; then move it."""
        vmo, size = self.own, self.offset
        while True:
            need = self.go_on_writing()
            if need is not None:
                return need
            vmo.check_size(size)
            low = min(size, vmo.stream_size)
            if vmo.stream_size != size and self.seen == vmo.stream_size:
                self._move(-(-low // PAGE_SIZE), -(-size // PAGE_SIZE))
            if vmo.stream_size == size:
                self.outcome = OK
                return None
            self.seen = vmo.stream_size
            if low % PAGE_SIZE:
                self.zero_part(low, -(-low // PAGE_SIZE) * PAGE_SIZE)

    def _move(self, first: int, last: int) -> None:
        vmo = self.own
        zero = (PageState.ZERO, PageState.ZERO_AWAITING)
        self.model.clear(vmo, range(first, last), PageState.ZERO, zero)
        self.model.clear(vmo, range(last, vmo.end), PageState.UNTRACKED, (PageState.UNTRACKED,))
        vmo.stream_size = self.offset
        vmo.modified = True


class ModelCommit(DirtyAccess):
    """COMMIT (2.11)."""

    def go_on(self) -> ModelNeed | None:
        """Check the range once, then go page by page."""
        if self.position >= 0:
            self.own.check_inside(self.offset, self.length)
            self.position = -1
        return self.pages(-(-self.end // PAGE_SIZE) if self.length else 0)

    def pages(self, end: int) -> ModelNeed | None:
        """Commit pages up to ``end``, or up to what the VMO still has."""
        vmo = self.own
        while self.page < min(end, vmo.size):
            need = self.prepare(self.page, min(end, vmo.size))
            if need is not None:
                return need
            self.page += 1
        self.outcome = OK
        return None

    def prepare(self, page: int, end: int) -> ModelNeed | None:
        """Give one page memory, or say what is lacking."""
        vmo, state = self.own, self.own.state(page)
        if state is PageState.GAP:
            vmo.check_attached()
            return ModelNeed(PacketCommand.READ, vmo.run(page, end, PageState.GAP))
        if state in ZERO_PAGES and vmo.trap_dirty:
            vmo.check_attached()
            return ModelNeed(PacketCommand.DIRTY, vmo.run(page, end, *ZERO_PAGES))
        if state in ZERO_PAGES:
            vmo.pages[page] = ModelPage(PageState.DIRTY)
        elif state is PageState.MARKER:
            vmo.pages[page] = ModelPage(PageState.CLEAN)
        return None


class ModelPrefetch(ModelCommit):
    """PREFETCH (2.11)."""

    def prepare(self, page: int, end: int) -> ModelNeed | None:
        """Ask for a gap."""
        if self.own.state(page) is not PageState.GAP:
            return None
        self.own.check_attached()
        return ModelNeed(PacketCommand.READ, self.own.run(page, end, PageState.GAP))


class ModelAlwaysNeed(ModelPrefetch):
    """ALWAYS_NEED (2.11, 5.2)."""

    asked_end = 0

    def go_on(self) -> ModelNeed | None:
        """Protect the range, then ask for it."""
        if self.position >= 0:
            self.own.check_inside(self.offset, self.length)
            self.own.always_needed |= set(touched(self.offset, self.length))
        return super().go_on()

    def forgives(self) -> bool:
        """Skip the gap that failed: all that was asked for."""
        self.page = self.asked_end
        return True

    def prepare(self, page: int, end: int) -> ModelNeed | None:
        """Ask for a gap, if there is anybody to ask."""
        try:
            need = super().prepare(page, end)
        except VmoError:
            return None
        if need is not None:
            self.asked_end = need.pages[-1] + 1
        return need


class ModelPin(ModelCommit):
    """A pin, which holds its pages once all are there at the same moment."""

    def __init__(self, model: DirtyModel, vmo: DirtyVmo, offset: int, length: int, *, write: bool) -> None:
        super().__init__(model, vmo, offset, length)
        self.writes = write

    def go_on(self) -> ModelNeed | None:
        """Go over the pages again until nothing is lacking."""
        vmo, wanted = self.own, touched(self.offset, self.length)
        ready = (PageState.DIRTY,) if self.writes else REAL
        while True:
            if self.position < 0:
                need = self.pages(-(-self.end // PAGE_SIZE))
                self.outcome = None
                if need is not None:
                    return need
            vmo.check_inside(self.offset, self.length)
            if all(vmo.state(page) in ready for page in wanted):
                vmo.pins.append(wanted)
                vmo.pinned |= set(wanted)
                vmo.modified |= self.writes and bool(wanted)
                self.outcome = OK
                return None
            self.position = -1
            self.page = self.offset // PAGE_SIZE

    def prepare(self, page: int, end: int) -> ModelNeed | None:
        """Commit a page; for writing, make it dirty."""
        vmo, state = self.own, self.own.state(page)
        if not self.writes or state is PageState.GAP:
            return super().prepare(page, end)
        if state is PageState.DIRTY:
            return None
        if vmo.trap_dirty:
            vmo.check_attached()
            present = [other for other in PageState if other not in {PageState.GAP, PageState.DIRTY}]
            return ModelNeed(PacketCommand.DIRTY, vmo.run(page, end, *present))
        vmo.pages[page] = ModelPage(PageState.DIRTY, vmo.data(page))
        return None
