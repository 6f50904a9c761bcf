"""Pagers: the calls by which a pager makes VMOs, answers their page requests and writes their pages back.

Each call checks in Zircon's order; the first check that fails decides the error. What can be checked before handles
are looked up stands in functions of its own, so that the edge can keep to the order too.
"""

from __future__ import annotations

from collections.abc import Callable, KeysView
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakSet

from vmofs.core.pages import content
from vmofs.core.pages.account import Account
from vmofs.core.pages.content import Bytes
from vmofs.core.pages.runs import Run, RunMap
from vmofs.core.pages.spans import SLICE
from vmofs.core.pages.states import PageEvent
from vmofs.core.requests.access import Access, Steps, at_once
from vmofs.core.requests.page_source import PageSource, Tally
from vmofs.core.requests.port import Port
from vmofs.core.requests.request import SIZE_PAGE, PageRequest, SourceState
from vmofs.core.requests.system import System
from vmofs.core.vmos import children, marks, writeback
from vmofs.core.vmos.aux import AnonymousVmo
from vmofs.core.vmos.cow_pages import CowPages
from vmofs.core.vmos.detach import detach_steps, fail_all_steps
from vmofs.core.vmos.keys import Keys
from vmofs.core.vmos.pager_pages import PagerPages, VmoOptions
from vmofs.core.vmos.taking import check_can_give, take_steps
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import (
    BadStateError,
    InvalidArgsError,
    NoMemoryError,
    NotFoundError,
    NotSupportedError,
    OutOfRangeError,
    Status,
)
from vmofs.units import MAX_VMO_BYTES, PAGE_SIZE, UINT64_MAX, Key, PageRange, is_page_aligned
from vmofs.vocabulary import DirtyRange, PacketCommand, PagerOp

if TYPE_CHECKING:
    from vmofs.core.requests.request import Reader

FAIL_CODES = frozenset(
    {Status.IO, Status.IO_DATA_INTEGRITY, Status.BAD_STATE, Status.NO_SPACE, Status.BUFFER_TOO_SMALL}
)
"""What a pager may fail a range with."""

DIRTY_RANGE_IS_ZERO = 1
"""The data of WRITEBACK_BEGIN that leaves committed pages alone. Zircon: ZX_VMO_DIRTY_RANGE_IS_ZERO."""

Vmo = children.Vmo
"""What a name in a command may stand for, where a VMO is asked for."""


_SHARED: dict[VmoOptions, VmoOptions] = {}


def check_page_aligned(**arguments: int) -> None:
    """Check that every argument is a whole number of pages.

    Raises:
        InvalidArgsError: one is not; the sentence says which.
    """
    for name, value in arguments.items():
        if not is_page_aligned(value):
            raise InvalidArgsError(f"{name} {value} is not page aligned")


@dataclass(frozen=True, slots=True)
class PagerStatistics:
    """Counters of one pager; ``*_total`` only grow, requests of closed VMOs included."""

    vmos: int
    requests_outstanding: int
    read_requests_total: int
    dirty_requests_total: int
    supply_calls_total: int
    pages_supplied_total: int
    pages_redundant_total: int
    fail_calls_total: int


