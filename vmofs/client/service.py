"""Runs a pager: threads that take requests, call the pager, and give the answers. What to do says ``policy``.

Where requests come from and answers go to is an ``Inlet`` and an ``Outlet``: a FIFO and files of a mount, a daemon of
which this is a part, or a test.

One of the threads waits for requests, the *leader*. It takes a request up itself, and wakes another to wait in its
place: so between a request and the call of the pager no thread has to be woken. There is always one thread more than
calls that go on, and a call that does not return in time is replaced.
"""

from __future__ import annotations

import errno
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from inspect import isawaitable
from typing import Any, NamedTuple, Protocol, TypeAlias

from vmofs.client.complaints import Complaints
from vmofs.client.pager import Changed, Data, Object, Pager, Retry, Unavailable
from vmofs.client.policy.flights import Flight, Job
from vmofs.client.policy.plan import Plan
from vmofs.client.policy.planner import Planner
from vmofs.client.policy.statistics import Statistics
from vmofs.client.policy.streams import MOST_AHEAD
from vmofs.client.policy.terms import Failure, Kind, Supply, Terms
from vmofs.status import NoMemoryError, Status, VmoError
from vmofs.units import PAGE_SIZE

log = logging.getLogger("vmofs.client")

_END_SECONDS = 2.0
_THREADS_FOR_A_PLACE = 5
"""One reads; of those that hang there may be four (``policy.places``)."""
_THREADS_FOR_TASKS = 8
_OUT_OF_MEMORY = frozenset({errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR})


class Piece(NamedTuple):
    """Pages to supply."""

    offset: int
    data: memoryview


class Outlet(Protocol):
    """Where the answers for one object go."""

    def supply(self, offset: int, data: Data) -> None:
        """Supply whole pages; the last page of the object may be short."""

    def supply_many(self, pieces: Sequence[Piece]) -> int:
        """Supply several pieces at once; return how many were taken before one was not."""

    def fail(self, offset: int, length: int, status: Status, sentence: str) -> None:
        """Tell those who wait for a range that it cannot be had."""

    def close(self) -> None:
        """Take no more answers."""


class Entry:
    """An object that is served."""

    def __init__(self, obj: Object, plan: Plan, outlet: Outlet) -> None:
        self.obj, self.plan, self.outlet = obj, plan, outlet
        self.was_hinted = False


class Read(NamedTuple):
    """A request: somebody waits for the pages [start, end)."""

    entry: Entry
    start: int
    end: int


Task: TypeAlias = Callable[[], None]
"""Something else to be done by a thread, which may take its time."""


class Inlet(Protocol):
    """Where requests come from."""

    def wait(self, seconds: float | None) -> Sequence[Read | Task] | None:
        """Return what came; nothing if the time has passed or ``wake`` was called; None at the end."""

    def wake(self) -> None:
        """Let ``wait`` return."""


Awaiter: TypeAlias = Callable[[Awaitable[Any], float], Any]
"""Returns what a coroutine of the pager returns; raises TimeoutError if that takes longer."""


def terms_of(pager: Pager, *, hard: bool = False) -> Terms:
    """Return how a pager is to be run, from its attributes.

    Raises:
        ValueError: One of them is out of range.
    """
    cluster, ahead = pager.cluster, MOST_AHEAD if pager.ahead is None else pager.ahead
    if cluster is not None and (cluster < PAGE_SIZE or cluster % PAGE_SIZE):
        raise ValueError(f"cluster is {cluster} bytes, which is no multiple of {PAGE_SIZE}")
    if ahead < 0 or pager.threads < 1 or pager.deadline < 0:
        raise ValueError(
            f"ahead={ahead}, threads={pager.threads}, deadline={pager.deadline}: none may be negative or 0"
        )
    together = type(pager).read_many is not Pager.read_many
    return Terms(cluster, ahead, pager.threads, pager.deadline or math.inf, hard, together)


