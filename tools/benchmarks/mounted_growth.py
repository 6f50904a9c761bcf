"""The same growth as in ``growth.py``, through a mount: what a program and a pager see."""

from __future__ import annotations

import mmap
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.benchmarks.growth import OPERATIONS, Point, fits, sizes, timed
from tools.benchmarks.machine import on_one_cpu, resident_bytes
from tools.benchmarks.targets import Bench
from tools.benchmarks.vmofs_targets import Vmofs, VmofsMount
from vmofs.units import PAGE_SIZE

Call = Callable[[], object]

_MOST_FILES = 100_000  # made one by one
_MOST_REQUESTS = 50_000  # the kernel lets 65535 wait
_PIECE_PAGES = 256


class _Opened:
    """One VMO of a mount, and what a reader and a pager do with it."""

    def __init__(self, mount: VmofsMount, pager: Path, pages: int) -> None:
        self.path = mount.create(pager, pages * PAGE_SIZE)
        self._reader = -1
        self._out = os.open(pager / "supply" / "vmo" / self.path.name, os.O_WRONLY)
        # At a page of memory, or the kernel would cut a large write.
        self._bytes = memoryview(mmap.mmap(-1, _PIECE_PAGES * PAGE_SIZE))

    @property
    def reader(self) -> int:
        """The file, opened when it is first read: what is supplied before is not stored in the kernel's cache."""
        if self._reader < 0:
            self._reader = os.open(self.path, os.O_RDONLY)
            os.posix_fadvise(self._reader, 0, 0, os.POSIX_FADV_RANDOM)
        return self._reader

    def supply(self, page: int, count: int = 1) -> None:
        for start in range(page, page + count, _PIECE_PAGES):
            pages = min(_PIECE_PAGES, page + count - start)
            os.pwrite(self._out, self._bytes[: pages * PAGE_SIZE], start * PAGE_SIZE)

    def supplying(self, page: int) -> Call:
        return lambda: self.supply(page)

    def reading(self, page: int) -> Call:
        """Return a read that does not find the page in the kernel's cache."""
        os.posix_fadvise(self.reader, page * PAGE_SIZE, PAGE_SIZE, os.POSIX_FADV_DONTNEED)
        return lambda: os.pread(self.reader, 1, page * PAGE_SIZE)

    def ask(self, page: int) -> None:
        """Let the kernel ask for a page, without waiting for it."""
        os.posix_fadvise(self.reader, page * PAGE_SIZE, PAGE_SIZE, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        os.close(self._out)
        if self._reader >= 0:
            os.close(self._reader)
        self.path.unlink()


class _Answering:
    """A pager in a thread: counts the requests, and answers those that are not to be left alone."""

    def __init__(self, pager: Path, vmo: _Opened) -> None:
        self._vmo = vmo
        self._seen = 0
        self._answers = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(pager / "requests",), daemon=True)
        self._thread.start()

    def _run(self, fifo: Path) -> None:
        with fifo.open() as lines:
            for line in lines:
                word, _, offset, length, _ = line.split(" ")
                if word == "READ":
                    with self._changed:
                        self._seen += int(length) // PAGE_SIZE
                        self._changed.notify()
                    if self._answers:
                        self._vmo.supply(int(offset) // PAGE_SIZE, int(length) // PAGE_SIZE)

    def leave(self, pages: list[int]) -> None:
        """Have these pages asked for, and do not answer."""
        for page in pages:
            self._vmo.ask(page)
        with self._changed:
            assert self._changed.wait_for(lambda: self._seen >= len(pages), timeout=300), self._seen
        self._answers = True


@contextmanager
def _served(mount: VmofsMount, pages: int) -> Iterator[tuple[_Opened, _Answering]]:
    pager = mount.make_pager()
    vmo = _Opened(mount, pager, pages)
    try:
        yield vmo, _Answering(pager, vmo)
    finally:
        pager.rmdir()  # answers everybody, and ends the thread
        vmo.close()


def _vmo_size(mount: VmofsMount, x: int) -> Iterator[tuple[str, list[Call]]]:
    pages = random.Random(x).sample(range(x), 2 * OPERATIONS)  # noqa: S311
    with _served(mount, x) as (vmo, answering):
        answering.leave([])
        yield "supply a page", [vmo.supplying(page) for page in pages[:OPERATIONS]]
        yield "read a present page", [vmo.reading(page) for page in pages[:OPERATIONS]]
        yield "miss: ask, supply, read", [vmo.reading(page) for page in pages[OPERATIONS:]]


def _present_pages(mount: VmofsMount, x: int) -> Iterator[tuple[str, list[Call]]]:
    pages = random.Random(x).sample(range(x), 2 * OPERATIONS)  # noqa: S311
    with _served(mount, 2 * x) as (vmo, answering):
        answering.leave([])
        vmo.supply(0, x)
        yield "read a present page", [vmo.reading(page) for page in pages[:OPERATIONS]]
        yield "supply a page", [vmo.supplying(page + x) for page in pages[:OPERATIONS]]
        yield "miss: ask, supply, read", [vmo.reading(page + x) for page in pages[OPERATIONS:]]


def _vmos(mount: VmofsMount, x: int) -> Iterator[tuple[str, list[Call]]]:
    pager = mount.make_pager()
    command = os.open(pager / "create_vmo", os.O_WRONLY)
    directory = mount.path / "vmo" / "many"
    directory.mkdir()
    for index in range(x):
        os.write(command, f"vmo/many/{index} 4096\n".encode())
    chosen = random.Random(x).sample(range(x), OPERATIONS)  # noqa: S311
    yield "create a VMO", [lambda i=i: os.write(command, b"vmo/many/new%d 4096\n" % i) for i in chosen]  # type: ignore[misc]
    yield "stat a VMO", [lambda i=i: (directory / str(i)).stat() for i in chosen]  # type: ignore[misc]
    yield "unlink a VMO", [lambda i=i: (directory / f"new{i}").unlink() for i in chosen]  # type: ignore[misc]
    os.close(command)


def _requests(mount: VmofsMount, x: int) -> Iterator[tuple[str, list[Call]]]:
    pages = random.Random(x).sample(range(x), OPERATIONS)  # noqa: S311
    with _served(mount, 2 * x) as (vmo, answering):
        answering.leave([2 * index for index in range(x)])
        yield "miss: ask, supply, read", [vmo.reading(2 * page + 1) for page in pages]
        yield "answer a request", [vmo.supplying(2 * page) for page in pages]
        vmo.supply(0, 2 * x)


_AXES = {
    "pages of the VMO": (_vmo_size, 10**6),
    "pages present": (_present_pages, 10**6),
    "VMOs": (_vmos, _MOST_FILES),
    "requests outstanding": (_requests, _MOST_REQUESTS),
}


def measure_mount(bench: Bench, vmofs: Vmofs, axis: str) -> list[Point]:
    """Measure one axis, each point in a mount of its own."""
    measure, most = _AXES[axis]
    points, limit = [], min(most, bench.sizes.growth_limit)
    for x in sorted({*sizes(limit), limit}):
        with on_one_cpu():  # across CPUs everything takes three times as long, and the scheduler says when that is
            mount = VmofsMount(bench, vmofs)
            try:
                empty = resident_bytes(mount.pid)
                points += [timed("mount", axis, x, operation, calls) for operation, calls in measure(mount, x)]
                held = resident_bytes(mount.pid) - empty
            finally:
                mount.stop()
        if not fits(held, x, 10 * x):
            break
    return points
