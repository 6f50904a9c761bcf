"""Whatever comes in whatever order, the planner keeps its promises to readers, sources and memory.

Told apart from ``unit/test_client_planner.py``: nothing here says what is read, only what must never happen. A reader
is a page and the moment of its request. It must get that page after that moment, or a failure, by its deadline.
"""

from __future__ import annotations

import itertools
import math

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.planning import KIB, Planning, content
from vmofs.client.policy.flights import Job
from vmofs.client.policy.terms import Failure, Kind, Supply, Terms
from vmofs.status import Status
from vmofs.units import PAGE_SIZE

PAGES = 300
DEADLINE = 10.0
SLACK = 1e-6


class PlannerMachine(RuleBasedStateMachine):
    """One object; readers, a source that does as it likes, and a kernel that evicts."""

    @initialize(
        hard=st.booleans(),
        cluster=st.sampled_from([None, 4 * KIB, 64 * KIB]),
        ahead=st.sampled_from([0, 64 * KIB, 1 << 20]),
        together=st.booleans(),
    )
    def begin(self, *, hard: bool, cluster: int | None, ahead: int, together: bool) -> None:
        """Begin with other numbers each time."""
        terms = Terms(cluster, ahead, 3, DEADLINE, hard, together, 512 * KIB)
        self.planning = Planning(terms, size=PAGES * PAGE_SIZE - 100, name="x.zip")
        self.waiting: dict[int, float] = {}
        """Page -> when the first who waits for it must have heard."""
        self.jobs: list[Job] = []
        self.given_up: list[Job] = []
        self.changed = False

    def heard(self, start: int, end: int) -> None:
        """Note that those who wait for a range have heard."""
        for page in range(start // PAGE_SIZE, -(-end // PAGE_SIZE)):
            self.waiting.pop(page, None)

    def told(self, failures: list[Failure]) -> None:
        """Note who was told that his pages cannot be had; he must have waited, and his object not be another."""
        for start, end, status, sentence in failures:
            assert sentence
            assert (status is Status.IO_DATA_INTEGRITY) == self.changed
            self.heard(start, end)

    @rule(first=st.integers(0, PAGES - 1), count=st.integers(1, 32))
    def ask(self, first: int, count: int) -> None:
        """Somebody misses pages."""
        last = min(first + count, PAGES)
        for page in range(first, last):
            self.waiting.setdefault(page, self.planning.now + DEADLINE)
        for answer in self.planning.ask(first * PAGE_SIZE, (last - first) * PAGE_SIZE):
            if isinstance(answer, Supply):
                self.heard(answer.start, answer.start + PAGE_SIZE)
            else:
                self.told([answer])

    @rule(first=st.integers(0, PAGES - 20), count=st.integers(2, 20))
    def ask_in_sequence(self, first: int, count: int) -> None:
        """Somebody reads page by page."""
        for page in range(first, first + count):
            self.ask(page, 1)

    @rule(start=st.integers(-1000, PAGES * PAGE_SIZE), length=st.integers(0, 1 << 20))
    def prefetch(self, start: int, length: int) -> None:
        """Somebody wants a range in advance."""
        self.planning.planner.prefetch(self.planning.plan, [(start, start + length)])

    @rule()
    def take(self) -> None:
        """A thread is free."""
        if job := self.planning.planner.take(self.planning.now):
            self.jobs.append(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def return_from_read(self, data: st.DataObject) -> None:
        """A call returns what it was asked for, however late; a part of it may be supplied before others ask."""
        job = self.jobs.pop(data.draw(st.integers(0, len(self.jobs) - 1)))
        for flight in job.flights:
            pieces = self.planning.planner.arrived(flight, content(flight.start, flight.end), self.planning.now)
            assert not (pieces and self.changed)
            for start, end in pieces:
                self.heard(start, end)
                self.planning.planner.supplied(flight, start, end)
        self.planning.planner.finished(job)

    @precondition(lambda self: self.jobs)
    @rule(
        data=st.data(), kind=st.sampled_from([Kind.AWAY, Kind.AWAY, Kind.UNAVAILABLE, Kind.WRONG]), after=st.booleans()
    )
    def fail(self, data: st.DataObject, kind: Kind, *, after: bool) -> None:
        """A call fails."""
        job = self.jobs.pop(data.draw(st.integers(0, len(self.jobs) - 1)))
        self.told(self.planning.fail(job, kind, "no", 3.0 if after else None))

    @precondition(lambda self: self.jobs and not self.changed)
    @rule(data=st.data(), is_it=st.integers(0, 3))
    def change(self, data: st.DataObject, is_it: int) -> None:
        """The object is another one; seldom, since nothing happens after it."""
        if is_it == 0:
            job = self.jobs.pop(data.draw(st.integers(0, len(self.jobs) - 1)))
            self.changed = any(self.planning.planner.plan_of(flight) for flight in job.flights)
            self.told(self.planning.fail(job, Kind.CHANGED, "etag"))

    @rule(seconds=st.sampled_from([0.01, 0.5, 3.0, 12.0]))
    def wait(self, seconds: float) -> None:
        """Time passes, and the planner is asked when it wanted to be."""
        end = self.planning.now + seconds
        while self.planning.planner.next_time() <= end:
            when = self.planning.planner.next_time()
            self.told(self.planning.wait(max(0.0, when - self.planning.now)))
            if self.planning.planner.next_time() == when:
                break  # somebody is to take a job now
        self.told(self.planning.wait(max(0.0, end - self.planning.now)))

    @invariant()
    def nobody_waits_longer_than_the_deadline(self) -> None:
        """Every reader has heard by his deadline."""
        late = [page for page, until in self.waiting.items() if until < self.planning.now - SLACK]
        assert late == []

    @invariant()
    def who_waits_is_waited_for(self) -> None:
        """Every page that somebody waits for is on its way, or the planner has a time for it."""
        plan = self.planning.plan
        for page in self.waiting:
            at = page * PAGE_SIZE
            assert any(wanted.start <= at < wanted.end for flight in plan.flights for wanted in flight.wanted), (
                f"page {page} is forgotten"
            )
        if self.waiting:
            assert self.planning.planner.next_time() < math.inf

    @invariant()
    def flights_do_not_overlap_and_lie_in_the_object(self) -> None:
        """Nothing is read twice at the same time, and nothing that is not there."""
        parts = sorted(part for flight in self.planning.plan.flights for part in flight.pending)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(parts))
        assert all(0 <= start < end <= PAGES * PAGE_SIZE for start, end in parts)

    @invariant()
    def counts_are_right(self) -> None:
        """Places and bytes are given back, whatever way a read ended."""
        counts = self.planning.planner.statistics
        assert counts.reading + counts.hanging == len(self.jobs)
        assert 0 <= counts.reading <= 3
        assert counts.bytes_in_flight == sum(
            flight.length for job in self.jobs for flight in job.flights if self.planning.planner.plan_of(flight)
        )

    def teardown(self) -> None:
        """At the end everybody hears, and nothing is left."""
        if hasattr(self, "planning"):
            while self.jobs:
                job = self.jobs.pop()
                self.told(self.planning.fail(job, Kind.WRONG))
            for _ in range(40):
                self.wait(1.0)
                while another := self.planning.planner.take(self.planning.now):
                    self.told(self.planning.fail(another, Kind.WRONG))
            assert self.waiting == {}
            is_away = self.planning.planner.breaker.is_open  # then nothing is read ahead
            assert all(is_away and flight.is_idle for flight in self.planning.plan.flights)
            assert self.planning.planner.statistics.bytes_in_flight == 0


TestPlanner = PlannerMachine.TestCase
