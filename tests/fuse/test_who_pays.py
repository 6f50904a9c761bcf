"""Who makes the mount's memory grow pays for it, in whatever way he does it, and never has more than he may."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import mounted as mounted_module
from tests.support.identity import Actor, Who, reachable_mount
from tests.support.mounted import Mounted, vmofs_command
from tests.support.rights import command
from tests.support.two_users import owner_of_pager
from vmofs.units import PAGE_SIZE
from vmofs_mount.files.command_file import CommandHandle

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
    with owner_of_pager(mounted, USER, "p") as actor:
        yield actor


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


def set_attributes(path: str, size: int) -> int:
    """Set attributes until one is refused; return how many there are."""
    for number in range(100):
        try:
            os.setxattr(path, f"user.a{number}", bytes(size))
        except OSError:
            return number
    return 100


def remove_attributes(path: str) -> None:
    for name in os.listxattr(path):
        os.removexattr(path, name)


def test_who_puts_attributes_on_a_file_of_another_pays_for_them(mounted: Mounted, user: Actor) -> None:
    """Anybody may write to the command files of the mount, which are root's."""
    command_file = str(mounted.path / "control/vmo_op_range")
    before = mounted.user_counter("xattr_bytes", 0)
    assert user(set_attributes, command_file, 1000) == 3  # of 4000 bytes
    assert mounted.user_counter("xattr_bytes", 0) == before
    assert 3000 < mounted.user_counter("xattr_bytes", USER.uid) <= 4000
    remove_attributes(command_file)
    assert mounted.user_counter("xattr_bytes", USER.uid) == 0


def test_names_in_supply_count_for_the_owner_of_the_pager(mounted: Mounted, user: Actor) -> None:
    """They are made when they are looked up, and stay while the kernel knows them."""
    directories = [mounted.path / "vmo" / f"d{number}" for number in range(400)]
    for directory in directories:
        directory.mkdir()
    before = mounted.user_counter("nodes", USER.uid)
    look = mounted.path / "control/p/supply/vmo"
    outcomes = {user.errno(os.listdir, look / directory.name) for directory in directories}
    assert outcomes == {"ok"}
    assert mounted.user_counter("nodes", USER.uid) >= before + 400
    more = [mounted.path / "vmo" / f"e{number}" for number in range(200)]
    for directory in more:
        directory.mkdir()
    assert "ENOSPC" in {user.errno(os.listdir, look / directory.name) for directory in more}
    assert mounted.user_counter("nodes", USER.uid) <= 500


def zero_every_other_page(mount: Path, count: int) -> str:
    """Make a VMO of many ranges; return the last result."""
    say(mount, "p/create_vmo", f"vmo/v {2 * count * PAGE_SIZE}")
    data = b"".join(b"zero vmo/v %d %d\n" % (2 * page * PAGE_SIZE, PAGE_SIZE) for page in range(count))
    fd = os.open(mount / "control/vmo_op_range", os.O_RDWR)
    try:
        with suppress(OSError):
            while data:  # a write that takes long is a short one
                data = data[os.write(fd, data) :]
        return os.read(fd, 1000).decode()
    finally:
        os.close(fd)


def test_ranges_are_limited(mounted: Mounted, user: Actor) -> None:
    answer = user(zero_every_other_page, mounted.path, 4000)
    assert mounted.user_counter("ranges", USER.uid) <= 3000
    assert answer == "ZX_ERR_NO_MEMORY: the files of uid 2001 may consist of no more than 3000 ranges\n"


def user_lines(mount: Path) -> list[str]:
    text = (mount / "control/stats").read_text()
    return [line for line in text.splitlines() if "{uid=" in line and "TYPE" not in line]


def test_statistics_tell_everybody_what_he_has_and_root_what_all_have(mounted: Mounted, user: Actor) -> None:
    user(stage, mounted.path, "mine")
    other = Actor(OTHER)
    try:
        other(stage, mounted.path, "theirs")
        lines = user(user_lines, mounted.path)
        assert f'vmofs_user_memory_bytes{{uid="2001"}} {PIECE}' in lines
        assert not [line for line in lines if 'uid="2001"' not in line]
        assert f'vmofs_user_memory_bytes{{uid="2002"}} {PIECE}' in user_lines(mounted.path)
    finally:
        other.close()


def open_many(path: str, count: int) -> int:
    """Open a file many times; return how often one could."""
    opened: list[int] = []
    with suppress(OSError):
        while len(opened) < count:
            opened += [os.open(path, os.O_RDONLY)]
    for fd in opened:
        os.close(fd)
    return len(opened)


def make_fifos(control: str, count: int) -> int:
    """Make pagers, each with the FIFO that it comes with, and read these; return how many there could be."""
    for number in range(count):
        try:
            os.mkdir(f"{control}/p{number}")  # noqa: PTH102
        except OSError:
            return number
        os.open(f"{control}/p{number}/requests", os.O_RDONLY | os.O_NONBLOCK)
    return count


def with_few_descriptors(*arguments: str | Path) -> list[str]:
    """Return the command line of a program that may have 1,024 descriptors, as in many shells."""
    return ["sh", "-c", 'ulimit -n 1024; exec "$@"', "sh", *vmofs_command(*arguments)]


def test_one_user_does_not_take_all_descriptors_of_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """All others got EMFILE."""
    monkeypatch.setattr(mounted_module, "vmofs_command", with_few_descriptors)
    user, other = Actor(USER), Actor(OTHER)
    try:
        with reachable_mount("user_queue_bytes=100000") as mounted:
            control = str(mounted.path / "control")
            assert user(make_fifos, control, 256) == 1024 // 4 // 2
            assert user(open_many, f"{control}/vmo_op_range", 500) == 100_000 // CommandHandle.BYTES
            other(os.mkdir, f"{control}/theirs")
            assert other(command, f"{control}/theirs/create_vmo", "vmo/theirs 4096") == "ZX_OK"
            assert len(list(Path(f"/proc/{mounted.pid}/fd").iterdir())) < 1024 // 2
            for pager in (mounted.path / "control").iterdir():
                if pager.is_dir():
                    pager.rmdir()
            user.close()
    finally:
        other.close()


def test_what_supply_shows_keeps_no_attributes(mounted: Mounted, user: Actor) -> None:
    """They would be counted for ever: what stands for a directory there goes without a word when it is forgotten."""
    user(os.mkdir, mounted.path / "vmo" / "d")
    assert user.errno(os.setxattr, mounted.path / "control/p/supply/d", "user.x", b"1") == "EPERM"
    user(os.setxattr, mounted.path / "vmo/d", "user.x", b"1")
    once = mounted.user_counter("xattr_bytes", USER.uid)
    user(os.stat, mounted.path / "control/p/supply/d")
    assert mounted.user_counter("xattr_bytes", USER.uid) == once > 0
