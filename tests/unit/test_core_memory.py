"""What a VMO costs beyond its pages. What the pages cost: test_core_eviction."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

from vmofs.core.pager import Pager
from vmofs.core.requests.port import Port
from vmofs.core.requests.system import System
from vmofs.units import PAGE_SIZE, Key

P = PAGE_SIZE


def growth_bytes(make: Callable[[], object]) -> int:
    """Return what Python allocated and still holds after a call."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = make()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del kept
    return after - before


def test_a_vmo_without_pages_costs_little_more_than_a_kibibyte() -> None:
    system = System(2**20)  # with a limit the order of use is kept, too
    pager, port = Pager(system), Port(system)
    assert growth_bytes(lambda: [pager.create_vmo(port, Key(1000 + i), 5 * P) for i in range(200)]) / 200 <= 1280


def test_a_vmo_that_was_read_costs_little_more_than_its_page_afterwards() -> None:
    system = System(2**20)  # with a limit the order of use is kept, too
    pager, port = Pager(system), Port(system)
    vmos = [pager.create_vmo(port, Key(1000 + i), P) for i in range(100)]

    def read() -> None:
        for one in vmos:
            access = one.read(0, P)
            access.start(0.0)
            port.dequeue()
            pager.supply_bytes(one, 0, b"x" * P)
            system.run_ready(0.0)

    assert growth_bytes(read) / 100 <= 1536
