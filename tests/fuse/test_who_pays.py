"""Who makes the mount's memory grow pays for it, in whatever way he does it, and never has more than he may."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.identity import Actor, Who, reachable_mount
from tests.mounted import Mounted, wait_for
from tests.rights import command
from vmofs.units import PAGE_SIZE

MIB = 2**20
LIMIT = 4 * MIB
PIECE = MIB // 2
ROUNDS = 3 * LIMIT // PIECE

USER = Who("user", 2001, 2001)
OTHER = Who("other", 2002, 2002)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others")


@pytest.fixture(scope="module")
def mounted() -> Iterator[Mounted]:
    with reachable_mount(f"user_memory={LIMIT},user_nodes=500,user_ranges=3000,user_xattr_bytes=4000") as mounted:
        yield mounted


@pytest.fixture
def user(mounted: Mounted) -> Iterator[Actor]:
    """A user with a pager and an empty mount, of whom nothing is left afterwards."""
    actor = Actor(USER)
    actor(os.mkdir, mounted.path / "control" / "p")
    yield actor
    actor.close()
    with suppress(FileNotFoundError):
        (mounted.path / "control" / "p").rmdir()
    for file in [*(mounted.path / "vmo").iterdir(), *(mounted.path / "aux").iterdir()]:
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    wait_for(lambda: all_of(mounted, USER) == 0, "nothing is counted any more")


def all_of(mounted: Mounted, who: Who) -> int:
    names = ("memory_bytes", "ranges", "nodes", "vmos", "aux_files", "xattr_bytes", "queue_bytes", "descriptors")
    return sum(mounted.user_counter(name, who.uid) for name in names)


def held(mounted: Mounted) -> int:
    return mounted.counter("frames_used") * PAGE_SIZE


def say(mount: Path, file: str, line: str) -> None:
    """Carry out a command.

    Raises:
        OSError: it failed with NO_MEMORY.
    """
    answer = command(f"{mount}/control/{file}", line)
    if answer.startswith("ZX_ERR_NO_MEMORY"):
        raise OSError(answer)
    assert answer.startswith("ZX_OK"), answer


def stage(mount: Path, name: str) -> None:
    (mount / "aux" / name).write_bytes(b"s" * PIECE)


def supplied(mount: Path, name: str) -> None:
    """Make a VMO with content."""
    stage(mount, f"of_{name}")
    say(mount, "p/create_vmo", f"vmo/{name} {PIECE}")
    say(mount, "p/supply_pages", f"vmo/{name} 0 {PIECE} aux/of_{name} 0")
    (mount / "aux" / f"of_{name}").unlink()


def slice_of_aux(mount: Path, number: int) -> None:
    """A slice of one page keeps an aux that has no name any more."""
    say(mount, "vmo_create", f"aux/a{number} {PIECE}")
    with (mount / "aux" / f"a{number}").open("r+b", buffering=0) as file:
        file.write(b"a" * PIECE)
    say(mount, "vmo_create_child", f"slice aux/a{number} aux/slice{number} 0 {PAGE_SIZE}")
    (mount / "aux" / f"a{number}").unlink()


def slice_of_vmo(mount: Path, number: int) -> None:
    supplied(mount, f"v{number}")
    say(mount, "vmo_create_child", f"slice vmo/v{number} vmo/slice{number} 0 {PAGE_SIZE}")
    (mount / "vmo" / f"v{number}").unlink()


def child_of_an_orphan(mount: Path, number: int) -> None:
    """A child that has no page of its own keeps its parent, which has no name any more."""
    supplied(mount, f"v{number}")
    say(mount, "vmo_create_child", f"snapshot_at_least_on_write vmo/v{number} vmo/child{number} 0 {PAGE_SIZE}")
    (mount / "vmo" / f"v{number}").unlink()


def commit_of_a_snapshot(mount: Path, number: int) -> None:
    """What a snapshot shares gets memory of its own."""
    if number == 0:
        stage(mount, "base")
    say(mount, "vmo_create_child", f"snapshot aux/base aux/s{number} 0 {PIECE}")
    say(mount, "vmo_op_range", f"commit aux/s{number} 0 {PIECE}")


def supply_of_a_snapshot(mount: Path, number: int) -> None:
    """What is taken from a snapshot is copied."""
    if number == 0:
        stage(mount, "base")
    say(mount, "vmo_create_child", f"snapshot aux/base aux/s{number} 0 {PIECE}")
    say(mount, "p/create_vmo", f"vmo/v{number} {PIECE}")
    say(mount, "p/supply_pages", f"vmo/v{number} 0 {PIECE} aux/s{number} 0")


def writes_into_clones(mount: Path, number: int) -> None:
    """A clone forks what is written to."""
    if number == 0:
        supplied(mount, "base")
    say(mount, "vmo_create_child", f"snapshot_at_least_on_write vmo/base vmo/c{number} 0 {PIECE}")
    with (mount / "vmo" / f"c{number}").open("r+b", buffering=0) as file:
        file.write(b"w" * PIECE)


def straight_into_supply(mount: Path, number: int) -> None:
    say(mount, "p/create_vmo", f"vmo/v{number} {PIECE}")
    with (mount / "control/p/supply/vmo" / f"v{number}").open("wb", buffering=0) as file:
        file.write(b"w" * PIECE)


WAYS = (
    slice_of_aux,
    slice_of_vmo,
    child_of_an_orphan,
    commit_of_a_snapshot,
    supply_of_a_snapshot,
    writes_into_clones,
    straight_into_supply,
)


def refused_after(way: Callable[[Path, int], None], mount: Path) -> int:
    """Do something again and again; return how often it worked."""
    for number in range(ROUNDS):
        try:
            way(mount, number)
        except OSError:
            return number
    return ROUNDS


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_way_leads_past_the_limit_of_memory(mounted: Mounted, user: Actor, way: Callable[[Path, int], None]) -> None:
    before = held(mounted)
    worked = user(refused_after, way, mounted.path)
    assert held(mounted) - before <= LIMIT
    assert 0 < mounted.user_counter("memory_bytes", USER.uid) <= LIMIT
    assert LIMIT // PIECE // 3 <= worked < ROUNDS