class Pager:
    """Makes pager VMOs and answers for them. Zircon: zx_pager_create.

    ``when_freed`` is told of every VMO whose handle and children are gone, also after the pager was closed.
    """

    def __init__(self, system: System, when_freed: Callable[[PagerVmo], None] = lambda _vmo: None) -> None:
        self.owner: object = None  # the edge's: what it is called
        self._system = system
        self._when_freed = when_freed
        self._vmos: dict[PagerVmo, None] = {}
        self._freed_sources: WeakSet[PageSource] = WeakSet()  # of freed VMOs; one lives while a port has its packet
        self._closed = False
        self._totals: dict[str, int] = dict.fromkeys(
            ("supply_calls", "pages_supplied", "pages_redundant", "fail_calls"), 0
        )
        self._tally = Tally()
        self._keys: Keys | None = None  # for those who answer by key

    def create_vmo(
        self,
        port: Port,
        key: Key,
        size: int,
        options: VmoOptions = VmoOptions(),  # noqa: B008
        account: Account | None = None,
    ) -> PagerVmo:
        """Make a VMO of ``size`` bytes whose requests go to ``port``. All its pages are absent. ``account`` pays.

        Raises:
            BadStateError: the pager was closed.
            InvalidArgsError: RESIZABLE and UNBOUNDED together.
            OutOfRangeError: the size is above the largest VMO.

        Zircon: zx_pager_create_vmo.
        """
        if self._closed:
            raise BadStateError("the pager is closed")
        if options.resizable and options.unbounded:
            raise InvalidArgsError("a VMO cannot be both resizable and unbounded")
        if size > MAX_VMO_BYTES:
            raise OutOfRangeError(f"size {size} is above the largest VMO, {MAX_VMO_BYTES}")
        vmo = PagerVmo(
            self._system,
            PageSource(self._system, port, key, self._tally),
            size,
            _SHARED.setdefault(options, options),
            self,
            account,
        )
        self._vmos[vmo] = None
        if self._keys is not None:
            self._keys.add(vmo)
        return vmo

    def close_vmo(self, vmo: PagerVmo) -> None:
        """Give up the handle of a VMO. When no child needs it either, it is freed and COMPLETE is sent."""
        vmo.close()

    def vmo_freed(self, vmo: object) -> None:
        """Learn that a VMO is gone. For its pages."""
        assert isinstance(vmo, PagerVmo)
        if vmo in self._vmos:
            self._forget(vmo)
            self._freed_sources.add(vmo.source)
        self._when_freed(vmo)

    def _forget(self, vmo: PagerVmo) -> None:
        del self._vmos[vmo]
        if self._keys is not None:
            self._keys.discard(vmo)

    def vmo_of_key(self, key: Key) -> PagerVmo:
        """Return the VMO that a key stands for.

        Raises:
            BadHandleError: this pager has none with that key.
            InvalidArgsError: it has several.
        """
        if self._keys is None:
            self._keys = Keys(self._vmos)
        return self._keys.find(key)

    def check_vmo(self, vmo: object) -> PagerPages:
        """Check that the VMO was made by this pager, and return its pages.

        Raises:
            InvalidArgsError: it was not.
        """
        if not isinstance(vmo, PagerVmo) or vmo not in self._vmos:
            raise InvalidArgsError("the VMO was not made by this pager")
        return vmo.node

    def supply_pages(
        self, vmo: Vmo, offset: int, length: int, aux: Vmo, aux_offset: int, xxh3: int | None = None
    ) -> list[PageRange]:
        """Move pages from ``aux`` into the gaps of ``vmo``; return the newly filled runs. All arguments in bytes.

        After an error the aux range is untouched if the error is about the aux, and empty if it is about the VMO
        (range, detached); nothing of the VMO has changed.

        Raises:
            InvalidArgsError: an argument is not page aligned, or the VMO is not of this pager.
            AccessDeniedError: the aux was made with NO_WRITE.
            NotSupportedError: the aux is contiguous, physical or a pager VMO.
            OutOfRangeError: a range overflows or does not lie inside its VMO.
            BadStateError: the VMO is detached, the aux has children, or pinned or absent pages in the range.
            IoDataIntegrityError: ``xxh3`` is given and is not the XXH3-64 sum of the bytes.
            NoMemoryError: snapshots share pages of the aux, and there is no memory for copies.

        Zircon: zx_pager_supply_pages.
        """
        steps = self._supply_steps(vmo, offset, length, aux, aux_offset, xxh3)
        try:
            while next(steps) is None:
                pass
        except StopIteration as done:
            filled: list[PageRange] = done.value
            return filled
        steps.close()
        raise BadStateError("pages of the aux, a clone of a pager VMO, are absent")

    def supply_pages_access(
        self, vmo: Vmo, offset: int, length: int, aux: Vmo, aux_offset: int, xxh3: int | None = None
    ) -> Access[list[PageRange]]:
        """Do what ``supply_pages`` does, but wait for absent pages of the aux: they are READ at its root first.

        Also fails with what that pager says. Only an aux that is a clone of a pager VMO may need this.
        """
        return Access(self._supply_steps(vmo, offset, length, aux, aux_offset, xxh3))

    def _supply_steps(
        self, vmo: Vmo, offset: int, length: int, aux: Vmo, aux_offset: int, xxh3: int | None
    ) -> Steps[list[PageRange]]:
        if (offset | length | aux_offset) % PAGE_SIZE:
            check_page_aligned(offset=offset, length=length, aux_offset=aux_offset)
        target = self.check_vmo(vmo)
        if length > SLICE * PAGE_SIZE and xxh3 is None:
            return (yield from self._supply_in_slices(target, offset, length, aux, aux_offset))
        taken = yield from self._take_steps(target, aux, aux_offset, length, length, xxh3)
        self._totals["supply_calls"] += 1
        try:
            pages = _check_target(target, offset, length)
        except (OutOfRangeError, BadStateError):
            content.free_runs(self._system.frames, taken)
            raise
        return self._insert_taken(target, pages, taken, aux_offset)

    def _supply_in_slices(
        self, target: PagerPages, offset: int, length: int, aux: Vmo, aux_offset: int
    ) -> Steps[list[PageRange]]:
        """Do what ``supply_pages`` does, in slices in which nobody has many pieces: others may go on in between."""
        done, filled, refused = 0, list[PageRange](), None
        while done < length:
            if done:
                yield None
                self.check_vmo(target.owner)
            where, start, rest = offset + done, aux_offset + done, length - done
            moved = _slice_of(target, where, aux, start, rest)
            taken = yield from self._take_steps(target, aux, start, moved, rest)
            self._totals["supply_calls"] += not done
            try:
                _check_target(target, where, rest)
            except (OutOfRangeError, BadStateError) as error:
                refused = error  # all that there is to be moved is gone in the end
                content.free_runs(self._system.frames, taken)
            else:
                filled += self._insert_taken(target, PageRange.of_bytes(where, moved), taken, start)
            done += moved
        if refused is not None:
            raise refused
        return filled

    def _take_steps(
        self, target: PagerPages, aux: Vmo, offset: int, length: int, rest: int, xxh3: int | None = None
    ) -> Steps[list[Run]]:
        """Take ``length`` bytes from an aux, of which ``rest`` are to be taken in all."""
        if not isinstance(aux, AnonymousVmo):
            if rest > length:
                check_can_give(aux, offset, rest)
            return (yield from take_steps(aux, offset, length, xxh3, partial(_check_accounts, target.runs)))
        aux.check_can_give(offset, rest, xxh3)
        if target.runs.account is not None:
            _check_accounts(target.runs, aux.node, PageRange.of_bytes(aux.start + offset, length))
        return aux.take(offset, length)

    def _insert_taken(self, target: PagerPages, pages: PageRange, taken: list[Run], aux_offset: int) -> list[PageRange]:
        shift = pages.start - aux_offset // PAGE_SIZE
        return self._insert(target, pages, [run.moved(shift) for run in taken] if shift else taken)

    def supply_bytes(self, vmo: Vmo, offset: int, data: Bytes) -> list[PageRange]:
        """Supply pages with the given bytes, as ``supply_pages`` does from an aux; return the newly filled runs.

        ``offset`` is page aligned; the last page may be short, the rest of it is zeros then.

        Raises:
            InvalidArgsError: ``offset`` is not page aligned, or the VMO is not of this pager.
            OutOfRangeError: the bytes do not lie inside the VMO.
            BadStateError: the VMO is detached.
            NoMemoryError: the memory limit is reached. Nothing changed, as with the others.
        """
        check_page_aligned(offset=offset)
        target = self.check_vmo(vmo)
        pages = _check_target(target, offset, len(data))
        fresh = content.fresh(target.frames, pages, data, target.runs.account)
        self._totals["supply_calls"] += 1
        return self._insert(target, pages, fresh)

    def supply_page(self, vmo: Vmo, offset: int, data: Bytes) -> list[Reader] | None:
        """Supply the page of a miss; return its readers, who are to be given these bytes.

        None if that is not possible, for whatever reason; then nothing has changed, and ``supply_bytes`` is to be used.

        Raises:
            NoMemoryError: the memory limit is reached; nothing has changed.
        """
        if vmo not in self._vmos or len(data) != PAGE_SIZE:
            return None
        node = vmo.node
        source = node.source
        page, rest = divmod(offset, PAGE_SIZE)
        # A VMO that is being detached may have misses still, which are to fail.
        if rest or (source, page) not in source.port.misses or source.state is not SourceState.ATTACHED:
            return None
        readers = node.answer(page, data)
        totals = self._totals
        totals["supply_calls"] += 1
        totals["pages_supplied"] += 1
        return readers

    def _insert(self, target: PagerPages, pages: PageRange, supplied: list[Run]) -> list[PageRange]:
        filled = target.insert(pages, supplied)
        count = sum(part.pages for part in filled)
        self._totals["pages_supplied"] += count
        self._totals["pages_redundant"] += pages.pages - count
        return filled

    def op_range_steps(
        self, op: PagerOp | None, vmo: Vmo, offset: int, length: int, data: int = 0, reason: str = ""
    ) -> Steps[None]:
        """Answer or announce something about a page-aligned range of bytes. ``op`` None stands for an unknown one.

        FAIL: requests outstanding for the range fail with the status number ``data``; no page changes state, and it is
        no error if nobody waits. ``reason`` is a sentence for people who look for why. DIRTY: every page becomes dirty,
        zeros get memory; on an error none does, yet those who wait for NOT_FOUND, NO_MEMORY or the part inside wake and
        ask again. WRITEBACK_BEGIN: dirty pages, and zero intervals whose start is covered, await being cleaned; with
        ``data`` IS_ZERO only the latter. WRITEBACK_END: what awaits it becomes clean, zeros become absent. The last two
        work on a detached VMO too.

        Raises:
            InvalidArgsError: not page aligned, not of this pager, FAIL with a code that is not allowed, or ``data``
                that the operation does not know.
            NotSupportedError: the operation is unknown, or DIRTY for a VMO without TRAP_DIRTY.
            OutOfRangeError: the range overflows or does not lie inside the VMO.
            BadStateError: FAIL or DIRTY, and the VMO is detached.
            NotFoundError: DIRTY, and a page is absent.
            NoMemoryError: DIRTY, and there is no memory for zeros.

        Zircon: zx_pager_op_range.
        """
        check_page_aligned(offset=offset, length=length)
        target = self.check_vmo(vmo)
        if op is PagerOp.FAIL:
            yield from self._fail_steps(target, offset, length, data, reason)
        elif op is PagerOp.DIRTY:
            _check_data(op, data, 0)
            yield from _dirty_steps(target, offset, length)
        elif op is PagerOp.WRITEBACK_BEGIN:
            _check_data(op, data, 0, DIRTY_RANGE_IS_ZERO)
            target.check_inside(offset, length)
            yield from writeback.begin_steps(target, PageRange.of_bytes(offset, length), is_zero=bool(data))
            target.syncs.begin()
        elif op is PagerOp.WRITEBACK_END:
            _check_data(op, data, 0)
            target.check_inside(offset, length)
            yield from writeback.end_steps(target, PageRange.of_bytes(offset, length))
        else:
            raise NotSupportedError(f"unknown operation {op}")

    op_range = at_once(op_range_steps)

    def _fail_steps(self, vmo: PagerPages, offset: int, length: int, data: int, reason: str) -> Steps[None]:
        data -= 2**64 if data >= 2**63 else 0  # a status is a signed number, the argument is not
        if data not in FAIL_CODES:
            allowed = ", ".join(f"{code.zx_name} ({code.value})" for code in sorted(FAIL_CODES, reverse=True))
            raise InvalidArgsError(f"a range cannot fail with {data}, only with {allowed}")
        vmo.check_inside(offset, length)
        _check_attached(vmo)
        self._totals["fail_calls"] += 1
        pages = PageRange.of_bytes(offset, length)
        for command in (PacketCommand.READ, PacketCommand.DIRTY):
            for part in vmo.source.outstanding(command).in_slices(pages):
                if part.start > pages.start:
                    yield None
                vmo.source.resolve(command, part, Status(data), reason)
        vmo.source.resolve(PacketCommand.WRITEBACK, pages or SIZE_PAGE, Status(data), reason)

    def query_dirty_ranges_steps(self, vmo: Vmo, offset: int, length: int) -> Steps[list[DirtyRange]]:
        """Return what is dirty in a range of bytes (rounded outward to pages), ascending and cut to it.

        Dirty pages, awaiting clean or not, melt into one record; each zero interval is a record of its own.

        Raises:
            InvalidArgsError: the VMO was not made by this pager.
            OutOfRangeError: the range overflows or does not lie inside the VMO.

        Zircon: zx_pager_query_dirty_ranges.
        """
        target = self.check_vmo(vmo)
        target.check_inside(offset, length)
        return (yield from writeback.dirty_ranges_steps(target.runs, PageRange.of_bytes(offset, length)))

    query_dirty_ranges = at_once(query_dirty_ranges_steps)

    def query_vmo_stats(self, vmo: Vmo, *, reset: bool = False) -> bool:
        """Return whether the VMO was modified since the last reset; with ``reset`` forget it.

        Raises:
            InvalidArgsError: the VMO was not made by this pager.

        Zircon: zx_pager_query_vmo_stats.
        """
        target = self.check_vmo(vmo)
        modified = target.modified
        if reset:
            target.modified = False
        return modified

    def detach_steps(self, vmo: Vmo) -> Steps[list[PageRange]]:
        """End the bond with a VMO: waiters get BAD_STATE, clean pages go (returned), dirty ones stay; COMPLETE is sent.

        Raises:
            InvalidArgsError: the VMO was not made by this pager.

        Zircon: zx_pager_detach_vmo.
        """
        return (yield from detach_steps(self.check_vmo(vmo)))

    detach_vmo = at_once(detach_steps)

    def evict_steps(self, vmo: Vmo, offset: int, length: int) -> Steps[list[PageRange]]:
        """Drop the clean, unpinned pages of a range of bytes (rounded outward to pages); return what was dropped.

        What the kernel does under memory pressure. Markers, dirty pages and zero intervals stay.

        Raises:
            InvalidArgsError: the VMO was not made by this pager.
            OutOfRangeError: the range overflows or does not lie inside the VMO.
        """
        target = self.check_vmo(vmo)
        target.check_inside(offset, length)
        pages, dropped = PageRange.of_bytes(offset, length), list[PageRange]()
        for part in target.runs.in_slices(pages):
            if part.start > pages.start:
                yield None
            dropped += target.evict(part)
        return dropped

    evict = at_once(evict_steps)

    def mark_steps(self, vmo: Vmo, offset: int, length: int) -> Steps[None]:
        """Mark a range of bytes (rounded outward to pages): of the first read of each page there TOUCH tells.

        Raises:
            InvalidArgsError: the VMO was not made by this pager.
            OutOfRangeError: the range overflows or does not lie inside the VMO.
            BadStateError: the VMO is detached.
            NoMemoryError: there are many marked ranges.
        """
        target = self.check_vmo(vmo)
        target.check_inside(offset, length)
        _check_attached(target)
        yield from marks.mark_steps(target, PageRange.of_bytes(offset, length))

    mark = at_once(mark_steps)

    def close_steps(self) -> Steps[None]:
        """Close the pager: waiters get BAD_STATE, present pages stay readable, no packet is left in the ports."""
        self._closed = True
        count = 0
        while self._vmos:
            vmo = next(iter(self._vmos))
            self._forget(vmo)
            vmo.node.pager_closed()
            yield from fail_all_steps(vmo.node)
            count += 1
            if not count % SLICE:
                yield None
        for source in self._freed_sources:
            source.withdraw_all()

    close = at_once(close_steps)

    @property
    def vmos(self) -> KeysView[PagerVmo]:
        """The VMOs of this pager that still exist: open ones, and those that have children."""
        return self._vmos.keys()

    @property
    def tally(self) -> Tally:
        """What all its page sources have in common."""
        return self._tally

    def pending(self) -> list[PageRequest]:
        """Return the requests that are not answered, oldest first."""
        return [request for request in self._system.requests if request.source.tally is self._tally]

    def statistics(self) -> PagerStatistics:
        """Return the present counts."""
        totals, tally = self._totals, self._tally
        return PagerStatistics(
            vmos=len(self._vmos),
            requests_outstanding=tally.outstanding,
            read_requests_total=tally.read_requests_total,
            dirty_requests_total=tally.dirty_requests_total,
            supply_calls_total=totals["supply_calls"],
            pages_supplied_total=totals["pages_supplied"],
            pages_redundant_total=totals["pages_redundant"],
            fail_calls_total=totals["fail_calls"],
        )

    def check(self) -> None:
        """Assert that a closed pager has no VMO left, and that outstanding requests are counted right."""
        assert not (self._closed and self._vmos)
        assert self._keys is None or len(self._keys) == len(self._vmos)
        assert self._tally.outstanding == sum(vmo.source.outstanding_count for vmo in self._vmos)


