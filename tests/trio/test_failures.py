"""The memory of failed reads, without the kernel whose retries it is for."""

from __future__ import annotations

import time

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from vmofs.status import IoError, TimedOutError, VmoError
from vmofs.units import PageRange
from vmofs_mount import failures as module
from vmofs_mount.failures import RETRY_SECONDS, Failures, Retries, RetriesLeft
from vmofs_mount.processes import Blocked

MANY = 5_000
PROCESS = 7


class Dropping:
    """A page cache in which every drop succeeds."""

    def __init__(self) -> None:
        self.dropped: list[PageRange] = []

    async def drop(self, pages: PageRange) -> bool:
        """Drop."""
        self.dropped.append(pages)
        return True


def remember(failures: Failures, pages: PageRange, retries: int = 1) -> VmoError:
    """Note that a read failed."""
    error = IoError(f"{pages} cannot be had")
    failures.remember(RetriesLeft({PROCESS: retries}), pages, error, None)
    return error


def test_thousands_of_failures_at_once_cost_no_more_than_their_number() -> None:
    failures = Failures(Dropping().drop)
    began = time.process_time()
    errors = [remember(failures, PageRange(page, page + 1)) for page in range(MANY)]
    recalled = [failures.recall(PROCESS, PageRange(page, page + 1)) for page in range(MANY)]
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
    assert failures.recall(PROCESS, PageRange(4, 5)) is error
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
    retries = Retries(0)
    retries.began(PROCESS)
    left = await retries.count(PROCESS, 0, (), 1, PageRange(0, 1), stale=False)
    assert left.of == {PROCESS: 1}
    assert left.seconds >= 4 * slow
    assert slow or left.seconds == RETRY_SECONDS


async def test_where_looking_takes_too_long_retries_are_awaited_for_longer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_look_at", lambda _processes: time.sleep(0.2))
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.08)
    left = await Retries(0).count(PROCESS, 0, (), 1, PageRange(0, 1), stale=False)
    assert left.of == {PROCESS: 1}
    assert left.seconds > RETRY_SECONDS


async def test_who_waited_in_vain_is_not_told_so_for_longer_than_needed(autojump_clock: MockClock) -> None:
    failures = Failures(Dropping().drop)
    failure = failures.remember(RetriesLeft({PROCESS: 1}, 2.0), PageRange(0, 1), TimedOutError("late"), None)
    await failures.expire(failure)
    assert autojump_clock.current_time() == pytest.approx(RETRY_SECONDS)
