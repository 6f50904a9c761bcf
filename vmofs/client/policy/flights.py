"""Reads of ranges, and who waits for them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from vmofs.units import PAGE_SIZE

Range = tuple[int, int]
"""Bytes, half-open: (start, end)."""


def subtract(ranges: Iterable[Range], start: int, end: int) -> list[Range]:
    """Return the ranges less the bytes [start, end)."""
    left: list[Range] = []
    for low, high in ranges:
        if high <= start or end <= low:
            left.append((low, high))
        else:
            left += [(low, start)] * (low < start) + [(end, high)] * (end < high)
    return left


class Wanted:
    """Pages that somebody waits for, until a moment after which he is told that they cannot be had."""

    __slots__ = ("end", "start", "until")

    def __init__(self, start: int, end: int, until: float) -> None:
        self.start, self.end, self.until = start, end, until


class Stage(Enum):
    """How far a flight is."""

    QUEUED = "queued"
    READING = "reading"
    SUPPLYING = "supplying"
    ENDED = "ended"
    """Or given up: what still comes of it is not used."""


class Flight:
    """A range that is read in one piece, from the moment when that is decided until it is supplied.

    Args:
        start: Where it begins, in bytes.
        end: Where it ends.
        is_exact: It is just what somebody waits for, since more around it could not be had.
        is_ahead: Nobody waits for it when it is decided.
    """

    __slots__ = (
        *("began", "end", "failures", "is_ahead", "is_exact", "job", "marker", "pending", "stage", "start", "wanted"),
    )

    def __init__(self, start: int, end: int, *, is_exact: bool = False, is_ahead: bool = False) -> None:
        self.start, self.end, self.is_exact, self.is_ahead = start, end, is_exact, is_ahead
        self.wanted: list[Wanted] = []
        self.pending: list[Range] = [(start, end)]
        """What is still to come of it."""
        self.stage = Stage.QUEUED
        self.marker: int | None = None
        """The page that is held back, unless somebody waits for a part of it."""
        self.failures = 0
        self.began = 0.0
        self.job: Job | None = None

    @property
    def length(self) -> int:
        """How many bytes it has."""
        return self.end - self.start

    @property
    def is_idle(self) -> bool:
        """Whether it is read ahead and not begun yet."""
        return self.is_ahead and self.stage is Stage.QUEUED

    def meets(self, start: int, end: int) -> list[Range]:
        """Return what of a range is still to come of this flight."""
        return [(max(start, low), min(end, high)) for low, high in self.pending if low < end and start < high]

    def expired(self, now: float) -> list[Wanted]:
        """Let those go who have waited long enough, and return them."""
        gone = [wanted for wanted in self.wanted if wanted.until <= now]
        self.wanted = [wanted for wanted in self.wanted if wanted.until > now]
        return gone

    def hold_back(self) -> bool:
        """Take the marker out of what is still to come; return whether there is one, as nobody waits."""
        if self.marker is None or self.wanted:
            return False
        self.pending = subtract(self.pending, self.marker, self.marker + PAGE_SIZE)
        return True

    def pieces(self, longest: int) -> list[Range]:
        """Return in what pieces to supply it, those first that somebody waits for."""
        if len(self.pending) == 1 and self.length <= longest:
            return list(self.pending)
        cut = [(at, min(at + longest, end)) for start, end in self.pending for at in range(start, end, longest)]
        return sorted(cut, key=lambda piece: not any(w.start < piece[1] and piece[0] < w.end for w in self.wanted))


class Job:
    """One call of a pager: for one range, or for several of one object."""

    __slots__ = ("flights", "is_ahead", "is_given_up")

    def __init__(self, flights: list[Flight]) -> None:
        self.flights = flights
        self.is_ahead = flights[0].is_ahead
        self.is_given_up = False
        """It has not returned in time, and its place was given to another."""
