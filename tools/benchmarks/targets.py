"""What a target is, and what all targets share: a run's directories and sizes, processes that are started and ended."""

from __future__ import annotations

import json
import mmap
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from tools.benchmarks.machine import Placement, compiled

ALMOST_ALL = 0.9
"""What share of what was stored must be in the kernel's cache soon after: machines may reclaim it."""

_START_SECONDS = 30.0


@dataclass(frozen=True)
class Sizes:
    """How large things are. ``slow_misses`` is for who starts a process for each, ``peer_files`` for slow peers.

    ``web_share``: how much is done with files of a web server, of what is done else.
    """

    object_bytes: int
    supply_bytes: int
    misses: int
    slow_misses: int
    files: int
    peer_files: int
    pages_in_random_order: int
    growth_limit: int
    web_share: float


FULL = Sizes(2**30, 2**28, 2000, 100, 100_000, 2000, 2**16, 10**6, 1.0)
QUICK = Sizes(2**24, 2**23, 200, 5, 200, 50, 512, 10**3, 0.05)


@dataclass
class Bench:
    """One run: its temporary directories, the second of them in memory, and how large things are."""

    directory: Path
    memory: Path
    sizes: Sizes
    placement: Placement
    _names: Iterator[int] = field(default_factory=count)

    @property
    def source(self) -> Path:
        """The object's bytes in a tmpfs."""
        return self.memory / "object"

    @contextmanager
    def mapped_source(self) -> Iterator[memoryview]:
        """Map the source: the kernel cuts a write of 1 MiB in two that does not begin with a page of memory."""
        with (
            self.source.open("rb") as file,
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
            memoryview(mapped) as view,
        ):
            yield view

    def new_directory(self) -> Path:
        """Make a directory for a mount."""
        path = self.directory / f"mount{next(self._names)}"
        path.mkdir()
        return path

    def client(self, *arguments: object) -> dict[str, Any]:
        """Run the client and return what it measured.

        Raises:
            RuntimeError: it failed, or read something wrong.
        """
        command = [*self.placement.prefix(client=True), compiled("client"), *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if result.returncode:
            raise RuntimeError(f"client {' '.join(map(str, arguments))}: {(result.stdout + result.stderr)[-300:]}")
        measured: dict[str, Any] = json.loads(result.stdout)
        return measured

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - Popen's own
        """Start a server."""
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [*self.placement.prefix(client=False), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **options,
            )


class Target(Protocol):
    """A way of serving the object."""

    name: str

    def start(self, bench: Bench) -> None:
        """Make it ready. Raises MissingError if this machine lacks something."""

    def pids(self) -> list[int]:
        """Return the processes whose CPU time is the price."""

    def stop(self) -> None:
        """Leave nothing behind."""


class ObjectTarget(Target, Protocol):
    """A way of serving the object."""

    def object(self) -> AbstractContextManager[Path]:
        """Return a file in the state that is to be measured."""


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours and wait for it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has done something.

    Raises:
        RuntimeError: the process ended, or it took too long.
    """
    deadline = time.monotonic() + _START_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not get ready, and ended with {process.poll()}")
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Return the processes that a process started and that live."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
