"""The contract in the core alone: what the files of a mount do not offer, or offer in another way.

Aux VMOs that stay and are pinned in part, pagers that are not the VMO's, ports with lanes, ports that are closed, and
writes that are longer than a batch.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.oracle.model import ModelAux, ModelVmo
from tests.support.contract_calls import Member, Side, outcome, pages_of
from tests.support.contract_machine import PAGES, PICK, ContractMachine, ranges
from tests.support.contract_worlds import Worlds, read_page
from vmofs.core.pages.pins import Pin
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import Status
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, Key, PageRange

LARGE_PAGES = 24
"""Pages of a VMO that takes a write of more than a batch."""

LANES = st.sampled_from(["lane", "lane", "another"])


class KeptAux(NamedTuple):
    """An aux VMO in both worlds, with the pin that it may have."""

    core: AuxVmo
    model: ModelAux
    pin: Pin | None


class CoreWorlds(Worlds):
    """The core and the naive model, with aux VMOs that stay."""

    shown_pages = LARGE_PAGES + 2

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[KeptAux] = []

    def close(self) -> None:
        """Close all."""
        for aux in self.kept:
            if aux.pin is not None:
                aux.pin.unpin()
            aux.core.close()
        super().close()

    def kept_aux(self) -> list[AuxVmo]:
        """Return the aux VMOs."""
        return [aux.core for aux in self.kept]

    def keep_aux(self, pages: int, holes: set[int], pinned: int | None) -> None:
        """Make an aux with holes, and sometimes a pinned page."""
        core, model = AuxVmo(self.system, pages * PAGE_SIZE, account=self.payers.next()), ModelAux([None] * pages)
        key, pin = self.new_key(), None
        for page in set(range(pages)) - holes:
            model.pages[page] = data = pattern.make_pages(key, PageRange(page, page + 1))
            core.write_nowait(page * PAGE_SIZE, data)
        if pinned is not None and pinned < pages:
            pin = core.pin(pinned * PAGE_SIZE, PAGE_SIZE)  # a pinned page has memory, also one that was a hole
            model.pages[pinned] = model.pages[pinned] or bytes(PAGE_SIZE)
            model.pinned.add(pinned)
        self.kept.append(KeptAux(core, model, pin))

    def supply_from(
        self, side: Side, member: Member, where: tuple[int, int], aux: KeptAux | Member, aux_offset: int
    ) -> None:
        """Supply from some place of an aux that stays, or of a VMO that has a pager."""
        filled = outcome(lambda: pages_of(side.core.supply_pages(member.core, *where, aux.core, aux_offset)))
        source = aux.model
        assert isinstance(source, ModelAux | ModelVmo)
        assert filled == (
            outcome(lambda: self.model.supply(side.model, member.root, *where, source, aux_offset))
            if member.is_root
            else Status.INVALID_ARGS
        )

    def compare(self) -> None:
        """Compare the worlds, and what there is in ports, pagers and aux."""
        super().compare()
        for side in self.sides:
            statistics, port = side.port.statistics(), side.model_port
            assert statistics.queued == len(port.queue) + len(port.returned)
            assert statistics.delivered == len(port.delivered)
            known: dict[ModelVmo, PagerVmo] = {tree.model.vmo: tree.core for tree in self.trees}
            assert list(side.core.vmos) == [known[vmo] for vmo in side.model.vmos]
        for aux in self.kept:
            shown = [read_page(aux.core, page) for page in range(len(aux.model.pages))]
            assert shown == [data or bytes(PAGE_SIZE) for data in aux.model.pages]


class CoreMachine(ContractMachine):
    """The whole contract, and what only the core has."""

    worlds: CoreWorlds

    def make_worlds(self) -> CoreWorlds:
        """Make the worlds."""
        return CoreWorlds()

    @precondition(lambda self: self.has_room())
    @rule(pager=PICK, trap=st.booleans(), offset=st.sampled_from([0, 8, PAGE_SIZE]), pages=st.sampled_from([17, 20]))
    def long_write(self, pager: int, trap: bool, offset: int, pages: int) -> None:
        """Write more than a batch to a VMO of its own."""
        options = VmoOptions(trap_dirty=trap)
        made = self.worlds.make_root(self.worlds.sides[pager % 2], LARGE_PAGES * PAGE_SIZE, options)
        if isinstance(made, Member):
            data = pattern.make(self.worlds.new_key(), offset, pages * PAGE_SIZE)
            self.worlds.start(made, "write", (offset, pages * PAGE_SIZE), data)

    @precondition(lambda self: len(self.worlds.kept) < 2)
    @rule(pages=st.integers(0, PAGES), holes=st.sets(st.integers(0, PAGES)), pinned=st.none() | PICK)
    def keep_aux(self, pages: int, holes: set[int], pinned: int | None) -> None:
        """Make an aux that stays."""
        self.worlds.keep_aux(pages, holes, pinned)

    @precondition(lambda self: self.worlds.kept and self.worlds.members)
    @rule(pick=PICK, where=ranges(), aux=PICK, aux_offset=st.sampled_from([0, 0, 1, 2, PAGES]), ragged=PICK)
    def supply_part(self, pick: int, where: tuple[int, int], aux: int, aux_offset: int, ragged: int) -> None:
        """Supply from some place of an aux that stays, seldom by the wrong pager."""
        member = self.root(pick)
        side = self.worlds.sides[(member.tree.side.number + (ragged == 0)) % 2]
        at = aux_offset * PAGE_SIZE + (8 if ragged == 1 else 0)
        self.worlds.supply_from(side, member, where, self.worlds.kept[aux % len(self.worlds.kept)], at)

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK, aux=PICK, where=ranges())
    def supply_from_pager_vmo(self, pick: int, aux: int, where: tuple[int, int]) -> None:
        """Try to take pages from a VMO that has a pager."""
        source = self.root(aux)
        if isinstance(source.core, PagerVmo):
            member = self.root(pick)
            self.worlds.supply_from(member.tree.side, member, where, source, where[0])

    @rule(side=PICK, lane=LANES, count=st.integers(1, 3))
    def dequeue(self, side: int, lane: str, count: int) -> None:
        """Dequeue packets as one of several workers; each was there to be seen before."""
        one = self.worlds.sides[side % 2]
        for _ in range(count):
            seen = one.port.peek()
            assert self.worlds.dequeue(one, lane) == seen

    @rule(side=PICK, lane=LANES)
    def lose_worker(self, side: int, lane: str) -> None:
        """Deliver again what one of the workers had."""
        self.worlds.lose_worker(self.worlds.sides[side % 2], lane)

    @precondition(lambda self: self.worlds.count)
    @rule(side=PICK, key=PICK)
    def cancel_key(self, side: int, key: int) -> None:
        """Drop the queued packets of a key."""
        one, number = self.worlds.sides[side % 2], key % self.worlds.count
        assert one.port.cancel_key(Key(number)) == self.worlds.model.cancel_key(one.model_port, number)

    @rule(side=PICK, sure=st.integers(0, 40))
    def close_port(self, side: int, sure: int) -> None:
        """Close a port, seldom; for good."""
        if sure == 40:
            one = self.worlds.sides[side % 2]
            one.port.close()
            self.worlds.model.close_port(one.model_port)
