"""The whole contract with the short path of a miss: always taken where it can be, and switched on and off at random."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.support.contract_machine import PAGES, PICK, ContractMachine
from tests.support.searching import in_parts, search
from tests.support.short_reads import ShortWorlds
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.units import PAGE_SIZE


class MissMachine(ContractMachine):
    """The contract, with many reads of one page."""

    worlds: ShortWorlds

    def make_worlds(self) -> ShortWorlds:
        """Make worlds with the short path."""
        return ShortWorlds()

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK, page=st.integers(0, PAGES))
    def read_page(self, pick: int, page: int) -> None:
        """Start a read of one page of a root."""
        self.worlds.start(self.root(pick), "read", (page * PAGE_SIZE, PAGE_SIZE))

    @precondition(lambda self: any(side.port.misses for side in self.worlds.sides))
    @rule(pick=PICK, run=st.booleans())
    def answer_a_miss(self, pick: int, run: bool) -> None:
        """Supply the page that somebody misses."""
        missed = [where for side in self.worlds.sides for where in side.port.misses]
        source, page = missed[pick % len(missed)]
        member = next((it for it in self.worlds.members if it.is_root and it.core.source is source), None)
        if member is not None:
            self.worlds.supply(member, (page * PAGE_SIZE, PAGE_SIZE), set())
        if run:
            self.worlds.run()

    @rule()
    def look_at_all(self) -> None:
        """Look at all requests."""
        self.worlds.look_at_all()


class SwitchedMachine(MissMachine):
    """The same, and the short path is taken or not."""

    @rule(is_short=st.booleans())
    def switch(self, is_short: bool) -> None:
        """Switch the short path."""
        self.worlds.is_short = is_short


@in_parts
def test_the_contract_holds_where_misses_take_the_short_path(part: int) -> None:
    search(MissMachine, part)


@in_parts
def test_the_contract_holds_where_the_short_path_is_switched_at_any_time(part: int) -> None:
    search(SwitchedMachine, part)


def test_the_machine_takes_the_short_path_to_the_end() -> None:
    machine = MissMachine()
    worlds = machine.worlds
    worlds.make_root(worlds.sides[0], PAGES * PAGE_SIZE, VmoOptions())
    machine.read_page(0, 1)
    machine.read_page(0, 1)
    assert (worlds.short_reads, len(worlds.sides[0].port.misses)) == (2, 1)
    machine.answer_a_miss(0, run=False)
    assert worlds.short_answers == 1
    assert all(call.core.done for call in worlds.calls)
    worlds.compare()
    assert not worlds.calls
    machine.teardown()
