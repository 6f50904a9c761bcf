"""Direct asynchronous writes of a file that others read through the page cache: nobody may read what was there before.

The situation of xfstests' generic/451. ``python -m tests.support.stale_reads PATH SECONDS KIND [write_only]`` (KIND:
libaio or io_uring) tries it on a file of any filesystem and prints how many reads after how many writes were stale.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.support.asynchronous import WAYS, Buffer

PAGE = 4096
PAGES = 16
WRITERS = 2
READERS = 2


class Found(NamedTuple):
    """What one writer has seen."""

    writes: int
    stale: int


def run(path: Path, seconds: float, way: str, flags: int = os.O_RDWR | os.O_DIRECT) -> Found:
    """Let several processes read and write a file of ``PAGES`` pages, and return what they have seen."""
    ends = time.monotonic() + seconds
    with ExitStack() as stack:
        for _ in range(READERS):
            stack.callback(_start(partial(_read, path, ends)))
        found = [_start(partial(_write, path, ends, way, flags, number)) for number in range(WRITERS)]
        results = [Found(*map(int, finish().split())) for finish in found]
    return Found(sum(it.writes for it in results), sum(it.stale for it in results))


def _start(work: Callable[[], str]) -> Callable[[], str]:
    """Start a process; return a function that waits for its end and returns its result."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(into, work().encode())
        finally:
            os._exit(0)
    os.close(into)

    def finish() -> str:
        with os.fdopen(out, encoding="ascii") as result:
            text = result.read()
        os.waitpid(pid, 0)
        assert text, "it failed"
        return text

    return finish


def _read(path: Path, ends: float) -> str:
    fd = os.open(path, os.O_RDONLY)
    while time.monotonic() < ends:
        for page in range(PAGES):
            os.pread(fd, PAGE, page * PAGE)
        time.sleep(0.0002)  # or the others would hardly get a turn on two CPUs
    return "done"


def _write(path: Path, ends: float, way: str, flags: int, number: int) -> str:
    """Write a part of one's own, over and over, each time with another number."""
    size = PAGES // WRITERS * PAGE
    writer, buffer = WAYS[way](), Buffer(size)
    direct, buffered = os.open(path, flags), os.open(path, os.O_RDONLY)
    writes = stale = 0
    while time.monotonic() < ends:
        writes += 1
        buffer.memory[:] = writes.to_bytes(8, "little") * (size // 8)
        assert writer.write(direct, buffer, size, number * size) == size
        stale += os.pread(buffered, size, number * size) != buffer.memory[:]
    return f"{writes} {stale}"


if __name__ == "__main__":
    _, place, how_long, by, *rest = sys.argv
    Path(place).touch()
    os.truncate(place, PAGES * PAGE)
    seen = run(Path(place), float(how_long), by, os.O_DIRECT | (os.O_WRONLY if rest else os.O_RDWR))
    sys.stdout.write(f"{seen}\n")
