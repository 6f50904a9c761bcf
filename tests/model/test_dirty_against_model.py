"""Random writes, writebacks, zeroings, resizes, hints and pins: the core does what the naive model does.

After every step everything is compared: contents, states, dirty ranges, "modified", requests with their counts and
waiters, and who has ended how. Besides, an outside cache keeps a copy of every present page; a copy that differs from
the page, other than by a write, must have been called stale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.oracle.dirty_model import (
    OK,
    DirtyModel,
    DirtyVmo,
    ModelAlwaysNeed,
    ModelCommit,
    ModelPin,
    ModelPrefetch,
    ModelSetSize,
    ModelSetStreamSize,
    ModelZero,
)
from tests.oracle.model import REAL, ModelAccess, ModelAux, ModelPager, ModelPort, ModelRead, ModelWrite
from tests.support.searching import in_parts, search
from vmofs.core.pager import Pager
from vmofs.core.pages.pins import Pin
from vmofs.core.requests.access import Access
from vmofs.core.requests.port import Port
from vmofs.core.requests.system import System
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import Status, VmoError
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, Key, PageRange
from vmofs.vocabulary import PagerOp

T = TypeVar("T")

VMO_PAGES = 10
SHOWN_PAGES = 32

PICK = st.integers(0, 11)  # taken modulo the number of what there is
RAGGED = st.sampled_from([(0, 0)] * 6 + [(8, 0), (0, 8), (8, 16), (16, -32)])
SIZES = st.builds(
    lambda pages, more: max(0, pages * PAGE_SIZE + more), st.integers(0, VMO_PAGES + 6), st.sampled_from([0, 0, 8, -8])
)
DATA = st.sampled_from([0] * 12 + [1, 2])


@st.composite
def page_ranges(draw: st.DrawFn) -> tuple[int, int]:
    """Return offset and length in bytes of whole pages, few of them mostly, seldom beyond the end."""
    start = draw(st.integers(0, VMO_PAGES - 1))
    pages = draw(st.sampled_from([1, 2, 3, 1, 2, 3, 4, 5, VMO_PAGES, 0]))
    if draw(st.integers(0, 9)):
        pages = min(pages, VMO_PAGES - start)
    return start * PAGE_SIZE, pages * PAGE_SIZE


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int]:
    """Return offset and length in bytes, seldom with ragged ends."""
    offset, length = draw(page_ranges())
    ragged = draw(RAGGED)
    return offset + ragged[0], max(0, length + ragged[1])


def outcome(call: Callable[[], object]) -> object:
    """Return what the call returns, or the status of its error."""
    try:
        return call()
    except VmoError as error:
        return error.status


class DirtyAgainstModel(RuleBasedStateMachine):
    """Two VMOs of one pager, in both worlds."""

    def __init__(self) -> None:
        super().__init__()
        self.system, self.model = System(), DirtyModel()
        self.port, self.model_port = Port(self.system), ModelPort()
        self.pager, self.model_pager = Pager(self.system), ModelPager()
        self.vmos: list[tuple[PagerVmo, DirtyVmo]] = []
        self.accesses: list[tuple[Access[object], ModelAccess]] = []
        self.pins: list[tuple[Pin, DirtyVmo, list[int]]] = []
        self.copies: dict[tuple[object, int], bytes] = {}
        self.serial = 0

    @initialize(traps=st.tuples(st.booleans(), st.booleans()), second=st.sampled_from(["resizable", "unbounded", ""]))
    def begin(self, traps: tuple[bool, bool], second: str) -> None:
        """Make the VMOs."""
        for trap, kind in zip(traps, ("resizable", second), strict=True):
            size = VMO_PAGES * PAGE_SIZE // (2 if kind else 1)
            options = VmoOptions(trap_dirty=trap, resizable=kind == "resizable", unbounded=kind == "unbounded")
            key = len(self.vmos)
            core = self.pager.create_vmo(self.port, Key(key), size, options)
            model = DirtyVmo(
                self.model_port,
                key,
                size,
                trap_dirty=trap,
                unbounded=kind == "unbounded",
                resizable=kind == "resizable",
            )
            self.model.create_vmo(self.model_pager, model)
            self.vmos.append((core, model))

    def pair(self, pick: int) -> tuple[PagerVmo, DirtyVmo]:
        """Return one of the VMOs, mostly the first."""
        return self.vmos[pick % 3 == 2]

    # Accesses

    def start(self, core: Access[T], model: ModelAccess) -> None:
        """Start an access in both worlds."""
        core.start(0.0)
        self.model.start(model, 0.0)
        self.accesses.append((core, model))

    @rule(vmo=PICK, where=ranges())
    def read(self, vmo: int, where: tuple[int, int]) -> None:
        """Start a read."""
        core, model = self.pair(vmo)
        self.start(core.read(*where), ModelRead(model, *where))

    @rule(vmo=PICK, where=ranges())
    def write(self, vmo: int, where: tuple[int, int]) -> None:
        """Start a write."""
        core, model = self.pair(vmo)
        self.serial += 1
        data = pattern.make(self.serial * pattern.KEY_STEP, *where)
        self.start(core.write(where[0], data), ModelWrite(model, where[0], data))

    @rule(vmo=PICK, where=ranges())
    def zero(self, vmo: int, where: tuple[int, int]) -> None:
        """Start a ZERO."""
        core, model = self.pair(vmo)
        self.start(core.op_zero(*where), ModelZero(self.model, model, *where))

    @rule(vmo=PICK, size=SIZES)
    def set_size(self, vmo: int, size: int) -> None:
        """Start a resize."""
        core, model = self.pair(vmo)
        self.start(core.set_size(size), ModelSetSize(self.model, model, size))

    @rule(vmo=PICK, size=SIZES)
    def set_stream_size(self, vmo: int, size: int) -> None:
        """Start moving the boundary of the content."""
        core, model = self.pair(vmo)
        self.start(core.set_stream_size(size), ModelSetStreamSize(self.model, model, size))

    @rule(vmo=PICK, where=ranges(), how=st.sampled_from(["commit", "commit", "prefetch", "always"]))
    def bring_in(self, vmo: int, where: tuple[int, int], how: str) -> None:
        """Start a COMMIT, PREFETCH or (seldom) ALWAYS_NEED."""
        core, model = self.pair(vmo)
        if how == "commit":
            self.start(core.commit(*where), ModelCommit(self.model, model, *where))
        elif how == "prefetch":
            self.start(core.prefetch(*where), ModelPrefetch(self.model, model, *where))
        else:
            self.start(core.always_need(*where), ModelAlwaysNeed(self.model, model, *where))

    @rule(vmo=PICK, where=ranges(), write=st.booleans())
    def pin(self, vmo: int, where: tuple[int, int], write: bool) -> None:
        """Start a pin."""
        core, model = self.pair(vmo)
        self.start(core.pin(*where, write=write), ModelPin(self.model, model, *where, write=write))

    @precondition(lambda self: self.pins)
    @rule(pin=PICK)
    def unpin(self, pin: int) -> None:
        """Lift a pin."""
        core, model, pages = self.pins.pop(pin % len(self.pins))
        core.unpin()
        model.pins.remove(pages)
        model.pinned = {page for other in model.pins for page in other}

    @rule()
    def run(self) -> None:
        """Let those who woke look again."""
        ended = self.system.run_ready(0.0)
        expected = self.model.run(0.0)
        assert {id(access) for access in ended} == {id(core) for core, model in self.accesses if model in expected}

    @precondition(lambda self: self.accesses)
    @rule(access=PICK, sure=st.integers(0, 4))
    def kill(self, access: int, sure: int) -> None:
        """Kill one who waits."""
        if sure == 4:
            core, model = self.accesses.pop(access % len(self.accesses))
            core.cancel()
            self.model.cancel(model)

    # What a pager does

    @rule(vmo=PICK, where=page_ranges(), holes=st.sets(st.integers(0, VMO_PAGES)))
    def supply(self, vmo: int, where: tuple[int, int], holes: set[int]) -> None:
        """Supply pages and markers."""
        core, model = self.pair(vmo)
        self.serial += 1
        aux, model_aux = AuxVmo(self.system, where[1]), ModelAux([None] * (where[1] // PAGE_SIZE))
        for page in set(range(where[1] // PAGE_SIZE)) - holes:
            data = pattern.make_pages(self.serial * pattern.KEY_STEP, PageRange(page, page + 1))
            aux.write_nowait(page * PAGE_SIZE, data)
            model_aux.pages[page] = data
        filled = outcome(lambda: pages_of(self.pager.supply_pages(core, *where, aux, 0)))
        assert filled == outcome(lambda: self.model.supply(self.model_pager, model, *where, model_aux, 0))
        aux.close()

    @rule(vmo=PICK, op=st.sampled_from(PagerOp), where=page_ranges(), data=DATA)
    def op_range(self, vmo: int, op: PagerOp, where: tuple[int, int], data: int) -> None:
        """Do any operation on any range."""
        core, model = self.pair(vmo)
        if op is PagerOp.FAIL:
            data = Status.IO
        calls = {
            PagerOp.FAIL: lambda: self.model.fail(self.model_pager, model, *where, data),
            PagerOp.DIRTY: lambda: self.model.op_dirty(model, *where, data),
            PagerOp.WRITEBACK_BEGIN: lambda: self.model.begin(model, *where, data),
            PagerOp.WRITEBACK_END: lambda: self.model.end_writeback(model, *where, data),
        }
        assert outcome(lambda: self.pager.op_range(op, core, *where, data)) == outcome(calls[op])

    @precondition(lambda self: self.model.requests)
    @rule(request=PICK, cut=st.tuples(st.integers(0, 3), st.integers(0, 3)), fail=st.sampled_from([False] * 4 + [True]))
    def answer(self, request: int, cut: tuple[int, int], fail: bool) -> None:
        """Do what a request asks for, or a part of it; then let those who woke run."""
        asked = self.model.requests[request % len(self.model.requests)]
        pages = asked.pages[min(cut[0], len(asked.pages) - 1) :]
        pages = pages[: max(1, len(pages) - cut[1])]
        where = pages[0] * PAGE_SIZE, len(pages) * PAGE_SIZE
        vmo = 2 * next(index for index, pair in enumerate(self.vmos) if pair[1] is asked.vmo)
        if fail:
            self.op_range(vmo, PagerOp.FAIL, where, 0)
        elif asked.command.name == "READ":
            self.supply(vmo, where, set())
        else:
            self.op_range(vmo, PagerOp.DIRTY, where, 0)
        self.run()

    @rule(vmo=PICK, where=ranges())
    def evict(self, vmo: int, where: tuple[int, int]) -> None:
        """Evict a range."""
        core, model = self.pair(vmo)
        expected = outcome(lambda: self.model.evict(self.model_pager, model, *where))
        assert outcome(lambda: pages_of(self.pager.evict(core, *where))) == expected

    @rule(vmo=PICK, sure=st.integers(0, 14))
    def detach(self, vmo: int, sure: int) -> None:
        """Detach a VMO, seldom."""
        core, model = self.pair(vmo)
        if sure == 14:
            dropped = pages_of(self.pager.detach_vmo(core))
            assert dropped == self.model.detach(self.model_pager, model)

    @rule()
    def dequeue(self) -> None:
        """Dequeue a packet."""
        packet, expected = self.port.dequeue(), self.model.dequeue(self.model_port, None)
        assert (packet is None) == (expected is None)
        if packet is not None and expected is not None:
            assert (packet.command, packet.key) == (expected.command, expected.vmo.key)
            assert packet.length == len(expected.pages) * PAGE_SIZE
            assert not expected.pages or packet.offset == expected.pages[0] * PAGE_SIZE

    @rule(vmo=PICK)
    def reset_stats(self, vmo: int) -> None:
        """Query and reset "modified"."""
        core, model = self.pair(vmo)
        assert self.pager.query_vmo_stats(core, reset=True) == model.modified
        model.modified = False

    # The same in both worlds

    @invariant()
    def compare(self) -> None:
        """Compare everything that can be seen, and some things that cannot."""
        self.system.check()
        self.port.check()
        for core, model in self.vmos:
            self.compare_vmo(core, model)
        assert [(r.source.key, r.command, list(range(*r.range)), r.pending_count) for r in self.system.requests] == [
            (r.vmo.key, r.command, r.pages, r.count) for r in self.model.requests
        ]
        assert [[(list(range(*w.range)), w.wanted, w.latched) for w in r.waiters()] for r in self.system.requests] == [
            [(w.pages, w.wanted, w.latched) for w in r.waiters] for r in self.model.requests
        ]
        self.compare_copies()
        self.compare_accesses()

    def compare_vmo(self, core: PagerVmo, model: DirtyVmo) -> None:
        """Compare one VMO."""
        assert (core.size_pages, core.stream_size) == (model.size_pages, model.stream_size)
        assert self.pager.query_vmo_stats(core) == model.modified
        shown = range(min(SHOWN_PAGES, core.size_pages))
        assert [core.state_at(page) for page in shown] == [model.state(page) for page in shown]
        assert core.committed_pages == sum(page.state in REAL for page in model.pages.values())
        assert {page for part in core.pinned for page in range(*part)} == model.pinned
        for page in shown:
            expected = model.data(page) if page in model.pages else None
            assert core.read_nowait(page * PAGE_SIZE, PAGE_SIZE) == expected
        window = len(shown) * PAGE_SIZE
        records = self.pager.query_dirty_ranges(core, 0, window)
        assert [(r.start, r.pages, zero) for r, zero in records] == self.model.dirty_ranges(model, 0, window)

    def compare_copies(self) -> None:
        """Check that every copy that differs was called stale, and take new copies."""
        for owner, parts in self.system.take_stale().items():
            for page in pages_of(parts):
                self.copies.pop((owner, page), None)
        writers = [model for _, model in self.accesses if isinstance(model, ModelWrite)]
        for core, model in self.vmos:
            written = {page for writer in writers if writer.vmo is model for page in touched_by(writer)}
            for page in range(SHOWN_PAGES):
                copy = self.copies.pop((core, page), None)
                if copy is not None and page not in written:
                    assert page < core.size_pages
                    assert core.read_nowait(page * PAGE_SIZE, PAGE_SIZE) == copy, page
                if page in model.pages:
                    self.copies[core, page] = model.data(page)

    def compare_accesses(self) -> None:
        """Compare who has ended, and how; forget those."""
        for core, model in self.accesses:
            assert core.done == (model.outcome is not None)
            assert (core in self.system.woken) == (model in self.model.woken)
            if not core.done:
                continue
            result = outcome(core.result)
            if isinstance(result, Pin):
                assert isinstance(model, ModelPin)
                self.pins.append((result, model.own, pages_of([result.pages])))
                result = OK
            assert (OK if result is None else result) == model.outcome
        self.accesses = [(core, model) for core, model in self.accesses if not core.done]


def pages_of(parts: list[PageRange]) -> list[int]:
    return [page for part in parts for page in range(*part)]


def touched_by(access: ModelAccess) -> list[int]:
    return list(range(access.offset // PAGE_SIZE, -(-access.end // PAGE_SIZE)))


@in_parts
def test_dirty_tracking_does_what_the_model_does(part: int) -> None:
    search(DirtyAgainstModel, part)
