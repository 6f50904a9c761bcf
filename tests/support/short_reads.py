"""Reads on the short path of a miss, and the worlds of the contract with that path switched on and off at any time."""

from __future__ import annotations

from typing import Any

from tests.oracle.short_read import ShortRead, short_read
from tests.support.contract_calls import Call, Member, model_access, outcome
from tests.support.contract_worlds import LANE, Worlds
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PacketCommand

_STEP = 2.0**-10
"""Seconds between two calls: what is raised later is younger."""


class ShortWorlds(Worlds):
    """Reads of one page take the short path where that is possible, and while ``is_short``; so do supplies."""

    def __init__(self) -> None:
        super().__init__()
        self.is_short = True
        self.short_reads = 0
        self.short_answers = 0

    def access_of(self, call: Call) -> object:
        """Return the access in the core, None while there is none."""
        return call.core.access if isinstance(call.core, ShortRead) else call.core

    def start(self, member: Member, name: str, where: tuple[int, int], data: bytes = b"", way: str = "") -> Call | None:
        """Start a call; on the short path if it is a read that can."""
        self.now += _STEP
        call = self._start_short(member, name, where, way) if self.is_short else None
        return call or super().start(member, name, where, data, way)

    def _start_short(self, member: Member, name: str, where: tuple[int, int], way: str) -> Call | None:
        vmo = member.core
        offset, length = where
        if name != "read" or not isinstance(vmo, PagerVmo) or length != PAGE_SIZE:
            return None
        if outcome(lambda: vmo.read_nowait(offset, length)) is not None:
            return None
        started = short_read(vmo, offset, LANE, self.now)
        if started is None:
            return None
        read, sent = started
        core: Any = read
        call = Call(member, name, where, b"", way, core, model_access(self.model, member, name, where, b""))
        self.model.start(call.model, self.now)
        if sent:
            expected = self.model.dequeue(member.tree.side.model_port, LANE)
            assert expected is not None
            assert (expected.vmo, expected.command) == (member.root, PacketCommand.READ)
            assert expected.pages == [offset // PAGE_SIZE]
        self.calls.append(call)
        self.short_reads += 1
        return call

    def run(self) -> None:
        """Let those who woke look again."""
        self.now += _STEP
        super().run()

    def supply_pages(self, member: Member, where: tuple[int, int], pages: list[bytes | None]) -> object:
        """Supply pages; one that is missed by its bytes."""
        if not self.is_short or len(pages) != 1 or pages[0] is None or where[1] != PAGE_SIZE:
            return super().supply_pages(member, where, pages)
        readers = outcome(lambda: member.tree.side.core.supply_page(member.core, where[0], pages[0] or b""))
        if readers is None:
            return super().supply_pages(member, where, pages)
        assert isinstance(readers, list)
        filled = self.model_supply(member, where, pages)
        assert filled == [where[0] // PAGE_SIZE]
        calls = [call for call in self.calls if call.core in readers]
        assert len(calls) == len(readers) > 0
        for call in calls:
            assert isinstance(call.core, ShortRead)
            call.core.answer(pages[0])
            self.model.woken.remove(call.model)
            self.model.start(call.model, self.now)
        self.short_answers += 1
        return filled

    def look_at_all(self) -> None:
        """Look at all requests: from then on they are ordinary ones, and compared in their order."""
        assert self.system.waiters == sum(len(request.waiters) for request in self.model.requests)
        super()._compare_requests()

    def _compare_requests(self) -> None:
        """Compare the requests, without looking at them by a door that makes ordinary ones of misses."""
        seen = [
            (r.raised_at, r.source.key, r.command, list(range(*r.range)), r.pending_count) for r in self.system.ordinary
        ]
        seen += [
            (miss.raised_at, source.key, PacketCommand.READ, [page], 1)
            for side in self.sides
            for (source, page), miss in side.port.misses.items()
        ]
        assert sorted(seen, key=lambda one: one[0]) == [
            (r.raised_at, r.vmo.key, r.command, r.pages, r.count) for r in self.model.requests
        ]
        readers = {
            (source.key, page): len(miss.readers)
            for side in self.sides
            for (source, page), miss in side.port.misses.items()
        }
        waiters = {
            (r.vmo.key, r.pages[0]): len(r.waiters) for r in self.model.requests if r.command is PacketCommand.READ
        }
        assert readers.items() <= waiters.items()
