"""Files of a soak that all workers use at once: some that one of them writes, some that nobody does, and a program."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from struct import unpack
from typing import NamedTuple

from tests.soak.board import SHARED_PAGES
from tests.soak.ways import READS, WRITES, read
from tests.soak.world import MEMORY_SECONDS, World, WrongError, check_bytes, content, describe
from tests.support.opening import opened
from vmofs.units import PAGE_SIZE

DIRECTORY = "vmo/shared"
PROGRAM_SECONDS = 120.0
ECHO = shutil.which("echo") or "/bin/echo"
_VERSION_MASK = (1 << 20) - 1
_DEATHS = {-signal.SIGBUS, -signal.SIGSEGV, -signal.SIGKILL, 127, 126}
"""How a program ends whose pages cannot be had: by what it touches, or by what loads it."""


class SharedFile(NamedTuple):
    """A file of this round; ``writer`` is the number of the worker that writes it, -1 for none."""

    number: int
    key: int
    pager: int
    pages: int
    writer: int
    words: str

    @property
    def name(self) -> str:
        """The name that commands know it by."""
        return f"{DIRECTORY}/s{self.number}"

    def make(self, world: World) -> None:
        """Make it."""
        size = self.pages * PAGE_SIZE
        (world.store / str(self.key)).write_bytes(content(self.key, 0, 0, size))
        world.command(f"p{self.pager}/create_vmo", f"{self.name} {size} key={self.key} {self.words}")

    def read(self, world: World, numbers: random.Random) -> None:
        """Read a few pages; each word must be of a version that was there while the read went on."""
        pages = min(self.pages, numbers.choice([1, 1, 2, 8]))
        first = numbers.randrange(self.pages - pages + 1)
        way = numbers.choice(list(READS))
        oldest = [
            world.board.oldest(self.number, page) if self.writer >= 0 else 0 for page in range(first, first + pages)
        ]
        path = world.mount / self.name
        found = world.insist(lambda: read(path, way, first * PAGE_SIZE, pages * PAGE_SIZE), self.key, self.pager)
        if len(found) != pages * PAGE_SIZE:
            raise WrongError(f"{way}: {len(found)} bytes of {pages} pages", first * PAGE_SIZE)
        for index, page in enumerate(range(first, first + pages)):
            newest = world.board.newest(self.number, page) if self.writer >= 0 else 0
            data = found[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
            self.check(data, page, oldest[index], newest, way)

    def check(self, data: bytes, page: int, oldest: int, newest: int, way: str) -> None:
        """Check that each word of a page is of a version from ``oldest`` to ``newest``."""
        offset = page * PAGE_SIZE
        if any(data == content(self.key, version, offset, PAGE_SIZE) for version in {oldest, newest}):
            return
        words = unpack(f"<{PAGE_SIZE // 8}Q", data)
        base = content(self.key, 0, offset, PAGE_SIZE)
        for index, (word, first) in enumerate(zip(words, unpack(f"<{PAGE_SIZE // 8}Q", base), strict=True)):
            version = (word - first) >> 24
            if (word - first) & ((1 << 24) - 1) or not oldest <= version <= newest:
                at = offset + 8 * index
                seen = describe(data[8 * index :], at)
                raise WrongError(f"{way}: versions {oldest} to {newest} may be read at {at:#x}: {seen}", at, 8)

    def write(self, world: World, numbers: random.Random) -> None:
        """Write a new version of a few pages, whole pages, once; if that is refused find out what was done."""
        pages = numbers.choice([1, 1, 2, 20])
        first = numbers.randrange(self.pages)
        chosen = range(first, min(self.pages, first + pages))
        way = numbers.choice(list(WRITES))
        versions = [world.board.begin_version(self.number, page) for page in chosen]
        data = b"".join(
            content(self.key, version, page * PAGE_SIZE, PAGE_SIZE)
            for page, version in zip(chosen, versions, strict=True)
        )

        def attempt() -> None:
            with opened(world.mount / self.name, os.O_RDWR) as fd:
                done = 0
                while done < len(data):
                    done += WRITES[way](fd, first * PAGE_SIZE + done, data[done:])

        world.insist(attempt, self.key, self.pager)
        for page, version in zip(chosen, versions, strict=True):
            world.board.end_version(self.number, page, version)

    def sync(self, world: World) -> None:
        """Have it written back."""

        def attempt() -> None:
            with opened(world.mount / self.name, os.O_RDWR) as fd:
                os.fsync(fd)

        world.insist(attempt, self.key, self.pager)


class Program(NamedTuple):
    """A program that is run from the mount."""

    key: int
    pager: int

    @property
    def name(self) -> str:
        """The name that commands know it by."""
        return f"{DIRECTORY}/echo"

    def make(self, world: World) -> None:
        """Make it."""
        content = Path(ECHO).read_bytes()
        (world.store / str(self.key)).write_bytes(content)
        world.command(f"p{self.pager}/create_vmo", f"{self.name} {len(content)} key={self.key} mode=755")

    def run(self, world: World, token: str) -> None:
        """Run it until it says what it should; what kills it must have a cause."""
        path = world.mount / self.name
        deadline = time.monotonic() + PROGRAM_SECONDS
        while True:
            since = time.monotonic()
            try:
                done = subprocess.run([path, token], capture_output=True, check=False, timeout=PROGRAM_SECONDS)
            except OSError as error:
                if not world.has_cause(error, self.key, self.pager, since):
                    raise WrongError(f"it cannot be run: {error}") from error
                continue
            if done.returncode == 0:
                check_bytes(done.stdout, f"{token}\n".encode(), 0, "what the program says")
                return
            known = done.returncode in _DEATHS and world.had_trouble(self.key, self.pager, since - MEMORY_SECONDS)
            if not known or time.monotonic() > deadline:
                raise WrongError(f"the program ended with {done.returncode}: {done.stderr!r}")


def draw_shared(workers: int, pagers: int) -> tuple[list[SharedFile], Program]:
    """Return the shared files of a round: one that each worker writes, and two large ones that nobody writes."""
    files = []
    for worker in range(workers):
        words = ("trap_dirty", "", "writeback", "trap_dirty noevict")[worker % 4]
        # A pager with two FIFOs may write back twice, out of turn: not for those that are synced.
        files.append(
            SharedFile(worker, worker, 0 if "writeback" in words else worker % pagers, SHARED_PAGES, worker, words)
        )
    files += [SharedFile(number, number, number % pagers, 3072, -1, "") for number in (workers, workers + 1)]
    return files, Program(workers + 2, 1 % pagers)
