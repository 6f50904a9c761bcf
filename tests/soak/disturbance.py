"""What is done to the pagers of a soak: they are killed and started again, stopped and let go on."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.soak.board import Board
from tests.support.stopwatch import waited_for_cpu

DEADLINE = 6.0
"""Of the mount, in seconds: short, so that stopped pagers can be seen to have missed it."""

_LOOKS_BETWEEN = 100
"""How many times a pager is looked at, on average, between two disturbances; a hundred looks take a second or more."""


class PagerProcess:
    """A pager that serves one FIFO. ``start`` starts its process, given how often it was started before.

    ``at`` are its number and that of its FIFO on the board.

    How much it stands still is kept as seconds that grow while it does and shrink while it works: when they come near
    the deadline, requests may time out, and the board says so. It stands still too while it, or the ``daemon``, could
    run but gets no CPU.
    """

    def __init__(
        self, start: Callable[[int], subprocess.Popen[bytes]], at: tuple[int, int], daemon: int, board: Board, log: Path
    ) -> None:
        self.pager, self._number = at
        self._daemon = daemon
        self._starved: dict[int, float] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._start, self._board, self._log = start, board, log
        self._lives = 0
        self._began_at = self._still_until = 0.0
        self._is_stopped = False
        self._still_seconds = 0.0
        self._looked_at = time.monotonic()

    def begin(self) -> None:
        """Start it, again."""
        self._began_at = time.monotonic()
        self.process = self._start(self._lives)
        self._lives += 1

    def kill(self) -> None:
        """Kill it, stopped or not."""
        self._is_stopped = False
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def look(self, numbers: random.Random, counts: Counter[str], *, calm: bool) -> None:
        """Disturb it, or end a disturbance; to be called again and again.

        Raises:
            ChildProcessError: it has ended by itself.
        """
        now = time.monotonic()
        self._note_trouble(now)
        if self.process is None:
            if now >= self._still_until:
                self.begin()
        elif self._is_stopped:
            if now >= self._still_until:
                self._go_on(numbers, counts)
        elif self.process.poll() is not None:
            raise ChildProcessError(f"pager {self.pager} has ended by itself: {self._log.read_text()}")
        elif not calm and numbers.randrange(_LOOKS_BETWEEN) == 0:
            if numbers.random() < 0.5:
                self._die(numbers, counts)
            else:
                self._stand_still(self.process, numbers, counts)

    def _note_trouble(self, now: float) -> None:
        passed, self._looked_at = now - self._looked_at, now
        starts = self._board.reading[self._number] < self._began_at
        still = self.process is None or self._is_stopped or starts
        starved = min(passed, sum(map(self._starved_since, self._processes())))
        self._still_seconds = max(0.0, self._still_seconds + (passed if still else 2 * starved - passed))
        if self._still_seconds > DEADLINE / 2:
            self._board.trouble[self.pager] = now + DEADLINE

    def _processes(self) -> list[int]:
        return [self._daemon] if self.process is None else [self._daemon, self.process.pid]

    def _starved_since(self, pid: int) -> float:
        """Return for how many seconds since the last look a process could run and did not, by its first thread."""
        with suppress(OSError):
            waited = waited_for_cpu(pid)[str(pid)]
            before, self._starved[pid] = self._starved.get(pid, waited), waited
            return waited - before
        return 0.0

    def _die(self, numbers: random.Random, counts: Counter[str]) -> None:
        counts["pager killed"] += 1
        self.kill()
        self._still_until = time.monotonic() + numbers.choice([0, 0, 0, 0.05, 0.5])

    def _stand_still(self, process: subprocess.Popen[bytes], numbers: random.Random, counts: Counter[str]) -> None:
        counts["pager stopped"] += 1
        seconds = numbers.choice([0.01, 0.1, 0.1, 0.5, 1.5])
        if numbers.random() < 0.03:
            seconds = DEADLINE * 1.2
            counts["pager stopped beyond the deadline"] += 1
        process.send_signal(signal.SIGSTOP)
        self._is_stopped = True
        self._still_until = time.monotonic() + seconds

    def _go_on(self, numbers: random.Random, counts: Counter[str]) -> None:
        if numbers.random() < 0.2:
            counts["pager killed while it was stopped"] += 1
            self.kill()
        elif self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self._is_stopped = False