def _check_accounts(target: RunMap, aux: CowPages, pages: PageRange) -> None:
    """Check that who pays for the VMO has room for pages of another's aux, and who pays for either for new ranges."""
    if aux.parent is not None:  # then zeros are left where pages were
        aux.runs.check_ranges()
    account = target.account
    if account is not None:
        account.check_ranges()
        if account is not aux.runs.account and not account.has_room(pages.pages):
            account.check(sum(part.pages for part in aux.committed(pages)))  # it mostly has room for all


def _check_data(op: PagerOp, data: int, *allowed: int) -> None:
    if data not in allowed:
        raise InvalidArgsError(f"{op.name} takes {' or '.join(map(str, allowed))} as data, not {data}")


def _slice_of(target: PagerPages, offset: int, aux: Vmo, aux_offset: int, length: int) -> int:
    """Return how much of a supply to do in one go: neither side, nor who waits, has many pieces there."""
    pages = PageRange.of_bytes(offset, length)
    taken = PageRange.of_bytes(aux.start + aux_offset, length)
    requests = target.source.outstanding(PacketCommand.READ)
    most = min(
        target.runs.reach(*pages, SLICE) - pages.start,
        requests.reach(*pages, SLICE) - pages.start,
        aux.node.reach(*taken) - taken.start,
    )
    return min(length, most * PAGE_SIZE)


