"""How the cost of an operation grows with the size of a VMO, and the number of present pages, VMOs and requests.

Of the model alone (``vmofs.core``), where nothing else disturbs and a million of anything can be had. As a program,
``growth.py AXIS LIMIT`` prints a JSON line for each point; it is a process of its own for each axis, so that what one
leaves in memory is no burden to the next. The same through a mount: ``mounted_growth.py``.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from statistics import mean, median
from typing import Any

from tools.benchmarks.machine import ROOT, available_bytes, resident_bytes
from vmofs.core.pager import Pager
from vmofs.core.requests.access import Access
from vmofs.core.requests.port import Port
from vmofs.core.requests.system import System
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.units import PAGE_SIZE, Key

Point = dict[str, Any]
"""``where``, ``axis``, ``operation``, ``x``, and ``us``, the median."""

OPERATIONS = 40
"""How often each is timed for a point."""

_PAGE = b"\1" * PAGE_SIZE
_RUN = 8  # pages
_SAFE_SHARE = 0.6  # of the memory that is left


def sizes(limit: int) -> list[int]:
    """Return the powers of ten from 100 to ``limit``."""
    return [10**power for power in range(2, 7) if 10**power <= limit]


def timed(where: str, axis: str, x: int, operation: str, calls: list[Callable[[], object]]) -> Point:
    """Carry out each call once and return the point."""
    took = []
    for call in calls:
        began = time.perf_counter_ns()
        call()
        took.append((time.perf_counter_ns() - began) / 1e3)
    return {"where": where, "axis": axis, "x": x, "operation": operation, "us": median(took), "mean_us": mean(took)}


class _Model:
    """A pager with one port, and the calls that are timed."""

    def __init__(self) -> None:
        self.system = System()
        self.pager = Pager(self.system)
        self.port = Port(self.system)

    def vmo(self, pages: int) -> PagerVmo:
        return self.pager.create_vmo(self.port, Key(1), pages * PAGE_SIZE)

    def supply(self, vmo: PagerVmo, page: int) -> Callable[[], object]:
        def call() -> None:
            self.pager.supply_bytes(vmo, page * PAGE_SIZE, _PAGE)
            self.system.run_ready(0)

        return call

    def read(self, vmo: PagerVmo, page: int) -> Callable[[], object]:
        return lambda: vmo.read_nowait(page * PAGE_SIZE, PAGE_SIZE)

    def ask(self, vmo: PagerVmo, page: int) -> Access[bytes]:
        """Let a reader wait, and the pager hear of it."""
        access = vmo.read(page * PAGE_SIZE, PAGE_SIZE)
        assert not access.start(0)
        assert self.port.dequeue() is not None
        return access

    def miss(self, vmo: PagerVmo, page: int) -> Callable[[], object]:
        def call() -> None:
            access = self.ask(vmo, page)
            self.pager.supply_bytes(vmo, page * PAGE_SIZE, _PAGE)
            assert self.system.run_ready(0) == [access]
            access.result()

        return call

    def evict(self, vmo: PagerVmo, page: int) -> Callable[[], object]:
        return lambda: self.pager.evict(vmo, page * PAGE_SIZE, PAGE_SIZE)

    def create_and_close(self) -> None:
        self.pager.close_vmo(self.vmo(1))
        self.port.dequeue()


def _vmo_size(x: int) -> Iterator[tuple[str, list[Callable[[], object]]]]:
    model = _Model()
    vmo = model.vmo(x)
    pages = random.Random(x).sample(range(x), 2 * OPERATIONS)  # noqa: S311
    yield "supply a page", [model.supply(vmo, page) for page in pages[:OPERATIONS]]
    yield "read a present page", [model.read(vmo, page) for page in pages[:OPERATIONS]]
    yield "miss: ask, supply, read", [model.miss(vmo, page) for page in pages[OPERATIONS:]]


def _present_pages(x: int) -> Iterator[tuple[str, list[Callable[[], object]]]]:
    """Runs of present pages and gaps of the same length take turns, and were supplied in random order."""
    model = _Model()
    vmo = model.vmo(2 * x)
    order = random.Random(x)  # noqa: S311
    for start in order.sample(range(0, 2 * x, 2 * _RUN), x // _RUN):
        model.pager.supply_bytes(vmo, start * PAGE_SIZE, _PAGE * _RUN)
    pages = [page // _RUN * 2 * _RUN + page % _RUN for page in order.sample(range(x // _RUN * _RUN), 2 * OPERATIONS)]
    yield "read a present page", [model.read(vmo, page) for page in pages[:OPERATIONS]]
    yield "supply a page", [model.supply(vmo, page + _RUN) for page in pages[:OPERATIONS]]
    yield "miss: ask, supply, read", [model.miss(vmo, page + _RUN) for page in pages[OPERATIONS:]]
    yield "evict a page", [model.evict(vmo, page) for page in pages]


def _vmos(x: int) -> Iterator[tuple[str, list[Callable[[], object]]]]:
    model = _Model()
    vmos = [model.vmo(4) for _ in range(x)]
    chosen = random.Random(x).sample(vmos, OPERATIONS)  # noqa: S311
    yield "create and close a VMO", [model.create_and_close] * OPERATIONS
    yield "supply a page", [model.supply(vmo, 0) for vmo in chosen]
    yield "read a present page", [model.read(vmo, 0) for vmo in chosen]
    yield "miss: ask, supply, read", [model.miss(vmo, 1) for vmo in chosen]


def _requests(x: int) -> Iterator[tuple[str, list[Callable[[], object]]]]:
    """Readers wait for every second page of a VMO, and the pager has heard of all."""
    model = _Model()
    vmo = model.vmo(2 * x)
    waiting = [model.ask(vmo, 2 * index) for index in range(x)]
    pages = [2 * index for index in random.Random(x).sample(range(x), OPERATIONS)]  # noqa: S311
    yield "miss: ask, supply, read", [model.miss(vmo, page + 1) for page in pages]
    yield "answer a request", [model.supply(vmo, page) for page in pages]
    assert sum(access.done for access in waiting) == OPERATIONS


AXES: dict[str, Callable[[int], Iterator[tuple[str, list[Callable[[], object]]]]]] = {
    "pages of the VMO": _vmo_size,
    "pages present": _present_pages,
    "VMOs": _vmos,
    "requests outstanding": _requests,
}


def measure_model(axis: str, limit: int) -> list[Point]:
    """Measure one axis of the model in a process of its own."""
    command = [sys.executable, "-m", "tools.benchmarks.growth", axis, str(limit)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return [json.loads(line) for line in result.stdout.splitlines()]


def fits(held_bytes: float, x: int, next_x: int) -> bool:
    """Return whether there is memory for the next point, if ``x`` of them hold so much."""
    return held_bytes / x * next_x < available_bytes() * _SAFE_SHARE


def _main() -> None:
    axis, limit = sys.argv[1], int(sys.argv[2])
    empty = resident_bytes(os.getpid())
    for x in sizes(limit):
        held = 0
        for operation, calls in AXES[axis](x):
            print(json.dumps(timed("model", axis, x, operation, calls)), flush=True)
            held = max(held, resident_bytes(os.getpid()) - empty)
        if not fits(held, x, 10 * x):
            break


if __name__ == "__main__":
    _main()
