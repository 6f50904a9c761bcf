"""The kernel's locks: nobody keeps others from a directory by waiting for a file in it.

The kernel has a file locked while it is written to, and who removes, renames or links it waits for that lock with the
directories locked. So nothing that a write waits for may need a directory, nor take as long as a pager likes.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Thread
from typing import NamedTuple

import pytest

from tests.support.identity import Actor, meanwhile, reachable_mount
from tests.support.mounted import Mounted, wait_for
from tests.support.rights import command, read, write_at
from tests.support.two_users import HOSTILE, OTHER

SECONDS = 3.0
"""How long others may be held up; without precautions it is for ever."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others")


class People(NamedTuple):
    """A mount, a hostile user in three processes, and another user."""

    mounted: Mounted
    pager: Actor
    writer: Actor
    mover: Actor
    other: Actor

    def path(self, name: str) -> str:
        """Return the path of a name in the mount."""
        return f"{self.mounted.path}/{name}"


@pytest.fixture
def people() -> Iterator[People]:
    with reachable_mount("deadline=0") as mounted:
        actors = [Actor(who) for who in (HOSTILE, HOSTILE, HOSTILE, OTHER)]
        try:
            yield People(mounted, *actors)
        finally:
            for actor in actors:
                actor.close()


def write_a_part(fd: int) -> None:
    assert os.pwrite(fd, b"written", 10) == 7


def cut_within_a_page(fd: int) -> None:
    os.ftruncate(fd, 5000)


def rename(path: str) -> None:
    os.rename(path, f"{path}.moved")  # noqa: PTH104


def link(path: str) -> None:
    with suppress(PermissionError):
        os.link(path, f"{path}.linked")


@pytest.mark.parametrize("wait", [write_a_part, cut_within_a_page])
@pytest.mark.parametrize("move", [os.unlink, rename, link])
def test_who_moves_a_file_whose_write_waits_for_a_pager_holds_up_nobody(
    people: People, wait: Callable[[int], None], move: Callable[[str], object]
) -> None:
    people.pager(os.mkdir, people.path("control/p"))
    line = "vmo/file 8192 resizable"
    assert people.pager(command, people.path("control/p/create_vmo"), line) == "ZX_OK"
    fd = people.writer(os.open, people.path("vmo/file"), os.O_RDWR)
    done: list[str] = []
    writing = Thread(target=lambda: done.append(people.writer.errno(wait, fd)))
    writing.start()
    pending = people.path("control/p/pending")
    wait_for(lambda: bool(people.pager(read, pending)), "the write waits")
    with meanwhile(people.mover, move, people.path("vmo/file")):
        began = time.monotonic()
        people.other(os.mkdir, people.path("vmo/new"))
        assert time.monotonic() - began < SECONDS / 3
    wait_for(lambda: bool(people.pager(read, pending)), "who was interrupted waits again")
    _, _, offset, _, name, *_ = people.pager(read, pending).split()
    people.pager(write_at, people.path(f"control/p/supply/{name}"), int(offset), b"." * 4096)
    writing.join(10)
    assert done == ["ok"]
    people.writer(os.close, fd)


@pytest.mark.parametrize("wait", [write_a_part, cut_within_a_page])
def test_who_renames_over_a_file_whose_write_waits_for_a_pager_holds_up_nobody(
    people: People, wait: Callable[[int], None]
) -> None:
    people.pager(os.mkdir, people.path("control/p"))
    for name in ("file", "other"):
        assert people.pager(command, people.path("control/p/create_vmo"), f"vmo/{name} 8192 resizable") == "ZX_OK"
    fd = people.writer(os.open, people.path("vmo/file"), os.O_RDWR)
    writing = Thread(target=lambda: people.writer.errno(wait, fd))
    writing.start()
    wait_for(lambda: bool(people.pager(read, people.path("control/p/pending"))), "the write waits")
    with meanwhile(people.mover, os.rename, people.path("vmo/other"), people.path("vmo/file")):
        began = time.monotonic()
        people.other(os.mkdir, people.path("vmo/new"))
        assert time.monotonic() - began < SECONDS / 3, "the function of the kernel that he is in is not known"
    people.pager(os.rmdir, people.path("control/p"))
    writing.join(10)
    people.writer(os.close, fd)


def link_again_and_again(path: str, new: str, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        with suppress(OSError):
            os.link(path, new)


def give_commands(file: str, line: str, seconds: float) -> set[str]:
    """Give a command about ever new names; return what came of it."""
    fd = os.open(file, os.O_RDWR)
    ends = time.monotonic() + seconds
    results, number = set(), 0
    while time.monotonic() < ends:
        number += 1
        try:
            os.write(fd, f"{line.format(number)}\n".encode())
        except OSError as error:
            results.add(errno.errorcode[error.errno or 0])
    os.close(fd)
    return results


def test_names_in_commands_are_found_while_somebody_makes_links_of_the_command_file(people: People) -> None:
    file = people.path("control/vmo_op_range")
    with (
        meanwhile(people.mover, link_again_and_again, file, people.path("aux/link"), 3.0),
        meanwhile(people.writer, give_commands, file, "commit aux/nothing{} 0 4096", 3.0) as results,
    ):
        began = time.monotonic()
        for number in range(20):
            people.other(os.mkdir, people.path(f"aux/{number}"))
        assert time.monotonic() - began < SECONDS
    assert results == [{"ENOENT"}]