def _dirty_steps(vmo: PagerPages, offset: int, length: int) -> Steps[None]:
    """Make all pages of a range dirty, or none. The order of checks, and which of them wakes whom: zircon-pager 2.5."""
    size = vmo.size_pages * PAGE_SIZE
    if offset + length > UINT64_MAX:
        raise OutOfRangeError(f"range {offset}+{length} overflows")
    if not vmo.options.trap_dirty:
        raise NotSupportedError("the VMO was not made with TRAP_DIRTY")
    pages = PageRange.of_bytes(offset, length)
    if offset + length > size:
        if offset <= size:
            vmo.source.resolve(PacketCommand.DIRTY, pages & PageRange(0, vmo.size_pages))
        vmo.check_inside(offset, length)
    _check_attached(vmo)
    try:
        for change in (False, True):  # first it is looked whether all are there
            for part in vmo.runs.in_slices(pages):
                if part.start > pages.start:
                    yield None
                _check_present(vmo, part)
                if change:
                    vmo.make_dirty(part, PageEvent.OP_DIRTY)
    except (NoMemoryError, NotFoundError):
        vmo.source.resolve(PacketCommand.DIRTY, pages)  # they look again, and READ what is absent
        raise


def _check_present(vmo: PagerPages, pages: PageRange) -> None:
    gaps = vmo.runs.gaps(pages)
    if gaps:
        raise NotFoundError(f"pages {gaps[0]} of the range are absent")


def _check_target(vmo: PagerPages, offset: int, length: int) -> PageRange:
    """Check the destination of a supply in Zircon's order (step 7)."""
    if offset + length > UINT64_MAX:
        raise OutOfRangeError(f"range {offset}+{length} overflows")
    if length == 0:  # nothing more is looked at, not even the end of the VMO
        return PageRange.of_bytes(offset, 0)
    vmo.check_inside(offset, length)
    _check_attached(vmo)
    return PageRange.of_bytes(offset, length)


def _check_attached(vmo: PagerPages) -> None:
    if vmo.source.state is not SourceState.ATTACHED:
        raise BadStateError(f"the VMO with key {vmo.source.key} is {vmo.source.state.value}")
