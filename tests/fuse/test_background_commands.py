"""Commands that wait for a pager go on in the background: EAGAIN and poll, one after the other, results at the end."""

from __future__ import annotations

import errno
import os
import select

from tests.support.mounted import wait_for
from tests.support.pager_client import PagerClient
from tests.support.writing import CommandFile, command_file, fails_with, supply, take
from vmofs.units import PAGE_SIZE


def can_be_read(file: CommandFile, seconds: float = 0.0) -> bool:
    poll = select.poll()
    poll.register(file.fd, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(seconds * 1000))


def test_a_command_that_waits_can_be_polled(pager: PagerClient) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    with command_file(pager, "vmo_op_range") as file:
        assert can_be_read(file)
        file.write(f"commit {vmo.name} 0 {PAGE_SIZE}")
        assert take(pager) == "READ(0,1)"
        assert not can_be_read(file, 0.05)
        assert fails_with(file.read) == errno.EAGAIN
        supply(pager, vmo)
        assert can_be_read(file, 10)
        assert file.read() == "ZX_OK\n"
        assert file.read() == ""


def test_the_lines_behind_it_wait_for_it_in_order(pager: PagerClient) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    lines = [f"commit {vmo.name} {page * PAGE_SIZE} {PAGE_SIZE}" for page in range(4)]
    with command_file(pager, "vmo_op_range") as file:
        file.write("\n".join(lines[:2]))
        for line in lines[2:]:
            file.write(line)
        for page in range(4):
            assert take(pager) == f"READ({page},1)"
            assert pager.requests.is_quiet()
            supply(pager, vmo, page)
        assert can_be_read(file, 10)
        assert file.read() == "ZX_OK\n"


def test_the_lines_behind_one_that_fails_are_not_carried_out(pager: PagerClient) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    with command_file(pager, "vmo_op_range") as file:
        file.write(f"commit {vmo.name} 0 {PAGE_SIZE}\nzero {vmo.name} 0 {4 * PAGE_SIZE}")
        assert take(pager) == "READ(0,1)"
        pager.fail(vmo, 0, PAGE_SIZE, "ZX_ERR_NO_SPACE")
        assert can_be_read(file, 10)
        assert file.read().startswith("ZX_ERR_NO_SPACE: ")
        assert vmo.xattr("dirty_zero_pages") == "0"
        assert file.say(f"zero {vmo.name} 0 {PAGE_SIZE}") == "ZX_OK\n"  # and the file goes on
    assert vmo.xattr("dirty_zero_pages") == "1"


def test_a_line_behind_it_that_is_wrong_is_told_by_the_result(pager: PagerClient) -> None:
    vmo = pager.create()
    with command_file(pager, "vmo_op_range") as file:
        assert file.write(f"commit {vmo.name} 0 {PAGE_SIZE}\nnonsense") == len(
            f"commit {vmo.name} 0 {PAGE_SIZE}\nnonsense\n"
        )
        assert take(pager) == "READ(0,1)"
        supply(pager, vmo)
        assert can_be_read(file, 10)
        assert file.read().startswith("ZX_ERR_INVALID_ARGS: ")


def test_a_command_goes_on_when_its_file_is_closed_and_its_result_is_in_the_log(pager: PagerClient) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE)
    (pager.mount / "control/vmo_op_range").write_text(f"prefetch {vmo.name} 0 {2 * PAGE_SIZE}\n")
    assert take(pager) == "READ(0,2)"
    supply(pager, vmo, 0, 2)
    log = pager.mount / "control" / "log"
    wait_for(lambda: f"prefetch {vmo.name} 0 {2 * PAGE_SIZE} -> ZX_OK" in log.read_text(), "the result is in the log")


def test_two_open_files_wait_apart(pager: PagerClient) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    with command_file(pager, "vmo_op_range") as one, command_file(pager, "vmo_op_range") as two:
        one.write(f"commit {vmo.name} 0 {PAGE_SIZE}")
        two.write(f"commit {vmo.name} {2 * PAGE_SIZE} {PAGE_SIZE}")
        assert {take(pager), take(pager)} == {"READ(0,1)", "READ(2,1)"}
        supply(pager, vmo, 2)
        assert can_be_read(two, 10)
        assert two.read() == "ZX_OK\n"
        assert not can_be_read(one)
        supply(pager, vmo, 0)
        assert can_be_read(one, 10)


def test_a_pin_that_waits_when_its_file_is_closed_is_let_go(pager: PagerClient) -> None:
    vmo = pager.create()
    with command_file(pager, "vmo_pin") as file:
        file.write(f"{vmo.name} 0 {PAGE_SIZE}")
        assert take(pager) == "READ(0,1)"
    supply(pager, vmo)
    wait_for(lambda: pager.command("evict", f"{vmo.name} 0 {PAGE_SIZE}") == "ZX_OK pages=1\n", "the page is not pinned")


def test_a_command_that_waits_ends_when_the_pager_does(pager: PagerClient) -> None:
    vmo = pager.create()
    with command_file(pager, "vmo_op_range") as file:
        file.write(f"commit {vmo.name} 0 {PAGE_SIZE}")
        assert take(pager) == "READ(0,1)"
        pager.stop_reading()
        pager.control.rmdir()
        assert can_be_read(file, 10)
        assert file.read().startswith("ZX_ERR_BAD_STATE: ")


def test_many_lines_behind_a_command_that_waits(pager: PagerClient) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE)
    supply(pager, vmo)
    lines = [f"commit {vmo.name} {PAGE_SIZE} {PAGE_SIZE}", *[f"commit {vmo.name} 0 {PAGE_SIZE}"] * 10_000]
    with command_file(pager, "vmo_op_range") as file:
        data = "\n".join(lines).encode() + b"\n"
        taken = os.write(file.fd, data)
        assert 0 < taken < len(data)  # as a pipe that is full
        assert data[taken - 1 : taken] == b"\n"
        assert fails_with(lambda: os.write(file.fd, data[taken:])) == errno.EAGAIN
        assert take(pager) == "READ(1,1)"
        supply(pager, vmo, 1)
        assert can_be_read(file, 10)
        assert file.read() == "ZX_OK\n"
        assert file.say(lines[-1]) == "ZX_OK\n"
