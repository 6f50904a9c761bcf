"""What a log is told of failures: each kind once in full, with its traceback, and what repeats itself seldom."""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback

from vmofs.client.policy.terms import Failure

_QUIET_SECONDS = 10.0
_MOST_REMEMBERED = 256


class Complaints:
    """Writes to a log. Threads may share it."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._said: dict[tuple[object, ...], float] = {}

    def about(self, name: str, error: BaseException, what: str) -> None:
        """Tell of an error that nobody expected; with the traceback if it is the first from that line of code."""
        frames = traceback.extract_tb(error.__traceback__)
        place = (frames[-1].filename, frames[-1].lineno) if frames else ()
        if self._is_new(math.inf, type(error), *place):
            self._log.error("vmo/%s: %s", name, what, exc_info=error)
        elif self._is_new(_QUIET_SECONDS, type(error), str(error), name):
            self._log.error("vmo/%s: %s: %s: %s", name, what, type(error).__name__, error)

    def failure(self, name: str, failure: Failure) -> None:
        """Tell that somebody was told that pages cannot be had."""
        start, end, status, sentence = failure
        if self._is_new(_QUIET_SECONDS, name, sentence):
            self._log.warning("vmo/%s %d+%d: %s: %s", name, start, end - start, status.zx_name, sentence)

    def _is_new(self, seconds: float, *what: object) -> bool:
        """Return whether this was not said for so many seconds."""
        now = time.monotonic()
        with self._lock:
            if now - self._said.get(what, -math.inf) < seconds:
                return False
            while len(self._said) >= _MOST_REMEMBERED:
                del self._said[next(iter(self._said))]
            self._said[what] = now
        return True
