"""Openers, daemons and servers are killed at random while a file is read: no wrong byte, and the next open goes on."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import NIGHTLY
from tests.support.faulty_server import OLD, SIZE, FaultyServer, faulty_server
from tests.support.opened import User, user_in, wait_until
from vmofs.testing import pattern
from vmofs_mount.linux.procfs import start_of

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

ROUNDS = 50 if NIGHTLY else 3
KINDS = ("opener", "server", "daemon")
PAGE = 4096


class Reader:
    """Reads pages at random, and remembers what was wrong; an error is nothing wrong."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path, self._numbers = path, random.Random(seed)  # noqa: S311 - where to read
        self.pages = self.errors = 0
        self.wrong: list[str] = []
        self.is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self.is_over.is_set():
            try:
                with self._path.open("rb", buffering=0) as file:
                    while not self.is_over.is_set():
                        self._read(file.fileno())
            except OSError:
                self.errors += 1
                time.sleep(0.02)

    def _read(self, descriptor: int) -> None:
        offset = self._numbers.randrange(SIZE // PAGE) * PAGE
        data = os.pread(descriptor, PAGE, offset)
        try:
            assert len(data) == PAGE
            pattern.check(data, OLD, offset)
        except AssertionError as error:
            self.wrong.append(f"at {offset}: {error}")
        self.pages += 1

    def end(self) -> None:
        """Stop reading."""
        self.is_over.set()
        self._thread.join(30)


@contextmanager
def readers(path: Path) -> Iterator[list[Reader]]:
    """Read with several at a time for the length of a block, and check what they saw."""
    found = [Reader(path, seed) for seed in range(3)]
    try:
        yield found
    finally:
        for reader in found:
            reader.is_over.set()
        for reader in found:
            reader.end()
        assert [reader.wrong for reader in found] == [[], [], []]


def kill(user: User, kind: str, server: FaultyServer) -> None:
    """Kill one of those that a reader needs."""
    if kind == "opener":
        number = user.openers()[0]
        os.kill(number, signal.SIGKILL)
        for _ in wait_until("it is dead"):
            if start_of(number) is None:
                break
    elif kind == "daemon":
        with suppress(OSError):
            os.kill(int(os.getxattr(user.mount, "user.vmofs.pid")), signal.SIGKILL)
    else:
        server.fault = "closes"


def test_whatever_is_killed_no_byte_is_wrong_and_the_next_open_goes_on(tmp_path: Path) -> None:
    numbers = random.Random(7)  # noqa: S311 - whom to kill
    with user_in(tmp_path) as user, faulty_server() as server:
        flags = ["--cache", str(tmp_path / "cache"), "--cluster", "4K", "--ahead", "0", "--soft", "--deadline", "3"]
        url = f"http://127.0.0.1:{server.port}/data"
        path = user.open(url, *flags)
        with readers(path) as found:
            for number in range(ROUNDS):
                before = sum(reader.pages for reader in found)
                for _ in wait_until("pages are read"):
                    if sum(reader.pages for reader in found) > before + 20:
                        break
                kill(user, KINDS[number] if number < len(KINDS) else numbers.choice(KINDS), server)
                time.sleep(numbers.random() * 0.3)
                server.fault = ""
                assert user.open(url, *flags) == path
            for _ in wait_until("everybody reads again"):
                then = [reader.pages for reader in found]
                time.sleep(0.2)
                if all(reader.pages > old for reader, old in zip(found, then, strict=True)):
                    break
