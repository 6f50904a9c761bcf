"""How long something takes, whatever else the machine does: time in which no CPU was to be had does not count.

The kernel counts for each thread how long it could run and had to wait for a CPU (``/proc/PID/task/TID/schedstat``).
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path


def waited_for_cpu(process: int) -> dict[str, float]:
    """Return how many seconds the threads of a process have waited for a CPU until now, by thread."""
    waited = {}
    for thread in Path(f"/proc/{process}/task").iterdir():
        with suppress(OSError):  # it has just ended
            waited[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
    return waited


class Stopwatch:
    """Measures what this thread does, and for it another process: a daemon. It runs from when it is made."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._before = self._waited()
        self._began = time.perf_counter()

    def _waited(self) -> tuple[float, dict[str, float]]:
        ours = waited_for_cpu(os.getpid())[str(threading.get_native_id())]
        return ours, waited_for_cpu(self._process)

    def seconds(self) -> float:
        """Return how long it took until now, but for the time without a CPU, ours and that of its slowest thread."""
        elapsed = time.perf_counter() - self._began
        ours, theirs = self._waited()
        ours_before, theirs_before = self._before
        longest = max((waited - theirs_before.get(thread, 0.0) for thread, waited in theirs.items()), default=0.0)
        return max(0.0, elapsed - (ours - ours_before) - longest)
