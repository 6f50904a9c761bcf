"""The pager of ``store_pager.py`` as a process, and what may go on beside those who use its VMOs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from tests.support.mounted import ROOT, SOURCE_ROOTS, Mounted
from tests.support.pager_client import PagerClient, Vmo

ENVIRONMENT = {**os.environ, "PYTHONPATH": SOURCE_ROOTS}
PAUSE_SECONDS = 0.1


class Store:
    """A pager that keeps its VMOs in the files of ``directory``; it locks ``lock`` while it acts on names."""

    def __init__(self, mounted: Mounted, directory: Path, lock: Path, seed: int) -> None:
        self.pager = PagerClient(mounted.path)
        self.directory = directory
        directory.mkdir()
        command = [sys.executable, str(ROOT / "tests" / "support" / "store_pager.py")]
        arguments = [mounted.path, self.pager.name, directory, seed, lock]
        self._process = subprocess.Popen([*command, *map(str, arguments)], env=ENVIRONMENT)

    def create(self, key: int, content: bytes, options: str) -> Vmo:
        """Make a VMO with this content, which is in the store only."""
        (self.directory / str(key)).write_bytes(content)
        return self.pager.create(f"file{key}", len(content), f"key={key} {options}")

    def close(self) -> None:
        """End it."""
        self.pager.close()
        assert self._process.wait(20) == 0

    def kill(self) -> None:
        """Leave nothing behind."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)


@contextmanager
def beside(seed: int, *works: Callable[[Random], object]) -> Iterator[None]:
    """Do something again and again in other threads; what goes wrong there fails the test."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def repeat(work: Callable[[Random], object], numbers: Random) -> None:
        try:
            while not stop.wait(numbers.random() * PAUSE_SECONDS):
                work(numbers)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [
        threading.Thread(target=repeat, args=(work, Random(seed + number)), daemon=True)  # noqa: S311 - no secret
        for number, work in enumerate(works)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not errors, errors
