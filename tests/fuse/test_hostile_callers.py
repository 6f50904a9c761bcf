"""Users who mean harm: what they do must not be felt by others, nor stay behind when they have gone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from threading import Thread

import pytest

from tests.identity import Actor, Who, reachable_mount
from tests.mounted import Mounted, wait_for
from tests.pager_client import metric
from tests.rights import command

HOSTILE = Who("hostile", 65534, 65534)
OTHER = Who("other", 2001, 2001)

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others"),
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="/dev/fuse cannot be used here"),
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


def counter(mounted: Mounted, name: str) -> int:
    return metric((mounted.path / "control/stats").read_text(), f"vmofs_{name}")


# What stays behind


def close_pagers_with_open_files(control: str, count: int) -> None:
    for _ in range(count):
        os.mkdir(f"{control}/gone")  # noqa: PTH102
        names = os.listdir(f"{control}/gone")  # noqa: PTH208
        opened = [os.open(f"{control}/gone/{name}", os.O_RDONLY | os.O_NONBLOCK) for name in names if name != "supply"]
        os.rmdir(f"{control}/gone")  # noqa: PTH106
        for fd in opened:
            os.close(fd)


def test_a_closed_pager_is_forgotten_with_the_last_open_file_of_it(shared: Mounted, hostile: Actor) -> None:
    """Else the kernel would know the names until it is short of memory, and so would we."""
    before = counter(shared, "nodes")
    hostile(close_pagers_with_open_files, f"{shared.path}/control", 20)
    wait_for(lambda: counter(shared, "nodes") <= before, "all nodes are forgotten")


def make_children_and_unlink(mount: str, count: int) -> None:
    os.mkdir(f"{mount}/control/parent")  # noqa: PTH102
    for number in range(count):
        command(f"{mount}/control/parent/create_vmo", f"vmo/parent{number} 4096")
        line = f"snapshot_at_least_on_write vmo/parent{number} vmo/child{number} 0 4096"
        command(f"{mount}/control/vmo_create_child", line)
        os.unlink(f"{mount}/vmo/parent{number}")  # noqa: PTH108
        os.unlink(f"{mount}/vmo/child{number}")  # noqa: PTH108
    os.rmdir(f"{mount}/control/parent")  # noqa: PTH106


def test_a_file_that_was_unlinked_before_its_snapshot_is_forgotten_with_it(shared: Mounted, hostile: Actor) -> None:
    before = counter(shared, "nodes")
    hostile(make_children_and_unlink, str(shared.path), 20)
    wait_for(lambda: counter(shared, "nodes") <= before, "all nodes are forgotten")


# Who makes the mount wait for itself


def look_at(path: str, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        os.stat(path)  # noqa: PTH116


def come_and_go(path: str, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        time.sleep(0.002)  # so that it is attached to
        os.close(fd)


def test_readers_of_a_fifo_come_and_go_while_the_kernel_forgets_its_acl_all_the_time(shared: Mounted) -> None:
    """Whatever looks at the mode of a FIFO that a group may use asks for its ACL, and a lookup makes the kernel forget.

    A watch for closes that is set by the thread that answers would wait for itself.
    """
    pager, fifo = shared.path / "control/visited", str(shared.path / "control/visited/worker")
    actors = [Actor(HOSTILE) for _ in range(3)]
    actors[0](os.mkdir, str(pager))
    actors[0](os.mkfifo, fifo)
    actors[0](os.chmod, fifo, 0o660)
    works = [
        Thread(target=actor, args=(work, fifo, 3.0), daemon=True)
        for actor, work in zip(actors, (come_and_go, look_at, look_at), strict=True)
    ]
    for work in works:
        work.start()
    for work in works:
        work.join(10)
    assert not any(work.is_alive() for work in works), "the mount hangs"
    for actor in actors:
        actor.close()
    pager.rmdir()