class Service:
    """Serves the objects of one pager until the inlet ends or ``stop`` is called.

    Args:
        pager: Who reads.
        inlet: Where requests come from.
        terms: Numbers; those of the pager if they are not given.
        awaiter: Runs coroutines of the pager.
    """

    def __init__(self, pager: Pager, inlet: Inlet, terms: Terms | None = None, awaiter: Awaiter | None = None) -> None:
        self.pager, self.inlet = pager, inlet
        self.planner = Planner(terms or terms_of(pager))
        self.complaints = Complaints(log)
        self._await = awaiter or _Loop().run
        self._entries: dict[Plan, Entry] = {}
        self._tasks: deque[Task] = deque()
        self._condition = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._most_threads = _THREADS_FOR_A_PLACE * self.planner.terms.places + _THREADS_FOR_TASKS
        self._idle = 0
        self._leads_until: float | None = None
        self._is_stopped = False
        self._ended = threading.Event()

    def entry(self, obj: Object, outlet: Outlet) -> Entry:
        """Take up an object."""
        entry = Entry(obj, self.planner.plan(obj.name, obj.size), outlet)
        with self._condition:
            self._entries[entry.plan] = entry
        return entry

    def forget(self, entry: Entry) -> None:
        """Let an object go: nobody has it any more."""
        with self._condition:
            self.planner.forget(entry.plan)
            self._entries.pop(entry.plan, None)

    @property
    def statistics(self) -> Statistics:
        """What was done so far."""
        return self.planner.statistics

    def prefetch(self, entry: Entry, ranges: Sequence[tuple[int, int]]) -> None:
        """Read ranges (offset, length) of an object while nobody waits for others."""
        with self._condition:
            self.planner.prefetch(entry.plan, [(offset, offset + length) for offset, length in ranges])
            self._call_others(has_more=True)

    def do(self, task: Task) -> None:
        """Have something done by a thread."""
        with self._condition:
            self._tasks.append(task)
            self._call_others(has_more=True)

    # Threads

    def start(self) -> None:
        """Begin to serve; returns at once."""
        with self._condition:
            self._spawn()

    def wait(self) -> None:
        """Wait until the end."""
        self._ended.wait()

    def stop(self) -> None:
        """End: what was not answered stays unanswered. Waits a moment for calls that go on, but not for good."""
        with self._condition:
            self._is_stopped = True
            self._condition.notify_all()
            threads = list(self._threads)
        self.inlet.wake()
        end = time.monotonic() + _END_SECONDS
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))
        self._ended.set()

    def _spawn(self) -> None:
        thread = threading.Thread(target=self._work, name="vmofs.client", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _work(self) -> None:
        try:
            while (turn := self._turn()) is not None:
                turn()
        except Exception:
            log.exception("the pager ends by an error of the framework")
        finally:
            with self._condition:
                self._threads.discard(threading.current_thread())
                self._is_stopped = True
                self._condition.notify_all()
            self._ended.set()

    def _turn(self) -> Task | None:
        """Return what this thread is to do next, for which it may have to wait; None at the end."""
        with self._condition:
            while not self._is_stopped:
                now = time.monotonic()
                for plan, failure in self.planner.expire(now):
                    self._tasks.append(partial(self._give, self._entries[plan], failure))
                turn: Task | None = None
                if self._tasks:
                    turn = self._tasks.popleft()
                elif job := self.planner.take(now):
                    turn = partial(self._execute, job)
                if turn:
                    self._call_others()
                    return turn
                if self._leads_until is None:
                    self._lead(now)
                else:
                    self._idle += 1
                    self._condition.wait()
                    self._idle -= 1
        return None

    def _lead(self, now: float) -> None:
        """Wait for requests, without the lock."""
        self._leads_until = self.planner.next_time()
        seconds = None if math.isinf(self._leads_until) else max(0.0, self._leads_until - now)
        self._condition.release()
        try:
            events = self.inlet.wait(seconds)
        finally:
            self._condition.acquire()
            self._leads_until = None
        if events is None:
            self._is_stopped = True
            self._condition.notify_all()
            return
        now = time.monotonic()
        for event in events:
            if isinstance(event, Read):
                for answer in self.planner.request(event.entry.plan, event.start, event.end, now):
                    self._tasks.append(partial(self._give, event.entry, answer))
            else:
                self._tasks.append(event)

    def _call_others(self, *, has_more: bool = False) -> None:
        """See to it that somebody takes up the rest, and leads. The lock is held."""
        if self._idle:
            self._condition.notify()
            has_more = False
        elif self._leads_until is None:
            if 0 < len(self._threads) < self._most_threads:
                self._spawn()
            return
        if self._leads_until is not None and (has_more or self.planner.next_time() < self._leads_until):
            self.inlet.wake()

    # Calls of the pager

    def _execute(self, job: Job) -> None:
        """Read what a job is for, and supply it."""
        plan = self.planner.plan_of(job.flights[0])
        entry = self._entries.get(plan) if plan else None
        try:
            if entry:
                self._read(entry, job)
        finally:
            with self._condition:
                self.planner.finished(job)
        if entry and not entry.was_hinted and not job.is_ahead:
            entry.was_hinted = True
            self._take_hints(entry)

    def _read(self, entry: Entry, job: Job) -> None:
        ranges = [(each.start, min(each.end, entry.obj.size) - each.start) for each in job.flights]
        try:
            results = self._call(entry.obj, ranges)
        except BaseException as error:  # noqa: BLE001 - whatever it is, who waits is to be told
            for flight in job.flights:
                self._failed(entry, flight, error)
            return
        arrived = [
            (flight, self._arrived(entry, flight, length, data))
            for flight, (_, length), data in zip(job.flights, ranges, results, strict=True)
        ]
        if len(arrived) > 1:
            arrived = self._supply_together(entry, arrived)
        for flight, pieces in arrived:
            self._supply(entry, flight, pieces)

    def _call(self, obj: Object, ranges: list[tuple[int, int]]) -> Sequence[Data]:
        """Call the pager for what lies within the object; what lies beyond is nothing."""
        if len(ranges) == 1:
            return [self.result(self.pager.read(obj, *ranges[0])) if ranges[0][1] > 0 else b""]
        results: Sequence[Data] = self.result(self.pager.read_many(obj, ranges))
        if len(results) != len(ranges):
            raise RangesError(f"read_many returned {len(results)} results for {len(ranges)} ranges")
        return results

    def result(self, result: Any) -> Any:  # noqa: ANN401 - what methods of a pager return
        """Return what a method of the pager returns, be it a coroutine function or not."""
        return self._await(result, self.planner.terms.attempt) if isawaitable(result) else result

    def _arrived(self, entry: Entry, flight: Flight, length: int, data: Data) -> list[Piece]:
        """Take what was read for a flight; return what is to be supplied of it."""
        try:
            view = memoryview(data).cast("B")
        except TypeError as error:
            self._failed(entry, flight, error)
            return []
        if len(view) != max(0, length):
            wrong = RangesError(f"read returned {len(view)} bytes instead of {length} at {flight.start}")
            self._failed(entry, flight, wrong)
            return []
        if len(view) < flight.length:  # the last page of the object
            view = memoryview(bytes(view).ljust(flight.length, b"\0"))
        with self._condition:
            pieces = self.planner.arrived(flight, view, time.monotonic())
        return [Piece(start, view[start - flight.start : end - flight.start]) for start, end in pieces]

    def _supply(self, entry: Entry, flight: Flight, pieces: Sequence[Piece]) -> None:
        """Supply pieces of a flight."""
        try:
            for offset, data in pieces:
                entry.outlet.supply(offset, data)
                with self._condition:
                    self.planner.supplied(flight, offset, offset + len(data))
        except (OSError, VmoError) as error:
            self._not_taken(entry, flight, error)

    def _supply_together(
        self, entry: Entry, arrived: list[tuple[Flight, list[Piece]]]
    ) -> list[tuple[Flight, list[Piece]]]:
        """Supply the pieces of several flights at once; return what is left to be supplied one by one."""
        pieces = [(flight, piece) for flight, its_pieces in arrived for piece in its_pieces]
        try:
            done = entry.outlet.supply_many([piece for _, piece in pieces]) if pieces else 0
        except (OSError, VmoError):
            done = 0  # which it is, and why, is found out one by one
        with self._condition:
            for flight, (offset, data) in pieces[:done]:
                self.planner.supplied(flight, offset, offset + len(data))
        return [(flight, [piece]) for flight, piece in pieces[done:]]

    def _take_hints(self, entry: Entry) -> None:
        try:
            ranges = list(self.pager.hint(entry.obj))
        except Exception as error:  # noqa: BLE001 - the author's; nobody waits for hints
            self.complaints.about(entry.obj.name, error, "hint failed")
            return
        self.prefetch(entry, ranges)

    # Answers

    def _give(self, entry: Entry, answer: Supply | Failure) -> None:
        """Give an answer. Who cannot be told any more is gone, or the mount is."""
        try:
            if isinstance(answer, Supply):
                entry.outlet.supply(answer.start, answer.data)
                return
            self.complaints.failure(entry.obj.name, answer)
            entry.outlet.fail(answer.start, answer.end - answer.start, answer.status, answer.sentence)
        except (OSError, VmoError) as error:
            self.complaints.about(entry.obj.name, error, "an answer was not taken")

    def _failed(self, entry: Entry, flight: Flight, error: BaseException) -> None:
        """Take it that a read has failed."""
        kind = kind_of(error)
        sentence = str(error) or type(error).__name__
        if kind is Kind.WRONG:
            sentence = f"{type(error).__name__}: {error}"
            self.complaints.about(entry.obj.name, error, "the pager failed")
        self._record(entry, flight, kind, sentence, error.after if isinstance(error, Retry) else None)

    def _not_taken(self, entry: Entry, flight: Flight, error: OSError | VmoError) -> None:
        """Take it that a supply has failed: for want of memory, or since nobody is there any more."""
        lacks_memory = isinstance(error, NoMemoryError) or getattr(error, "errno", 0) in _OUT_OF_MEMORY
        self.complaints.about(entry.obj.name, error, "pages were not taken")
        self._record(entry, flight, Kind.AWAY if lacks_memory else Kind.WRONG, f"pages were not taken: {error}", None)

    def _record(self, entry: Entry, flight: Flight, kind: Kind, sentence: str, after: float | None) -> None:
        with self._condition:
            failures = self.planner.failed(flight, kind, sentence, time.monotonic(), after)
            self._call_others()
        for failure in failures:
            self._give(entry, failure)


class RangesError(ValueError):
    """A pager did not return what was asked for."""


def kind_of(error: BaseException) -> Kind:
    """Return what kind of failure an exception of a pager is."""
    if isinstance(error, Changed):
        return Kind.CHANGED
    if isinstance(error, (Retry, TimeoutError)):
        return Kind.AWAY
    return Kind.UNAVAILABLE if isinstance(error, (Unavailable, OSError)) else Kind.WRONG


class _Loop:
    """An asyncio loop in a thread of its own, begun when it is first needed: importing asyncio takes 50 ms."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: Any = None

    def run(self, awaitable: Awaitable[Any], seconds: float) -> Any:  # noqa: ANN401 - what the coroutine returns
        """Return what it returns.

        Raises:
            TimeoutError: It took longer, and was cancelled.
        """
        import asyncio  # noqa: PLC0415

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="vmofs.client loop", daemon=True).start()

        async def waited() -> Any:  # noqa: ANN401 - as above
            return await awaitable

        future = asyncio.run_coroutine_threadsafe(waited(), self._loop)
        try:
            return future.result(None if math.isinf(seconds) else seconds)
        except TimeoutError:
            is_its_own = not future.cancel()
            if is_its_own:
                raise
            raise TimeoutError(f"a coroutine of the pager did not return within {seconds:g} s") from None
