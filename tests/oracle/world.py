"""A small world for tests of the core: one system, port and pager, self-describing pages, and the contract's notation.

Pages are page indices and counts, packets are strings like ``READ(0,4)``; accesses run on as soon as something woke
them.
"""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from tests.oracle.short_read import short_read
from vmofs.core.pager import Pager
from vmofs.core.pages.states import PageState
from vmofs.core.requests.access import Access
from vmofs.core.requests.port import Port
from vmofs.core.requests.request import Packet
from vmofs.core.requests.system import System
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import Status
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, Key, PageRange
from vmofs.vocabulary import PacketCommand, PagerOp

T = TypeVar("T")

KEY = 7 * pattern.KEY_STEP
"""The key of a VMO, and of its contents, if none is given."""

AUX_KEY = 9 * pattern.KEY_STEP
"""The key of what a write writes."""


class World:
    """One of everything. ``now`` is the clock of new requests, in seconds.

    ``is_short``: reads of one page take the short path of a miss where they can.
    """

    def __init__(self, limit_pages: int | None = None, *, is_short: bool = False) -> None:
        self.system = System(limit_pages)
        self.port = Port(self.system)
        self.pager = Pager(self.system)
        self.now = 0.0
        self._is_short = is_short
        self._sent: deque[str] = deque()  # packets of misses, which are delivered at once

    def vmo(
        self, pages: int = 8, *, key: int = KEY, size: int | None = None, options: VmoOptions | None = None
    ) -> PagerVmo:
        """Make a VMO of this many pages, or of ``size`` bytes."""
        size = pages * PAGE_SIZE if size is None else size
        return self.pager.create_vmo(self.port, Key(key), size, options or VmoOptions())

    def trap_vmo(self, pages: int = 8, *, key: int = KEY) -> PagerVmo:
        """Make a VMO with TRAP_DIRTY."""
        return self.vmo(pages, key=key, options=VmoOptions(trap_dirty=True))

    def aux(self, page: int, pages: int, *, key: int = KEY, zero: bool = False) -> AuxVmo:
        """Make an aux VMO that holds these pages of the object with this key, from its own page 0 on."""
        aux = AuxVmo(self.system)
        if zero:
            aux.set_size(pages * PAGE_SIZE)
        else:
            aux.write_nowait(0, pattern.make_pages(key, PageRange(page, page + pages)))
        return aux

    # What a pager does

    def supply(self, vmo: PagerVmo, page: int, pages: int = 1, *, zero: bool = False) -> list[PageRange]:
        """Supply pages with the contents that belong there (or zeros, uncommitted); let those who woke run."""
        aux = self.aux(page, pages, key=vmo.source.key, zero=zero)
        filled = self.pager.supply_pages(vmo, page * PAGE_SIZE, pages * PAGE_SIZE, aux, 0)
        aux.close()
        self.run()
        return filled

    def fail(self, vmo: PagerVmo, page: int, pages: int = 1, status: Status = Status.IO) -> None:
        """Fail a range; let those who woke run."""
        self.op(PagerOp.FAIL, vmo, page, pages, status)

    def op(self, op: PagerOp | None, vmo: PagerVmo, page: int, pages: int = 1, data: int = 0) -> None:
        """Call ``op_range`` for pages; let those who woke run."""
        self.pager.op_range(op, vmo, page * PAGE_SIZE, pages * PAGE_SIZE, data)
        self.run()

    def dequeue(self, lane: object = None, port: Port | None = None) -> str | None:
        """Dequeue one packet."""
        if self._sent:
            return self._sent.popleft()
        packet = (port or self.port).dequeue(lane)
        return None if packet is None else notation(packet)

    def packets(self, port: Port | None = None) -> list[str]:
        """Dequeue all packets."""
        return list(iter(lambda: self.dequeue(port=port), None))

    # What others do

    def start(self, access: Access[T]) -> Access[T]:
        """Start an access, which may then be blocked."""
        access.start(self.now)
        return access

    def start_read(self, vmo: PagerVmo, page: int, pages: int = 1) -> Access[bytes]:
        """Start reading whole pages."""
        if self._is_short and pages == 1 and type(vmo) is PagerVmo and self._is_absent(vmo, page):
            started = short_read(vmo, page * PAGE_SIZE, None, self.now)
            if started is not None:
                read, is_sent = started
                if is_sent:
                    self._sent.append(f"READ({page},1)")
                return read  # type: ignore[return-value] # as much of an access as tests need
        return self.start(vmo.read(page * PAGE_SIZE, pages * PAGE_SIZE))

    def _is_absent(self, vmo: PagerVmo, page: int) -> bool:
        return page < vmo.size_pages and vmo.state_at(page) is PageState.GAP

    def start_write(self, vmo: PagerVmo, page: int, pages: int = 1) -> Access[int]:
        """Start writing whole pages of the object with ``AUX_KEY``."""
        return self.start(vmo.write(page * PAGE_SIZE, pattern.make_pages(AUX_KEY, PageRange(page, page + pages))))

    def run(self) -> list[Access[object]]:
        """Let those who woke look again; return those who finished."""
        return self.system.run_ready(self.now)

    def states(self, vmo: PagerVmo) -> str:
        """Return the states of the first pages of a VMO as letters: ``.`` gap, else the first letter of the state."""
        return "".join(
            {"gap": "."}.get(name := vmo.state_at(page).value, name[0]) for page in range(min(vmo.size_pages, 64))
        )

    def check(self) -> None:
        """Assert every invariant."""
        self.system.check()
        self.port.check()
        self.pager.check()


def notation(packet: Packet) -> str:
    """Return a packet as the contract writes it: ``READ(0,4)`` in pages, or ``COMPLETE``."""
    if packet.command is PacketCommand.COMPLETE:
        assert (packet.offset, packet.length) == (0, 0), packet
        return "COMPLETE"
    assert packet.offset % PAGE_SIZE == packet.length % PAGE_SIZE == 0 < packet.length, packet
    return f"{packet.command.name}({packet.offset // PAGE_SIZE},{packet.length // PAGE_SIZE})"
