"""The parts of the soak that need no mount: its plan, its oracle, and how it shortens a history."""

from __future__ import annotations

import errno
import random
import time
from pathlib import Path

import pytest

from tests.soak.board import SLOTS, Board
from tests.soak.plan import KINDS, draw_op, draw_options, numbers_for
from tests.soak.replay import shrink
from tests.soak.shared import SharedFile
from tests.soak.world import MEMORY_SECONDS, World, WrongError, check_bytes, content
from vmofs.units import PAGE_SIZE

KEY = 3 * SLOTS + 7


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A world without a mount."""
    return World(tmp_path, tmp_path, Board(tmp_path / "board", create=True))


def test_a_seed_tells_the_whole_plan() -> None:
    plans = [[draw_op(numbers_for(7, 1, 2, step), step) for step in range(2000)] for _ in range(2)]
    assert plans[0] == plans[1]
    assert plans[0] != [draw_op(numbers_for(8, 1, 2, step), step) for step in range(2000)]
    assert {op.kind for op in plans[0]} == set(KINDS)
    assert draw_options(numbers_for(7)) == draw_options(numbers_for(7))


def test_one_wrong_byte_is_found_and_described() -> None:
    right = content(KEY, 5, 2 * PAGE_SIZE, PAGE_SIZE)
    check_bytes(right, right, 2 * PAGE_SIZE, "pread")
    wrong = right[:800] + content(KEY, 4, 2 * PAGE_SIZE + 800, 8) + right[808:]
    with pytest.raises(WrongError, match=f"which is byte 0x2320 of step 4 of file {KEY} instead of") as caught:
        check_bytes(wrong, right, 2 * PAGE_SIZE, "pread")
    assert 0x2320 <= caught.value.offset < 0x2328
    assert 0 < caught.value.length <= 8


def test_fewer_bytes_are_wrong() -> None:
    with pytest.raises(WrongError, match="pread: 7 bytes at 0x0 instead of 8"):
        check_bytes(bytes(7), bytes(8), 0, "pread")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EBADFD, errno.EFAULT])
def test_a_failure_needs_a_pager_that_failed_that_file_a_moment_ago(world: World, code: int) -> None:
    error, now = OSError(code, ""), time.monotonic()
    assert not world.has_cause(error, KEY, 0, now)
    world.board.note_fault(KEY + 1)
    assert not world.has_cause(error, KEY, 0, now)
    world.board.note_fault(KEY)
    assert world.has_cause(error, KEY, 0, now)
    assert not world.has_cause(error, KEY, 0, now + MEMORY_SECONDS + 1)


def test_a_time_out_needs_a_pager_that_was_stopped_for_long(world: World) -> None:
    error, now = OSError(errno.ETIMEDOUT, ""), time.monotonic()
    world.board.note_fault(KEY)
    assert not world.has_cause(error, KEY, 2, now)
    world.board.trouble[2] = now + 10
    assert world.has_cause(error, KEY, 2, now)
    assert not world.has_cause(error, KEY, 1, now)


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EINVAL, errno.ENOENT, errno.EPERM])
def test_other_errors_have_no_cause(world: World, code: int) -> None:
    world.board.note_fault(KEY)
    world.board.trouble[0] = time.monotonic() + 10
    with pytest.raises(WrongError, match="without a cause"):
        world.insist(lambda: (_ for _ in ()).throw(OSError(code, "")), KEY, 0)


def test_a_page_of_a_shared_file_may_be_between_the_versions_that_were_there(world: World) -> None:
    file = SharedFile(1, KEY, 0, 4, 0, "")
    pages = [content(KEY, version, PAGE_SIZE, PAGE_SIZE) for version in range(4)]
    for version in range(1, 3):
        assert world.board.begin_version(1, 1) == version
        world.board.end_version(1, 1, version)
    assert (world.board.oldest(1, 1), world.board.newest(1, 1)) == (2, 2)
    assert world.board.begin_version(1, 1) == 3
    assert (world.board.oldest(1, 1), world.board.newest(1, 1)) == (2, 3)
    for seen in (pages[2], pages[3], pages[3][:1000] + pages[2][1000:]):
        file.check(seen, 1, 2, 3, "pread")
    for seen in (pages[1], bytes(PAGE_SIZE), pages[3][:-8] + pages[1][-8:], content(KEY, 2, 0, PAGE_SIZE)):
        with pytest.raises(WrongError, match="versions 2 to 3 may be read"):
            file.check(seen, 1, 2, 3, "pread")


@pytest.mark.parametrize("seed", range(20))
def test_a_history_is_shortened_to_what_is_needed(seed: int) -> None:
    numbers = random.Random(seed)  # noqa: S311 - nothing secret
    steps = list(range(numbers.randrange(3, 120)))
    needed = sorted(numbers.sample(steps, 3))
    assert shrink(steps, lambda some: set(needed) <= set(some), time.monotonic() + 60) == needed


def test_the_search_for_a_shorter_history_ends_in_time() -> None:
    assert shrink([1, 2, 3], lambda _: True, time.monotonic() - 1) == [1, 2, 3]
