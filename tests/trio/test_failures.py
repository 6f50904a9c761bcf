"""The memory of failed reads, without the kernel whose retries it is for."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.reads import waiting_read
from vmofs.status import IoError, TimedOutError, VmoError
from vmofs.units import PageRange
from vmofs_mount.cache import retry_counts as module
from vmofs_mount.cache.read_retries import RETRY_SECONDS, Failure, Failures, RetriesLeft
from vmofs_mount.cache.retry_counts import Retries
from vmofs_mount.cache.waiting_reads import WaitingReads
from vmofs_mount.linux.procfs import Blocked

MANY = 5_000
PROCESS = 7


class Dropping:
    """A page cache in which every drop succeeds."""

    def __init__(self) -> None:
        self.dropped: list[PageRange] = []

    async def drop(self, pages: PageRange, begun: Callable[[], None]) -> bool:
        """Drop."""
        begun()
        self.dropped.append(pages)
        return True


def remember(failures: Failures, pages: PageRange, retries: int = 1) -> VmoError:
    """Note that a read failed."""
    error = IoError(f"{pages} cannot be had")
    failures.remember(RetriesLeft({PROCESS: retries}), pages, error, None)
    return error


def recall(failures: Failures, pages: PageRange) -> VmoError | None:
    """Return the error that a READ gets, if it is taken for a retry."""
    failure = failures.recall(PROCESS, pages)
    return None if failure is None else failure.error


def test_thousands_of_failures_at_once_cost_no_more_than_their_number() -> None:
    failures = Failures(Dropping().drop)
    began = time.process_time()
    errors = [remember(failures, PageRange(page, page + 1)) for page in range(MANY)]
    recalled = [recall(failures, PageRange(page, page + 1)) for page in range(MANY)]
    for page in range(MANY):
        failures.forget(PageRange(page, page + 1))
    assert time.process_time() - began < 2  # looking through all for each takes twenty
    assert recalled == errors
    assert not failures


def test_a_retry_of_a_part_is_recognised_once_and_what_lies_beside_it_is_not() -> None:
    failures = Failures(Dropping().drop)
    error = remember(failures, PageRange(2, 6))
    assert failures.recall(PROCESS, PageRange(0, 2)) is None
    assert failures.recall(PROCESS, PageRange(6, 9)) is None
    assert failures.recall(PROCESS + 1, PageRange(2, 6)) is None
    assert recall(failures, PageRange(4, 5)) is error
    assert failures.recall(PROCESS, PageRange(4, 5)) is None


def test_supplying_all_of_a_large_vmo_forgets_its_failures() -> None:
    failures = Failures(Dropping().drop)
    remember(failures, PageRange(5, 7))
    remember(failures, PageRange(2**40, 2**40 + 1))
    failures.forget(PageRange(0, 2**50))
    assert not failures


async def test_a_failure_that_is_over_is_dropped_and_one_that_failed_again_is_not(autojump_clock: MockClock) -> None:
    cache = Dropping()
    failures = Failures(cache.drop)
    async with trio.open_nursery() as nursery:
        for retries in (1, 0):
            failure = failures.remember(RetriesLeft({PROCESS: retries}), PageRange(2, 4), IoError("no"), None)
            nursery.start_soon(failures.expire, failure)
            await wait_all_tasks_blocked()
    assert cache.dropped == [PageRange(2, 4)]
    assert not failures
    assert autojump_clock.current_time() < 1


@pytest.mark.parametrize("slow", [0.0, 0.1])
async def test_where_looking_takes_long_retries_are_awaited_for_longer(
    monkeypatch: pytest.MonkeyPatch, slow: float
) -> None:
    def look(processes: set[int]) -> dict[int, Blocked]:
        time.sleep(slow)
        return {process: Blocked(reads=1) for process in processes}

    monkeypatch.setattr(module, "_look_at", look)
    reads, read = WaitingReads(), waiting_read(PageRange(0, 1), process=PROCESS)
    retries = Retries(0, reads)
    reads.add(read)
    left = await retries.count(read, (), read.pages, stale=False)
    assert left.of == {PROCESS: 1}
    assert left.seconds >= 4 * slow
    expected = max(RETRY_SECONDS, module._RETRIES_PER_LOOK * retries._look_took)  # on a busy machine all looks are slow
    assert left.seconds == min(expected, module._MAX_RETRY_SECONDS)


async def test_where_looking_takes_too_long_retries_are_awaited_for_longer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_look_at", lambda _processes: time.sleep(0.2))
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.08)
    read = waiting_read(PageRange(0, 1), process=PROCESS)
    left = await Retries(0, WaitingReads()).count(read, (), read.pages, stale=False)
    assert left.of == {PROCESS: 1}
    assert left.seconds > RETRY_SECONDS


@pytest.mark.parametrize("all_do", [True, False])
async def test_a_read_whose_reader_waits_for_its_page_is_not_stale(
    monkeypatch: pytest.MonkeyPatch, all_do: bool
) -> None:
    """The older page has gone, and the news of it is late. The retry would be counted twice when it comes."""
    monkeypatch.setattr(module, "_look_at", lambda all_: dict.fromkeys(all_, Blocked(reads=1, all_do=all_do)))
    monkeypatch.setattr(module, "reads_file", lambda *_: True)
    reads, read = WaitingReads(), waiting_read(PageRange(0, 1), process=PROCESS)
    reads.add(read)
    left = await Retries(0, reads).count(read, (), read.pages, stale=True)
    assert left.of == {PROCESS: 1}
    assert left.stale == (not all_do)


async def test_who_waited_in_vain_is_not_told_so_for_longer_than_needed(autojump_clock: MockClock) -> None:
    failures = Failures(Dropping().drop)
    failure = failures.remember(RetriesLeft({PROCESS: 1}, 2.0), PageRange(0, 1), TimedOutError("late"), None)
    await failures.expire(failure)
    assert autojump_clock.current_time() == pytest.approx(RETRY_SECONDS)


async def test_the_last_retry_is_answered_when_the_drop_has_begun(autojump_clock: MockClock) -> None:
    """Not when it has ended: it waits for the page that the retry has locked."""
    events: list[str] = []
    answered = trio.Event()

    async def drop(_pages: PageRange, begun: Callable[[], None]) -> bool:
        await trio.sleep(0.01)
        events.append("begun")
        begun()
        await answered.wait()
        events.append("dropped")
        return True

    failures = Failures(drop)
    failure = failures.remember(RetriesLeft({PROCESS: 2}), PageRange(0, 1), IoError("no"), None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(failures.expire, failure)
        for _ in range(2):
            assert failures.recall(PROCESS, PageRange(0, 1)) is failure
            await failure.before_answer()
            events.append("answered")
        answered.set()
    assert events == ["answered", "begun", "answered", "dropped"]
    assert autojump_clock.current_time() == pytest.approx(0.01)


async def test_a_drop_that_does_not_begin_does_not_keep_the_answer_back(autojump_clock: MockClock) -> None:
    async def drop(_pages: PageRange, _begun: Callable[[], None]) -> bool:
        await trio.sleep(60)
        return True

    failures = Failures(drop)
    failure = failures.remember(RetriesLeft({PROCESS: 1}), PageRange(0, 1), IoError("no"), None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(failures.expire, failure)
        assert failures.recall(PROCESS, PageRange(0, 1)) is failure
        await failure.before_answer()
        assert autojump_clock.current_time() < 0.1
        nursery.cancel_scope.cancel()


PAGE = PageRange(0, 1)


class HeldUp:
    """A page cache in which every drop waits for a lock, as while a READ of the page waits."""

    def __init__(self) -> None:
        self.locks: list[trio.Event] = []

    async def drop(self, _pages: PageRange, begun: Callable[[], None]) -> bool:
        """Drop."""
        begun()
        self.locks.append(trio.Event())
        await self.locks[-1].wait()
        return True

    async def fail_twice(self, failures: Failures, nursery: trio.Nursery, retries: int) -> Failure:
        """Let a READ of a page fail that is being dropped for an older failure; return the newer one."""
        older = failures.remember(RetriesLeft({PROCESS: 0}), PAGE, IoError("older"), None)
        nursery.start_soon(failures.expire, older)
        await wait_all_tasks_blocked()
        newer = failures.remember(RetriesLeft({PROCESS: retries}), PAGE, IoError("newer"), older)
        nursery.start_soon(failures.expire, newer)
        return newer


async def test_an_older_drop_that_gets_the_page_between_two_retries_makes_one_more(autojump_clock: MockClock) -> None:
    """It waits for the READ that came meanwhile; when that is answered it may be faster than who tries again."""
    cache = HeldUp()
    failures = Failures(cache.drop)
    async with trio.open_nursery() as nursery:
        newer = await cache.fail_twice(failures, nursery, 2)
        assert failures.recall(PROCESS, PAGE) is newer
        await newer.before_answer()
        assert failures.recall(PROCESS, PAGE) is newer  # the last one, as far as is known
        nursery.start_soon(newer.before_answer)
        await wait_all_tasks_blocked()
        cache.locks[0].set()
        await wait_all_tasks_blocked()
        assert len(cache.locks) == 1
        assert failures.recall(PROCESS, PAGE) is newer
        await newer.before_answer()
        assert failures.recall(PROCESS, PAGE) is None
        await wait_all_tasks_blocked()
        assert len(cache.locks) == 2  # the page has come back
        cache.locks[1].set()
    assert not failures
    assert autojump_clock.current_time() < RETRY_SECONDS


async def test_a_drop_that_comes_after_the_last_retry_makes_none(autojump_clock: MockClock) -> None:
    cache = HeldUp()
    failures = Failures(cache.drop)
    async with trio.open_nursery() as nursery:
        newer = await cache.fail_twice(failures, nursery, 1)
        assert failures.recall(PROCESS, PAGE) is newer
        await newer.before_answer()
        await wait_all_tasks_blocked()
        cache.locks[0].set()
    assert len(cache.locks) == 1
    assert failures.recall(PROCESS, PAGE) is None
    assert not failures
    assert autojump_clock.current_time() < RETRY_SECONDS
