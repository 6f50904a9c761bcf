"""How a pager is run: numbers, kinds of failure, and what is said to who waits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from vmofs.client.policy.streams import MOST_AHEAD
from vmofs.status import Status

_ATTEMPT_SECONDS = 30.0


class Kind(Enum):
    """What kind of failure a read had."""

    AWAY = "away"
    """To be tried again."""
    UNAVAILABLE = "unavailable"
    """To be tried again on hard terms, else as WRONG."""
    WRONG = "wrong"
    """Not to be tried again."""
    CHANGED = "changed"
    """Nothing more of this object is to be used."""


class Failure(NamedTuple):
    """Pages that cannot be had, for those who wait for them."""

    start: int
    end: int
    status: Status
    sentence: str


class Supply(NamedTuple):
    """Pages that are here already."""

    start: int
    data: bytes


@dataclass(frozen=True)
class Terms:
    """The numbers of a ``Pager``, as they are for one run of it."""

    cluster: int | None = None
    ahead: int = MOST_AHEAD
    places: int = 16
    deadline: float = 10.0
    """In seconds; ``math.inf``: those who wait wait for good."""
    hard: bool = False
    """What is unavailable is tried again, within the deadline."""
    together: bool = False
    """The pager reads several ranges in one call."""
    most_in_flight: int = 64 << 20

    @property
    def attempt(self) -> float:
        """How many seconds one read may take, whoever waits for it."""
        return min(self.deadline, _ATTEMPT_SECONDS) if self.hard or math.isinf(self.deadline) else self.deadline
