"""A planner for tests: a source that is always right, and what reached the readers."""

from __future__ import annotations

from vmofs.client.policy.flights import Flight, Job
from vmofs.client.policy.plan import Plan
from vmofs.client.policy.planner import Planner
from vmofs.client.policy.terms import Failure, Kind, Supply, Terms
from vmofs.units import PAGE_SIZE

KIB, MIB = 1 << 10, 1 << 20


def content(start: int, end: int) -> memoryview:
    """Return what an object holds: each page begins with its own number."""
    pages = range(start // PAGE_SIZE, -(-end // PAGE_SIZE))
    return memoryview(b"".join(page.to_bytes(8, "little").ljust(PAGE_SIZE, b"\1") for page in pages))


class Planning:
    """One planner with one object, and a clock that goes when it is told to."""

    def __init__(self, terms: Terms | None = None, size: int = 64 * MIB, name: str = "x") -> None:
        self.planner = Planner(terms or Terms(cluster=16 * KIB))
        self.plan = self.planner.plan(name, size)
        self.now = 0.0
        self.present: set[int] = set()
        self.failures: list[Failure] = []

    def ask(self, start: int, length: int = PAGE_SIZE, plan: Plan | None = None) -> list[Supply | Failure]:
        """Ask for pages; what is known at once is noted."""
        answers = self.planner.request(plan or self.plan, start, start + length, self.now)
        self.note(answers)
        return answers

    def note(self, answers: list[Supply | Failure]) -> None:
        """Note what reached the readers."""
        for answer in answers:
            if isinstance(answer, Failure):
                self.failures.append(answer)
            else:
                assert answer.data == content(answer.start, answer.start + PAGE_SIZE)
                self.present.add(answer.start)

    def take(self) -> Job:
        """Return the next job, which must be there."""
        job = self.planner.take(self.now)
        assert job
        return job

    def take_all(self) -> list[Job]:
        """Return all jobs for which there are places."""
        jobs = []
        while job := self.planner.take(self.now):
            jobs.append(job)
        return jobs

    def arrive(self, flight: Flight) -> None:
        """Bring what a flight was to read, and supply it."""
        for start, end in self.planner.arrived(flight, content(flight.start, flight.end), self.now):
            self.present.update(range(start, end, PAGE_SIZE))
            self.planner.supplied(flight, start, end)

    def finish(self, job: Job) -> None:
        """Bring all that a job was to read."""
        for flight in job.flights:
            self.arrive(flight)
        self.planner.finished(job)

    def fail(self, job: Job, kind: Kind, sentence: str = "no", after: float | None = None) -> list[Failure]:
        """Let a job fail, and return who is told."""
        failures = [
            failure
            for flight in job.flights
            for failure in self.planner.failed(flight, kind, sentence, self.now, after)
        ]
        self.planner.finished(job)
        self.failures += failures
        return failures

    def wait(self, seconds: float) -> list[Failure]:
        """Let time pass, and return who is told that it is over for him."""
        self.now += seconds
        failures = [failure for _, failure in self.planner.expire(self.now)]
        self.failures += failures
        return failures

    def run(self) -> None:
        """Read all that is to be read now."""
        while jobs := self.take_all():
            for job in jobs:
                self.finish(job)


def spans(jobs: list[Job]) -> list[tuple[int, int]]:
    """Return what is read, in KiB."""
    return [(flight.start // KIB, flight.end // KIB) for job in jobs for flight in job.flights]
