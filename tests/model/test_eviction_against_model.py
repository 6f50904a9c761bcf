"""Random supplies, reads, writes, pins and hints with little memory: the same pages go as in the naive model.

Nothing here waits: what is read, written or pinned is there.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.oracle.eviction_model import EvictionModel, EvictionVmo
from tests.oracle.world import World
from tests.support.searching import in_parts, search
from vmofs.core.pages import eviction
from vmofs.core.pages.pins import Pin
from vmofs.core.pages.states import PageState
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import NoMemoryError
from vmofs.units import PAGE_SIZE, PageRange
from vmofs.vocabulary import PagerOp

LIMIT = 40
VMO_PAGES = 64
MOST_VMOS = 3

PICK = st.integers(0, 11)
FIRST = st.sampled_from([0, 0, 0, 5, 15, 16, 16, 17, 31, 32, 33, 48])
COUNT = st.sampled_from([1, 2, 8, 16, 16, 20])


class Pair(NamedTuple):
    """One VMO in both worlds."""

    core: PagerVmo
    model: EvictionVmo


class EvictionAgainstModel(RuleBasedStateMachine):
    """Several VMOs, and memory for a few groups of pages."""

    def __init__(self) -> None:
        super().__init__()
        self.world, self.model = World(LIMIT), EvictionModel(LIMIT)
        self.vmos: list[Pair] = []
        self.pins: list[tuple[Pin, EvictionVmo, range]] = []
        self.aux: list[tuple[AuxVmo, int]] = []

    def teardown(self) -> None:
        """Leave nothing."""
        self.world.system.frames.close()

    @initialize()
    def begin(self) -> None:
        """Make two VMOs, of which the first stays, and fill the first."""
        for _ in range(2):
            self.create(noevict=False)
        self.supply(0, 0, 20)
        self.supply(0, 20, 20)

    def pair(self, pick: int) -> Pair:
        """Return one of the VMOs, mostly the first."""
        return self.vmos[0 if pick % 2 else pick // 2 % len(self.vmos)]

    def present(self, pick: int, first: int, count: int) -> tuple[Pair, range]:
        """Return a VMO, and as many pages from the first that is there as there are without a gap; maybe none."""
        pair = self.pair(pick)
        pages = pair.model.pages
        first = next((page for page in range(first, VMO_PAGES) if page in pages), VMO_PAGES)
        end = next((page for page in range(first, first + count) if page not in pages), first + count)
        return pair, range(first, end)

    @precondition(lambda self: len(self.vmos) < MOST_VMOS)
    @rule(noevict=st.booleans())
    def create(self, noevict: bool) -> None:
        """Make a VMO."""
        core = self.world.vmo(VMO_PAGES, options=VmoOptions(noevict=noevict))
        self.vmos.append(Pair(core, EvictionVmo(takes_part=not noevict)))
        self.model.vmos.append(self.vmos[-1].model)

    @precondition(lambda self: len(self.vmos) > 1)
    @rule(sure=st.integers(0, 3))
    def close(self, sure: int) -> None:
        """Close the last VMO, now and then."""
        if sure == 3 and not self.vmos[-1].model.pins:
            core, model = self.vmos.pop()
            self.world.pager.close_vmo(core)
            self.model.close(model)

    @rule(pick=PICK, first=FIRST, count=COUNT)
    def supply(self, pick: int, first: int, count: int) -> None:
        """Supply pages."""
        core, model = self.pair(pick)
        pages = range(first, min(VMO_PAGES, first + count))
        try:
            filled = [page for part in self.world.supply(core, first, len(pages)) for page in range(*part)]
        except NoMemoryError:
            assert self.model.supply(model, pages) is None
        else:
            assert filled == self.model.supply(model, pages)

    @rule(pick=PICK, first=FIRST, count=COUNT)
    def read(self, pick: int, first: int, count: int) -> None:
        """Read what is there."""
        pair, pages = self.present(pick, first, count)
        if pages:
            assert pair.core.read_nowait(pages.start * PAGE_SIZE, len(pages) * PAGE_SIZE) is not None
            self.model.use(pair.model, list(pages))

    @rule(pick=PICK, first=FIRST, count=COUNT)
    def write(self, pick: int, first: int, count: int) -> None:
        """Write to what is there."""
        pair, pages = self.present(pick, first, count)
        if pages:
            self.world.start_write(pair.core, pages.start, len(pages)).result()
            self.model.write(pair.model, pages)

    @rule(pick=PICK, first=FIRST, count=COUNT)
    def write_back(self, pick: int, first: int, count: int) -> None:
        """Write back what is dirty in a range."""
        core, model = self.pair(pick)
        pages = range(first, min(VMO_PAGES, first + count))
        for op in (PagerOp.WRITEBACK_BEGIN, PagerOp.WRITEBACK_END):
            self.world.op(op, core, first, len(pages))
        self.model.write_back(model, pages)

    @rule(pick=PICK, first=FIRST, count=COUNT)
    def pin(self, pick: int, first: int, count: int) -> None:
        """Pin what is there."""
        pair, pages = self.present(pick, first, count)
        if pages:
            access = self.world.start(pair.core.pin(pages.start * PAGE_SIZE, len(pages) * PAGE_SIZE))
            self.model.pin(pair.model, pages)
            self.pins.append((access.result(), pair.model, pages))

    @precondition(lambda self: self.pins)
    @rule(pick=PICK)
    def unpin(self, pick: int) -> None:
        """Lift a pin."""
        pin, model, pages = self.pins.pop(pick % len(self.pins))
        pin.unpin()
        self.model.unpin(model, pages)

    @rule(pick=PICK, first=FIRST, count=COUNT)
    def dont_need(self, pick: int, first: int, count: int) -> None:
        """Hint at pages that are not needed, there or not."""
        core, model = self.pair(pick)
        pages = range(first, min(VMO_PAGES, first + count))
        core.dont_need(first * PAGE_SIZE, len(pages) * PAGE_SIZE)
        self.model.dont_need(model, pages)

    @rule(pick=PICK, first=FIRST, count=COUNT, sure=st.integers(0, 3))
    def always_need(self, pick: int, first: int, count: int, sure: int) -> None:
        """Protect what is there, now and then."""
        pair, pages = self.present(pick, first, count)
        if pages and sure == 3:
            assert self.world.start(pair.core.always_need(pages.start * PAGE_SIZE, len(pages) * PAGE_SIZE)).done
            self.model.always_need(pair.model, pages)

    @rule(pick=PICK, first=FIRST, count=COUNT)
    def evict(self, pick: int, first: int, count: int) -> None:
        """Evict on command."""
        core, model = self.pair(pick)
        pages = range(first, min(VMO_PAGES, first + count))
        gone = self.world.pager.evict(core, first * PAGE_SIZE, len(pages) * PAGE_SIZE)
        assert [page for part in gone for page in range(*part)] == self.model.evict(model, pages)

    @rule(pages=st.sampled_from([1, 4, 16, LIMIT, LIMIT + 1]))
    def hold_memory(self, pages: int) -> None:
        """Take anonymous memory."""
        aux = AuxVmo(self.world.system)
        try:
            aux.write_nowait(0, b"x" * pages * PAGE_SIZE)
        except NoMemoryError:
            assert not self.model.allocate(pages)
        else:
            assert self.model.allocate(pages)
            self.aux.append((aux, pages))

    @precondition(lambda self: self.aux)
    @rule()
    def give_memory_back(self) -> None:
        """Give all of it back."""
        for aux, pages in self.aux:
            aux.close()
            self.model.anonymous -= pages
        self.aux.clear()

    @invariant()
    def compare(self) -> None:
        """Compare which pages are there, and what was counted."""
        self.world.check()
        for core, model in self.vmos:
            states = {
                page: core.state_at(page)
                for run in core.node.runs.over(PageRange(0, VMO_PAGES))
                for page in range(*run.range)
            }
            assert states == {
                page: PageState.DIRTY if dirty else PageState.CLEAN for page, dirty in model.pages.items()
            }
        assert self.world.system.frames.used == self.model.used
        counted = self.world.system.eviction
        assert counted is not None
        statistics = counted.statistics()
        assert statistics.evicted_pages_total == self.model.evicted_total
        assert statistics.refaulted_pages_total == self.model.refaulted_total


@in_parts
def test_the_pages_that_go_are_those_that_the_model_says(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction, "_FEW", 4)  # groups without pages are swept away sooner, which nobody may notice
    search(EvictionAgainstModel, part)
