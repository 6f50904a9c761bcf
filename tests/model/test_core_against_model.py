"""Random calls on several pagers, VMOs and ports: the core does what the naive model does, after every step.

Accesses that were woken run in a step of their own, so that everything may happen between a wake-up and the next look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.oracle.model import (
    REAL,
    Model,
    ModelAccess,
    ModelAux,
    ModelPager,
    ModelPort,
    ModelRead,
    ModelRequest,
    ModelVmo,
    ModelWrite,
    runs,
)
from tests.support.searching import in_parts, search
from vmofs.core.pager import Pager
from vmofs.core.requests.access import Access
from vmofs.core.requests.port import Port
from vmofs.core.requests.system import System
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import Status, VmoError
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, Key, PageRange
from vmofs.vocabulary import PacketCommand, PagerOp

VMO_PAGES = 24  # more than a batch of a write
SHOWN_PAGES = VMO_PAGES + 2


class Pair(NamedTuple):
    """One VMO in both worlds."""

    core: PagerVmo
    model: ModelVmo
    pager: int


PICK = st.integers(0, 11)  # taken modulo the number of what there is
LANES = st.sampled_from(["a", "a", "b"])
CODES = st.sampled_from([Status.IO, Status.BAD_STATE, Status.NO_SPACE, Status.NO_MEMORY])


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int]:
    """Return offset and length in bytes: mostly a few of the first pages, so that much meets; seldom beyond."""
    start = draw(st.sampled_from([0, 1, 2, 3, 0, 1, 2, 3, 5, VMO_PAGES - 2]))
    pages = draw(st.sampled_from([1, 2, 3, 4, 1, 2, 3, 4, 0, 19]))
    ragged = draw(st.sampled_from([(0, 0)] * 8 + [(8, 0), (0, 8), (8, 16)]))
    return start * PAGE_SIZE + ragged[0], pages * PAGE_SIZE + ragged[1]


def outcome(call: Callable[[], object]) -> object:
    """Return what the call returns, or the status of its error."""
    try:
        return call()
    except VmoError as error:
        return error.status


def pages_of(parts: list[PageRange]) -> list[int]:
    return [page for part in parts for page in range(*part)]


class CoreAgainstModel(RuleBasedStateMachine):
    """Every rule does one thing in both worlds and compares what came of it; ``compare`` then compares the worlds."""

    def __init__(self) -> None:
        super().__init__()
        self.system, self.model = System(), Model()
        self.ports = [(Port(self.system), ModelPort()) for _ in range(2)]
        self.pagers = [(Pager(self.system), ModelPager()) for _ in range(2)]
        self.vmos: list[Pair] = []
        self.closed: list[Pair] = []
        self.accesses: list[tuple[Access[bytes] | Access[int], ModelAccess]] = []
        self.aux: list[tuple[AuxVmo, ModelAux]] = []
        self.now = 0.0
        self.serial = 0

    def teardown(self) -> None:
        """Give the address space back at once: a night makes more systems than the collector is quick enough for."""
        self.system.frames.close()

    # What there is

    @initialize()
    def begin(self) -> None:
        """Make a VMO of each kind."""
        self.create_vmo(0, 0, 0, trap_dirty=False, unbounded=False)
        self.create_vmo(1, 0, 0, trap_dirty=True, unbounded=False)

    @precondition(lambda self: len(self.vmos) < 3)
    @rule(
        pager=PICK,
        port=st.sampled_from([0, 0, 0, 1]),
        cut=st.sampled_from([0, 0, 100]),
        trap_dirty=st.booleans(),
        unbounded=st.booleans(),
    )
    def create_vmo(self, pager: int, port: int, cut: int, trap_dirty: bool, unbounded: bool) -> None:
        """Make a VMO; keys need not differ."""
        core_pager, model_pager = self.pagers[pager % 2]
        core_port, model_port = self.ports[port % 2]
        size = VMO_PAGES * PAGE_SIZE - cut
        options = VmoOptions(trap_dirty=trap_dirty, unbounded=unbounded)
        key = len(self.vmos) % 3
        vmo = outcome(lambda: core_pager.create_vmo(core_port, Key(key), size, options))
        if not isinstance(vmo, PagerVmo):
            assert vmo is Status.BAD_STATE
            assert not model_pager.vmos
            return
        model = ModelVmo(model_port, key, size, trap_dirty=trap_dirty, unbounded=unbounded)
        self.model.create_vmo(model_pager, model)
        self.vmos.append(Pair(vmo, model, pager % 2))

    @precondition(lambda self: len(self.aux) < 2)
    @rule(pages=st.integers(0, VMO_PAGES), holes=st.sets(st.integers(0, VMO_PAGES)), pinned=st.none() | PICK)
    def create_aux(self, pages: int, holes: set[int], pinned: int | None) -> None:
        """Make an aux VMO with holes, and sometimes a pinned page."""
        self.serial += 1
        core, model = AuxVmo(self.system, pages * PAGE_SIZE), ModelAux([None] * pages)
        for page in set(range(pages)) - holes:
            data = pattern.make_pages(self.serial * pattern.KEY_STEP, PageRange(page, page + 1))
            core.write_nowait(page * PAGE_SIZE, data)
            model.pages[page] = data
        if pinned is not None and pinned < pages:
            core.pin(pinned * PAGE_SIZE, PAGE_SIZE)  # a pinned page has memory, also one that was a hole
            model.pages[pinned] = model.pages[pinned] or bytes(PAGE_SIZE)
            model.pinned.add(pinned)
        self.aux.append((core, model))

    def pair(self, pick: int) -> Pair:
        """Return one of the VMOs that are not closed."""
        return self.vmos[pick % len(self.vmos)]

    # Accesses

    @rule(vmo=PICK, where=ranges())
    def read(self, vmo: int, where: tuple[int, int]) -> None:
        """Start a read."""
        pair = self.pair(vmo)
        self.start(pair.core.read(*where), ModelRead(pair.model, *where))

    @precondition(lambda self: self.model.requests)
    @rule(request=PICK, skipped=st.integers(-2, 3), pages=st.integers(1, 4))
    def read_the_same(self, request: int, skipped: int, pages: int) -> None:
        """Start a read that meets what somebody asked for."""
        asked = self.model.requests[request % len(self.model.requests)]
        vmo = next(index for index, pair in enumerate(self.vmos) if pair.model is asked.vmo)
        self.read(vmo, (max(0, asked.pages[0] + skipped) * PAGE_SIZE, pages * PAGE_SIZE))

    @rule(vmo=PICK, where=ranges())
    def write(self, vmo: int, where: tuple[int, int]) -> None:
        """Start a write."""
        pair = self.pair(vmo)
        self.serial += 1
        data = pattern.make(self.serial * pattern.KEY_STEP, *where)
        self.start(pair.core.write(where[0], data), ModelWrite(pair.model, where[0], data))

    def start(self, core: Access[bytes] | Access[int], model: ModelAccess) -> None:
        """Start an access in both worlds."""
        core.start(self.now)
        self.model.start(model, self.now)
        self.accesses.append((core, model))

    @rule()
    def run(self) -> None:
        """Let those who woke look again."""
        ended = self.system.run_ready(self.now)
        expected = self.model.run(self.now)
        assert {id(access) for access in ended} == {id(core) for core, model in self.accesses if model in expected}

    @precondition(lambda self: self.accesses)
    @rule(access=PICK)
    def kill(self, access: int) -> None:
        """Kill one who waits."""
        core, model = self.accesses.pop(access % len(self.accesses))
        core.cancel()
        self.model.cancel(model)

    # Pager calls

    @precondition(lambda self: self.vmos)
    @rule(pager=PICK, vmo=PICK, where=ranges(), key=st.integers(1, 5), holes=st.sets(st.integers(0, VMO_PAGES)))
    def supply(self, pager: int, vmo: int, where: tuple[int, int], key: int, holes: set[int]) -> None:
        """Supply from an aux of just the right size, mostly by the right pager."""
        pages = -(-where[1] // PAGE_SIZE)
        core, model = AuxVmo(self.system, pages * PAGE_SIZE), ModelAux([None] * pages)
        for page in set(range(pages)) - holes:
            data = pattern.make_pages(key * pattern.KEY_STEP, PageRange(page, page + 1))
            core.write_nowait(page * PAGE_SIZE, data)
            model.pages[page] = data
        pair = self.pair(vmo)
        self.supply_from(pair.pager if pager else 1 - pair.pager, pair, where, (core, model), 0)
        core.close()

    @precondition(lambda self: self.aux)
    @rule(vmo=PICK, where=ranges(), aux=PICK, aux_page=st.integers(0, VMO_PAGES))
    def supply_part(self, vmo: int, where: tuple[int, int], aux: int, aux_page: int) -> None:
        """Supply from some place of an aux that stays."""
        pair, source = self.pair(vmo), self.aux[aux % len(self.aux)]
        self.supply_from(pair.pager, pair, where, source, aux_page * PAGE_SIZE)

    @rule(vmo=PICK, aux=PICK, where=ranges())
    def supply_from_pager_vmo(self, vmo: int, aux: int, where: tuple[int, int]) -> None:
        """Try to take pages from a pager VMO."""
        pair, source = self.pair(vmo), self.pair(aux)
        self.supply_from(pair.pager, pair, where, (source.core, source.model), where[0])

    def supply_from(
        self, pager: int, vmo: Pair, where: tuple[int, int], aux: tuple[AuxVmo | PagerVmo, ModelAux | ModelVmo], at: int
    ) -> None:
        """Supply in both worlds."""
        core_pager, model_pager = self.pagers[pager]
        filled = outcome(lambda: pages_of(core_pager.supply_pages(vmo.core, *where, aux[0], at)))
        assert filled == outcome(lambda: self.model.supply(model_pager, vmo.model, *where, aux[1], at))

    @precondition(lambda self: self.model.requests)
    @rule(request=PICK, skipped=st.integers(-2, 1), pages=st.integers(1, 4), code=st.none() | CODES, zero=st.booleans())
    def answer(self, request: int, skipped: int, pages: int, code: Status | None, zero: bool) -> None:
        """Supply or fail around what somebody wants most."""
        asked = self.model.requests[request % len(self.model.requests)]
        wanted = asked.waiters[0].wanted
        where = max(0, (asked.pages[0] if wanted is None else wanted) + skipped) * PAGE_SIZE, pages * PAGE_SIZE
        vmo = next(index for index, pair in enumerate(self.vmos) if pair.model is asked.vmo)
        if code is None:
            self.supply(1, vmo, where, 6, set(range(pages)) if zero else set())
        else:
            self.fail(vmo, where, code)

    @rule(vmo=PICK, where=ranges(), code=CODES)
    def fail(self, vmo: int, where: tuple[int, int], code: Status) -> None:
        """Fail a range."""
        pair = self.pair(vmo)
        core, model = self.pagers[pair.pager]
        expected = outcome(lambda: self.model.fail(model, pair.model, *where, code))
        assert outcome(lambda: core.op_range(PagerOp.FAIL, pair.core, *where, code)) == expected

    @rule(vmo=PICK, where=ranges())
    def evict(self, vmo: int, where: tuple[int, int]) -> None:
        """Evict a range."""
        pair = self.pair(vmo)
        core, model = self.pagers[pair.pager]
        expected = outcome(lambda: self.model.evict(model, pair.model, *where))
        assert outcome(lambda: pages_of(core.evict(pair.core, *where))) == expected

    @rule(vmo=PICK, page=st.integers(0, VMO_PAGES - 1), pinned=st.booleans())
    def pin(self, vmo: int, page: int, pinned: bool) -> None:
        """Pin a page that has memory, or unpin it."""
        pair = self.pair(vmo)
        pinned = pinned and pair.model.state(page) in REAL
        change = pair.core.pinned.add if pinned else pair.core.pinned.discard
        change(PageRange(page, page + 1))
        (pair.model.pinned.add if pinned else pair.model.pinned.discard)(page)

    @rule(vmo=PICK, sure=st.integers(0, 9))
    def detach(self, vmo: int, sure: int) -> None:
        """Detach a VMO, now and then."""
        pair = self.pair(vmo)
        core, model = self.pagers[pair.pager]
        if sure == 9:
            dropped = outcome(lambda: pages_of(core.detach_vmo(pair.core)))
            assert dropped == outcome(lambda: self.model.detach(model, pair.model))

    @precondition(lambda self: len(self.vmos) > 1)
    @rule(vmo=PICK, sure=st.integers(0, 9))
    def close_vmo(self, vmo: int, sure: int) -> None:
        """Close a VMO, now and then; it is not touched again, but its packets may be seen."""
        if sure == 9:
            pair = self.vmos.pop(vmo % len(self.vmos))
            self.closed.append(pair)
            core, model = self.pagers[pair.pager]
            core.close_vmo(pair.core)
            self.model.close_vmo(model, pair.model)

    @rule(pager=PICK, sure=st.integers(0, 12))
    def close_pager(self, pager: int, sure: int) -> None:
        """Close a pager, seldom; it can be closed again."""
        if sure == 9:
            core, model = self.pagers[pager % 2]
            core.close()
            self.model.close_pager(model)

    # Ports

    @rule(port=st.sampled_from([0, 0, 0, 1]), lane=LANES, count=st.integers(1, 3))
    def dequeue(self, port: int, lane: str, count: int) -> None:
        """Dequeue some packets."""
        core, model = self.ports[port % 2]
        for _ in range(count):
            expected = self.model.dequeue(model, lane)
            seen = core.peek()
            packet = core.dequeue(lane)
            assert packet == seen
            if packet is None or expected is None:
                assert (packet, expected) == (None, None)
                return
            assert packet.source is self.core_of(expected.vmo).source
            assert (packet.command, packet.key) == (expected.command, expected.vmo.key)
            assert (packet.offset, packet.length) == span(expected)

    @rule(port=st.sampled_from([0, 0, 0, 1]), lane=LANES)
    def lose_worker(self, port: int, lane: str) -> None:
        """Deliver again what a worker had."""
        core, model = self.ports[port % 2]
        assert core.requeue_delivered(lane) == self.model.requeue_delivered(model, lane)

    @rule(port=PICK, key=st.integers(0, 2))
    def cancel_key(self, port: int, key: int) -> None:
        """Drop the queued packets of a key."""
        core, model = self.ports[port % 2]
        assert core.cancel_key(Key(key)) == self.model.cancel_key(model, key)

    @rule(port=PICK, sure=st.integers(0, 12))
    def close_port(self, port: int, sure: int) -> None:
        """Close a port, seldom."""
        if sure == 9:
            core, model = self.ports[port % 2]
            core.close()
            self.model.close_port(model)

    @rule(seconds=st.integers(0, 2), age=st.integers(2, 6))
    def time_passes(self, seconds: int, age: int) -> None:
        """Let old requests expire."""
        self.now += seconds
        before = self.now - age
        assert len(self.system.expire(before)) == len(self.model.expire(before))

    # The same in both worlds

    @invariant()
    def compare(self) -> None:
        """Compare everything that can be seen, and some things that cannot."""
        self.system.check()
        for port, model_port in self.ports:
            port.check()
            assert port.statistics().queued == len(model_port.queue) + len(model_port.returned)
            assert port.statistics().delivered == len(model_port.delivered)
        for pager, model_pager in self.pagers:
            pager.check()
            assert list(pager.vmos) == [self.core_of(vmo) for vmo in model_pager.vmos]
        for pair in self.vmos:
            compare_pages(pair)
        assert [
            (request.source, request.command, request.range, request.pending_count) for request in self.system.requests
        ] == [
            (self.core_of(request.vmo).source, request.command, page_range(request.pages), request.count)
            for request in self.model.requests
        ]
        assert [
            [(waiter.range, waiter.wanted, waiter.latched) for waiter in request.waiters()]
            for request in self.system.requests
        ] == [
            [(page_range(waiter.pages), waiter.wanted, waiter.latched) for waiter in request.waiters]
            for request in self.model.requests
        ]
        self.compare_accesses()

    def compare_accesses(self) -> None:
        """Compare who has ended, and how; forget those."""
        for core, model in self.accesses:
            assert core.done == (model.outcome is not None)
            if core.done:
                assert outcome(core.result) == model.outcome
            assert (core in self.system.woken) == (model in self.model.woken)
        self.accesses = [(core, model) for core, model in self.accesses if not core.done]

    def core_of(self, vmo: ModelVmo) -> PagerVmo:
        """Return the VMO of the core that belongs to one of the model."""
        return next(pair.core for pair in (*self.vmos, *self.closed) if pair.model is vmo)


def compare_pages(pair: Pair) -> None:
    """Compare states and contents of the pages of one VMO."""
    core, model = pair.core, pair.model
    shown = range(min(SHOWN_PAGES, model.size))
    assert [core.state_at(page) for page in shown] == [model.state(page) for page in shown]
    assert core.committed_pages == sum(1 for page in model.pages.values() if page.state.name != "MARKER")
    assert (core.modified, core.source.state) == (model.modified, model.attachment)
    for run in runs([page for page in shown if page in model.pages]):
        expected = b"".join(model.data(page) for page in run)
        assert core.read_nowait(run[0] * PAGE_SIZE, len(expected)) == expected


def span(request: ModelRequest) -> tuple[int, int]:
    """Return offset and length of the packet of a request."""
    if request.command is PacketCommand.COMPLETE:
        return 0, 0
    return request.pages[0] * PAGE_SIZE, len(request.pages) * PAGE_SIZE


def page_range(pages: list[int]) -> PageRange:
    return PageRange(pages[0], pages[-1] + 1)


@in_parts
def test_the_core_does_what_the_model_does(part: int) -> None:
    search(CoreAgainstModel, part)
