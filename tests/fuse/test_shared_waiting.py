"""Users who keep kernel locks for as long as they like: nobody but they themselves may have to wait for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread

import pytest

from tests.identity import Actor, Who, reachable_mount
from tests.mounted import Mounted, wait_for
from tests.rights import command
from vmofs.units import PAGE_SIZE

HOSTILE = Who("hostile", 65534, 65534)
OTHER = Who("other", 2001, 2001)
READ_BYTES = 32 * PAGE_SIZE

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others"),
]


@pytest.fixture(scope="module")
def shared() -> Iterator[Mounted]:
    with reachable_mount() as mounted:
        yield mounted


@pytest.fixture
def hostile() -> Iterator[Actor]:
    actor = Actor(HOSTILE)
    yield actor
    actor.close()


@pytest.fixture
def other() -> Iterator[Actor]:
    actor = Actor(OTHER)
    yield actor
    actor.close()


def make_pager(mount: str, name: str, vmos: int, size: int) -> None:
    os.mkdir(f"{mount}/control/{name}")  # noqa: PTH102
    for number in range(vmos):
        assert command(f"{mount}/control/{name}/create_vmo", f"vmo/{name}{number} {size}") == "ZX_OK"


def supply(mount: str, pager: str, number: int, data: bytes, offset: int = 0) -> None:
    fd = os.open(f"{mount}/control/{pager}/supply/{pager}{number}", os.O_WRONLY)
    try:
        assert os.pwrite(fd, data, offset) == len(data)
    finally:
        os.close(fd)


def read_in_background(path: str, size: int) -> None:
    """Leave a reader waiting."""

    def read() -> None:
        with suppress(OSError):
            os.pread(fd, size, 0)
        os.close(fd)

    fd = os.open(path, os.O_RDONLY)
    Thread(target=read, daemon=True).start()


# Pages that waiting READs have locked


def hold_drops(mount: str, name: str, count: int) -> list[str]:
    """Have as many pages dropped as ``count`` that a waiting READ has locked; return what the commands said."""
    make_pager(mount, name, count, READ_BYTES)
    for number in range(count):
        supply(mount, name, number, b"x" * PAGE_SIZE)
        read_in_background(f"{mount}/vmo/{name}{number}", READ_BYTES)
    pending = f"{mount}/control/{name}/pending"
    wait_for(lambda: _lines(pending) == count, "all readers wait")
    evict = f"{mount}/control/{name}/evict"
    return [command(evict, f"vmo/{name}{number} 0 {PAGE_SIZE}") for number in range(count)]


def _lines(path: str) -> int:
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read().count(b"\n")


def change_and_read(mount: str, name: str, change: str) -> list[str]:
    """Change pages that the kernel has, each by a command, and say what was answered and what is read then."""
    fd = os.open(f"{mount}/vmo/{name}0", os.O_RDONLY)
    seen = []
    for offset in range(0, 5 * PAGE_SIZE, PAGE_SIZE):
        supply(mount, name, 0, b"a" * PAGE_SIZE, offset)
        assert os.pread(fd, 1, offset) == b"a"
        if change == "zero":
            answer = command(f"{mount}/control/vmo_op_range", f"zero vmo/{name}0 {offset} {PAGE_SIZE}")
            expected = b"\0"
        else:
            answer = command(f"{mount}/control/{name}/evict", f"vmo/{name}0 {offset} {PAGE_SIZE}")
            supply(mount, name, 0, b"b" * PAGE_SIZE, offset)
            expected = b"b"
        seen.append(f"{answer} {'new' if os.pread(fd, 1, offset) == expected else 'old'}")
    os.close(fd)
    return seen


@pytest.mark.parametrize(("change", "answer"), [("evict", "ZX_OK pages=1"), ("zero", "ZX_OK")])
def test_what_another_has_locked_keeps_nobody_from_dropping_his_own_pages(
    shared: Mounted, hostile: Actor, other: Actor, change: str, answer: str
) -> None:
    mount = str(shared.path)
    try:
        said = hostile(hold_drops, mount, "holder", 40)
        assert set(said) == {"ZX_OK pages=1 held=1"}  # a READ has it locked, which its own pager owes
        other(make_pager, mount, "honest", 1, 5 * PAGE_SIZE)
        assert other(change_and_read, mount, "honest", change) == [f"{answer} new"] * 5
    finally:
        for name in ("holder", "honest"):
            clean(shared, name)


def clean(shared: Mounted, name: str) -> None:
    """Close a pager, which ends all waiting, and remove what it made."""
    control = shared.path / "control" / name
    if control.exists():
        control.rmdir()
    for top in ("vmo", "aux"):
        for file in (shared.path / top).glob(f"{name}*"):
            file.unlink()
