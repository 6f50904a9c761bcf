"""The last command results and page-request events of a mount, one line each, newest last, bounded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

from vmofs.wire.names import printable


class EventLog:
    """What ``control/log`` shows. A line is ``SECONDS KIND TEXT``, the seconds those of the wall clock."""

    def __init__(self, lines: int = 1000, now: Callable[[], float] = time.time) -> None:
        self._lines: deque[str] = deque(maxlen=lines)
        self._now = now
        self._total = 0

    def add(self, kind: str, text: str) -> None:
        """Add a line; control characters in the text are escaped."""
        self._total += 1
        self._lines.append(f"{self._now():.6f} {kind} {printable(text)}\n")

    def text(self) -> Iterator[str]:
        """Yield all lines."""
        yield "".join(self._lines)

    @property
    def lines_total(self) -> int:
        """How many lines were ever added."""
        return self._total
