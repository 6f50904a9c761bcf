"""How many reads go on at the same time, and which is the next: those that somebody waits for before all others."""

from __future__ import annotations

from collections import deque

from vmofs.client.policy.flights import Flight, Job, Stage
from vmofs.client.policy.plan import Plan
from vmofs.client.policy.statistics import Statistics

_MOST_HANGING = 4
"""Reads may hang, for each place; then nothing is read until one of them returns."""

_MOST_TOGETHER = 64
_MOST_BYTES_TOGETHER = 8 << 20
"""Of one call for several ranges."""


class Places:
    """Two queues, and a number of places for those who are served.

    Args:
        count: How many reads may go on at the same time; half of them ahead of readers.
        most_bytes: How many bytes may be on their way before one more is read ahead.
        statistics: Where it is counted.
        together: Whether one call may be for several ranges.
    """

    def __init__(self, count: int, most_bytes: int, statistics: Statistics, *, together: bool) -> None:
        self._count, self._most_bytes, self._together = count, most_bytes, together
        self._statistics = statistics
        self._plans: dict[Flight, Plan] = {}
        self._demand: deque[Flight] = deque()
        self._ahead: deque[Flight] = deque()
        self._reading_ahead = 0

    def plan_of(self, flight: Flight) -> Plan | None:
        """Return whose flight it is; None if it is over, or was given up."""
        return self._plans.get(flight)

    @property
    def has_demand(self) -> bool:
        """Whether somebody waits for what is not begun."""
        return any(flight.stage is Stage.QUEUED for flight in self._demand)

    def enter(self, plan: Plan, flight: Flight) -> None:
        """Take up a flight, whose turn comes later."""
        self._plans[flight] = plan
        plan.flights.setdefault(flight, None)

    def queue(self, flight: Flight) -> None:
        """Let a flight wait for its turn."""
        (self._ahead if flight.is_ahead else self._demand).append(flight)

    def leave(self, flight: Flight) -> None:
        """End a flight, whatever it waits for."""
        del self._plans[flight].flights[flight]
        del self._plans[flight]
        if flight.stage is not Stage.QUEUED:
            self._statistics.bytes_in_flight -= flight.length
        flight.stage = Stage.ENDED

    def give_up(self, flight: Flight) -> None:
        """End a flight whose read does not return."""
        self.leave(flight)
        job = flight.job
        if job and not job.is_given_up and all(other.stage is Stage.ENDED for other in job.flights):
            self._vacate(job)
            job.is_given_up = True
            self._statistics.hanging += 1

    def finished(self, job: Job) -> None:
        """Learn that the call of a job has returned, and all that followed from it."""
        if job.is_given_up:
            self._statistics.hanging -= 1
        else:
            self._vacate(job)

    def take(self, now: float, *, only_one: bool = False) -> Job | None:
        """Return what to read now, if there is something and a place for it.

        ``only_one``: a single range that somebody waits for.
        """
        counts = self._statistics
        if counts.reading >= self._count or counts.hanging >= _MOST_HANGING * self._count:
            return None
        flight = self._next(self._demand)
        if flight is not None:
            flights = [flight, *self._others(flight)] if self._together and not only_one else [flight]
        else:
            flight = None if only_one else self._next_ahead()
            if flight is None:
                return None
            flights = [flight]
        return self._begin(Job(flights), now)

    def _begin(self, job: Job, now: float) -> Job:
        counts = self._statistics
        counts.reading += 1
        self._reading_ahead += job.is_ahead
        for flight in job.flights:
            flight.stage, flight.began, flight.job = Stage.READING, now, job
            counts.reads += 1
            counts.reads_ahead += job.is_ahead
            counts.bytes_in_flight += flight.length
        return job

    def _vacate(self, job: Job) -> None:
        self._statistics.reading -= 1
        self._reading_ahead -= job.is_ahead

    @staticmethod
    def _next(queue: deque[Flight]) -> Flight | None:
        while queue:
            flight = queue.popleft()
            if flight.stage is Stage.QUEUED:
                return flight
        return None

    def _next_ahead(self) -> Flight | None:
        if self._reading_ahead >= max(1, self._count // 2):
            return None
        flight = self._next(self._ahead)
        in_flight = self._statistics.bytes_in_flight
        if flight and in_flight and in_flight + flight.length > self._most_bytes:
            self._ahead.appendleft(flight)
            return None
        return flight

    def _others(self, first: Flight) -> list[Flight]:
        """Return what else somebody waits for of the same object."""
        plan, length = self._plans[first], first.length
        others: list[Flight] = []
        for flight in [each for each in self._demand if self._plans.get(each) is plan]:
            length += flight.length
            if len(others) == _MOST_TOGETHER - 1 or length > _MOST_BYTES_TOGETHER:
                break
            self._demand.remove(flight)
            others.append(flight)
        return others
