"""What to read next for all objects of a pager, who waits for it, and what to tell them.

A request is for pages that are missing. What of it a read in progress will bring waits for that; the rest becomes reads
of its own, each a whole cluster around it. Requests in sequence cause reads ahead (``streams``).

Who runs this calls ``take`` for what to read, for each flight of that either ``arrived`` and ``supplied`` for each
piece, or ``failed``, and then ``finished``; and ``expire`` at ``next_time``. Everything returns at once. The rules of
failure:

* Every request ends by its deadline, whatever the pager does: a read that does not return is given up.
* ``AWAY`` is tried again within the deadline, less and less often. ``WRONG`` is not, but if more was read than somebody
  waits for, just that is tried once: a bad page is to fail itself only.
* After ``CHANGED`` nothing of the object is used or asked for any more.
* No failure is remembered, but that the whole source is away (``breaker``).
* A page that somebody asks for is read, although it was supplied before: it may have been evicted.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable
from enum import Enum

from vmofs.client.policy.breaker import Breaker, pause_before_retry
from vmofs.client.policy.flights import Flight, Job, Range, Stage, Wanted, subtract
from vmofs.client.policy.places import Places
from vmofs.client.policy.plan import Plan
from vmofs.client.policy.round_trip import RoundTrip
from vmofs.client.policy.statistics import Statistics
from vmofs.client.policy.streams import MOST_AHEAD, Stream
from vmofs.client.policy.tails import ranges_by_content, ranges_by_name
from vmofs.client.policy.terms import Failure, Kind, Supply, Terms
from vmofs.status import Status
from vmofs.units import PAGE_SIZE

LONGEST_PIECE = 1 << 20
"""Bytes of one supply: what the kernel takes in one write."""

_SNIFFED = 16


class _Why(Enum):
    """Why a flight is looked at when its time comes."""

    DEADLINE = 0
    ATTEMPT = 1
    AGAIN = 2


class Planner:
    """Decides for one pager."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.breaker = Breaker()
        self.round_trip = RoundTrip()
        self.statistics = Statistics()
        self._places = Places(terms.places, terms.most_in_flight, self.statistics, together=terms.together)
        self._later: list[tuple[float, int, Flight, _Why]] = []
        self._order = itertools.count()

    def plan(self, name: str, size: int) -> Plan:
        """Return the plan of a new object."""
        return Plan(name, size, self.terms.ahead)

    # Requests

    def request(self, plan: Plan, start: int, end: int, now: float) -> list[Supply | Failure]:
        """Learn that somebody waits for the pages [start, end); return what is known at once."""
        counts = self.statistics
        counts.requests += 1
        if plan.changed is not None:
            return [self._failure(start, end, Status.IO_DATA_INTEGRITY, plan.changed)]
        rest: list[Range] = [(start, end)]
        answers: list[Supply | Failure] = []
        for page, data in plan.take_held(start, end):
            answers.append(Supply(page, data))
            rest = subtract(rest, page, page + PAGE_SIZE)
            plan.have.add(page, page + PAGE_SIZE)
            counts.bytes_supplied += PAGE_SIZE
        counts.markers += not rest
        if rest and not self.terms.hard and not self.breaker.admits(now):
            return [*answers, *(self._failure(*part, Status.IO, self.breaker.sentence) for part in rest)]
        flights = []
        for low, high in rest:
            if plan.have.meets(low, high):  # it was evicted, and more behind it
                plan.have.discard(low, high + MOST_AHEAD)
            flights += self._want(plan, low, high, now + self.terms.deadline)
        self._read_ahead(plan, start, end, flights)
        return answers

    def prefetch(self, plan: Plan, ranges: Iterable[Range]) -> None:
        """Read ranges while nobody waits for others; what lies outside of the object is left out."""
        for start, end in ranges if plan.changed is None else ():
            low, high = max(0, start) // PAGE_SIZE * PAGE_SIZE, min(-(-end // PAGE_SIZE) * PAGE_SIZE, plan.end)
            for part in plan.absent(low, max(low, high)):
                self._queue_ahead(plan, *part)

    def forget(self, plan: Plan) -> None:
        """Learn that an object is gone."""
        for flight in list(plan.flights):
            self._places.leave(flight)

    def _want(self, plan: Plan, start: int, end: int, until: float, *, is_exact: bool = False) -> list[Flight]:
        """Have pages read, or wait for them if they are on their way; return the flights that will bring them."""
        flights, rest = [], [(start, end)]
        for flight, part in plan.on_its_way(start, end, idle=False):
            self._join(flight, *part, until)
            flights.append(flight)
            rest = subtract(rest, *part)
        self.statistics.merged += not rest
        for low, high in rest:
            size = self.terms.cluster or self.round_trip.cluster
            whole = (low, high) if is_exact else plan.cluster(low, high, size)
            self._cut_idle(plan, *whole)
            flight = Flight(*whole, is_exact=is_exact)
            self._places.enter(plan, flight)
            self._join(flight, low, high, until)
            self._places.queue(flight)
            flights.append(flight)
        return flights

    def _join(self, flight: Flight, start: int, end: int, until: float) -> None:
        """Let somebody wait for a part of a flight."""
        flight.wanted.append(Wanted(start, end, until))
        self._look_later(until, flight, _Why.DEADLINE)

    def _cut_idle(self, plan: Plan, start: int, end: int) -> None:
        """Take a range, which is now read for somebody, out of what is only to be read ahead."""
        for flight, _ in plan.on_its_way(start, end, idle=True):
            assert flight.is_idle
            stream = plan.flights[flight]
            self._places.leave(flight)
            for part in subtract([(flight.start, flight.end)], start, end):
                self._queue_ahead(plan, *part, stream, flight.marker)

    # Reading ahead

    def _read_ahead(self, plan: Plan, start: int, end: int, flights: list[Flight]) -> None:
        """Queue what is to be read ahead because of a request."""
        if plan.is_new and self.terms.ahead:
            self.prefetch(plan, ranges_by_name(plan.name, plan.size))
        plan.is_new = False
        low, high = start, end
        for flight in flights:
            low, high = min(low, flight.start), max(high, flight.end)
        stream, runs = plan.streams.request(start, end, (low, high))
        for run in runs:
            for part in plan.absent(run.start, run.end):
                self._queue_ahead(plan, *part, stream, run.marker)
        if not stream.follows:  # somebody reads elsewhere: nothing more for readers who have left
            for flight, other in list(plan.flights.items()):
                if flight.is_idle and other and plan.streams.is_left(other):
                    self._places.leave(flight)

    def _queue_ahead(
        self, plan: Plan, start: int, end: int, stream: Stream | None = None, marker: int | None = None
    ) -> None:
        flight = Flight(start, end, is_ahead=True)
        if marker is not None and flight.length > PAGE_SIZE:
            flight.marker = marker if start <= marker < end else start
        plan.flights[flight] = stream
        self._places.enter(plan, flight)
        self._places.queue(flight)

    # Reads

    def take(self, now: float) -> Job | None:
        """Return what to read now in one call; None if there is nothing to read or no place."""
        if not self.breaker.admits(now):
            return None
        job = self._places.take(now, only_one=self.breaker.is_open)
        if job:
            self.breaker.asked(now)
            if job.is_ahead or self.terms.attempt < self.terms.deadline:
                for flight in job.flights:
                    self._look_later(now + self.terms.attempt, flight, _Why.ATTEMPT)
        return job

    def plan_of(self, flight: Flight) -> Plan | None:
        """Return whose flight it is; None if nobody cares for it any more."""
        return self._places.plan_of(flight)

    def arrived(self, flight: Flight, data: memoryview, now: float) -> list[Range]:
        """Learn that a range was read, padded to pages; return the pieces of it that are to be supplied, in order."""
        plan = self.plan_of(flight)
        if plan is None:
            self.statistics.dropped += 1
            return []
        assert flight.job
        self.breaker.succeeded()
        if len(flight.job.flights) == 1:
            self.round_trip.learn(flight.length, now - flight.began)
        self.statistics.bytes_read += flight.length
        flight.stage = Stage.SUPPLYING
        if flight.hold_back() and flight.marker is not None:
            at = flight.marker - flight.start
            plan.hold(flight.marker, bytes(data[at : at + PAGE_SIZE]))
        if flight.start == 0 and self.terms.ahead:
            self.prefetch(plan, ranges_by_content(bytes(data[:_SNIFFED]), plan.size))
        return flight.pieces(LONGEST_PIECE)

    def supplied(self, flight: Flight, start: int, end: int) -> None:
        """Learn that a piece was supplied."""
        plan = self.plan_of(flight)
        self.statistics.bytes_supplied += end - start
        if plan:
            plan.have.add(start, end)
            flight.pending = subtract(flight.pending, start, end)
            if not flight.pending:
                self._places.leave(flight)

    def finished(self, job: Job) -> None:
        """Learn that a call has returned, and that all its flights were told of."""
        self._places.finished(job)

    # Failures

    def failed(
        self, flight: Flight, kind: Kind, sentence: str, now: float, after: float | None = None
    ) -> list[Failure]:
        """Learn that a range could not be read or supplied; return what cannot be had.

        Args:
            flight: Whose read it was.
            kind: What is to be done about it.
            sentence: What happened.
            now: The time.
            after: How many seconds the source asked to be left alone.
        """
        plan = self.plan_of(flight)
        if plan is None:
            self.statistics.dropped += 1
            return []
        self.statistics.last_error = sentence
        if kind is Kind.CHANGED:
            return self._changed(plan, sentence)
        self._places.leave(flight)
        if kind is Kind.AWAY or (kind is Kind.UNAVAILABLE and self.terms.hard):
            return self._try_again(plan, flight, sentence, now, after)
        self.breaker.succeeded()
        if flight.is_exact or all(wanted.end - wanted.start == flight.length for wanted in flight.wanted):
            return self._failures(flight.wanted, sentence)
        for wanted in flight.wanted:
            self._want(plan, wanted.start, wanted.end, wanted.until, is_exact=True)
        return []

    def expire(self, now: float) -> list[tuple[Plan, Failure]]:
        """Do what the time has come for; return what cannot be had."""
        failures: list[tuple[Plan, Failure]] = []
        while self._later and self._later[0][0] <= now:
            _, _, flight, why = heapq.heappop(self._later)
            plan = self.plan_of(flight)
            if plan is None:
                continue
            if why is _Why.AGAIN:
                self._places.queue(flight)
            elif why is _Why.DEADLINE:
                failures += [(plan, failure) for failure in self._deadline(flight, now)]
            elif flight.stage is Stage.READING:
                self._places.give_up(flight)
                sentence = f"a read of {flight.length} bytes at {flight.start} did not return in time"
                self.statistics.last_error = sentence
                failures += [(plan, failure) for failure in self._try_again(plan, flight, sentence, now, None)]
        return failures

    def next_time(self) -> float:
        """Return when ``expire``, and then ``take``, is to be called again; ``math.inf`` for never."""
        while self._later and self.plan_of(self._later[0][2]) is None:
            heapq.heappop(self._later)
        times = [self._later[0][0]] if self._later else []
        if self.breaker.is_open and self._places.has_demand:
            times.append(self.breaker.next_time())
        return min(times, default=math.inf)

    def _look_later(self, when: float, flight: Flight, why: _Why) -> None:
        if when < math.inf:
            heapq.heappush(self._later, (when, next(self._order), flight, why))

    def _changed(self, plan: Plan, sentence: str) -> list[Failure]:
        plan.changed = sentence
        plan.drop_held()
        wanted = [each for flight in plan.flights for each in flight.wanted]
        self.forget(plan)
        return self._failures(wanted, sentence, Status.IO_DATA_INTEGRITY)

    def _try_again(self, plan: Plan, flight: Flight, sentence: str, now: float, after: float | None) -> list[Failure]:
        """Read it once more after a pause, for those who wait long enough; nobody reads ahead again."""
        when = now + pause_before_retry(flight.failures + 1, after)
        gone = flight.expired(when)
        if flight.wanted:
            again = Flight(flight.start, flight.end, is_exact=flight.is_exact)
            again.failures, again.wanted = flight.failures + 1, flight.wanted
            self._places.enter(plan, again)
            self._look_later(when, again, _Why.AGAIN)
            for wanted in again.wanted:
                self._look_later(wanted.until, again, _Why.DEADLINE)
            self.statistics.retries += 1
        if self.terms.hard or (gone and not flight.wanted):
            self.breaker.failed(now, sentence)
        return self._failures(gone, sentence)

    def _deadline(self, flight: Flight, now: float) -> list[Failure]:
        """End the waiting of those whose deadline has passed, and a read for which nobody waits any more."""
        gone = flight.expired(now)
        sentence = f"no answer within {self.terms.deadline:g} s"
        if flight.failures:
            sentence += f"; {self.statistics.last_error}"
        if gone and not flight.wanted and not flight.is_ahead and flight.stage is not Stage.SUPPLYING:
            if flight.stage is Stage.READING:
                self.breaker.failed(now, sentence)
            self._places.give_up(flight)
        return self._failures(gone, sentence)

    def _failures(self, wanted: Iterable[Wanted], sentence: str, status: Status = Status.IO) -> list[Failure]:
        return [self._failure(each.start, each.end, status, sentence) for each in wanted]

    def _failure(self, start: int, end: int, status: Status, sentence: str) -> Failure:
        self.statistics.failures += 1
        self.statistics.last_error = sentence
        return Failure(start, end, status, sentence)
