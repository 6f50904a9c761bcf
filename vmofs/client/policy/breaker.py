"""A source that is away is asked seldom, and who waits for it is told at once; and how long to wait before a retry."""

from __future__ import annotations

FAILURES = 3
"""Reads that failed one after the other, retries and all, before the source counts as away."""

_LONGEST_OPEN = 10.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0


def pause_before_retry(failures: int, after: float | None = None) -> float:
    """Return the seconds to wait after so many failures of the same read: twice as long each time.

    Args:
        failures: At least 1.
        after: What the source asked for.
    """
    return max(after or 0.0, min(_FIRST_PAUSE * 2.0 ** min(failures - 1, 16), _LONGEST_PAUSE))


class Breaker:
    """Closed: all is asked. Open: nothing is, for 1 s, 2 s, ... 10 s, and then one read, which decides."""

    def __init__(self) -> None:
        self._failures = 0
        self._pause = 0.0
        self._until = 0.0
        self._probe_until = 0.0
        self.sentence = ""
        """Why it is open."""

    @property
    def is_open(self) -> bool:
        """Whether the source counts as away."""
        return self._pause > 0

    def admits(self, now: float) -> bool:
        """Return whether something may be asked now."""
        return not self.is_open or now >= max(self._until, self._probe_until)

    def next_time(self) -> float:
        """Return when something may be asked again, if it is open."""
        return max(self._until, self._probe_until)

    def asked(self, now: float) -> None:
        """Learn that something is asked; while it is open that is the one read that decides."""
        if self.is_open:
            self._probe_until = now + _LONGEST_OPEN  # if nothing is ever heard of it

    def succeeded(self) -> None:
        """Learn that the source has answered."""
        self._failures, self._pause, self._until, self._probe_until, self.sentence = 0, 0.0, 0.0, 0.0, ""

    def failed(self, now: float, sentence: str) -> None:
        """Learn that the source was away for a whole read."""
        self._failures += 1
        self._probe_until = 0.0
        self.sentence = sentence
        if self._failures >= FAILURES and now >= self._until:
            self._pause = min(self._pause * 2 or 1.0, _LONGEST_OPEN)
            self._until = now + self._pause
