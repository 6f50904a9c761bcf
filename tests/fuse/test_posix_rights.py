"""chmod, chown, rename, unlink, mkdir, truncate, utimensat as root and as users: as pjdfstest asks, against a tmpfs.

Each scenario gets a directory that everybody may write to and a way to make a file there, and tells what it saw; it is
run below ``aux/`` and ``vmo/`` and in a directory of a tmpfs. What must differ is in SEMANTICS.md.
"""

# ruff: noqa: PTH101, PTH104, PTH106, PTH108, PTH110, PTH116, S103 - what is tested are the calls

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.identity import Actor, Actors, Who, reachable_mount

TEAM = 3000
ROOT = Who("root", 0, 0)
ONE = Who("one", 2001, 2001, (TEAM,))
TWO = Who("two", 2002, 2002)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others")

Story = list[object]
Make = Callable[[Who, str, int], str]


class Place:
    """A directory for a scenario, and who acts there."""

    def __init__(self, path: Path, actors: Actors, pager: Path | None = None) -> None:
        self.path = path
        self.actors = actors
        self._pager = pager

    def file(self, who: Who, name: str, mode: int = 0o644) -> str:
        """Make a file of somebody's."""
        path = str(self.path / name)
        if self._pager is None:
            self.actors(who)(_make, path)
        else:
            line = f"{path[path.index('vmo/') :]} 0 resizable\n"
            (self._pager / "create_vmo").write_text(line)
            os.truncate(path, 100)  # what it grows by is zeros: no pager is asked
            os.chown(path, who.uid, who.gid)
        os.chmod(path, mode)
        return path

    def status(self, path: str) -> tuple[str, int, int]:
        status = os.stat(path)
        return oct(stat.S_IMODE(status.st_mode)), status.st_uid, status.st_gid


def _make(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    os.truncate(path, 100)


def write_byte(path: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, b"x", 200)
    finally:
        os.close(fd)


def chmod_takes_set_group_id_from_strangers_to_the_group(place: Place) -> Story:
    story: Story = []
    for who in (ROOT, ONE):
        path = place.file(who, f"f{who.uid}")
        for group in (who.gid, TEAM, 4000):
            os.chown(path, who.uid, group)
            story += [place.actors(who).errno(os.chmod, path, 0o6755), place.status(path)]
    return story


def chown_follows_the_rules(place: Place) -> Story:
    story: Story = []
    path = place.file(ONE, "f", 0o6755)
    for who in (TWO, ONE, ROOT):
        for uid, gid in ((-1, -1), (ONE.uid, -1), (-1, ONE.gid), (-1, TEAM), (-1, TWO.gid), (TWO.uid, -1), (0, 0)):
            story += [place.actors(who).errno(os.chown, path, uid, gid), place.status(path)]
            os.chown(path, ONE.uid, ONE.gid)
            os.chmod(path, 0o6755)
    return story


def writing_and_cutting_take_set_user_id(place: Place) -> Story:
    story: Story = []
    path = place.file(ONE, "f")
    for who in (ONE, ROOT):
        for call in (write_byte, lambda_truncate):
            for mode in (0o4755, 0o2755, 0o2745):
                os.chmod(path, mode)
                story += [place.actors(who).errno(call, path), place.status(path)]
    return story


def lambda_truncate(path: str) -> None:
    os.truncate(path, 50)


def a_sticky_directory_lets_only_owners_remove(place: Place) -> Story:
    story: Story = []
    os.chmod(place.path, 0o1777)
    for who in (TWO, ONE, ROOT):
        path = place.file(ONE, "f")
        other = place.file(TWO, "g")
        story.append(place.actors(who).errno(os.rename, path, f"{path}2"))
        story.append(place.actors(who).errno(os.rename, other, path))
        for name in ("f", "f2", "g"):
            story.append(place.actors(who).errno(os.unlink, str(place.path / name)))
        for name in ("f", "f2", "g"):
            if (place.path / name).exists():
                os.unlink(place.path / name)
    return story


def directories_need_write_and_search(place: Place) -> Story:
    story: Story = []
    inner = str(place.path / "inner")
    place.actors(ONE)(os.mkdir, inner)
    for mode in (0o700, 0o711, 0o733, 0o722, 0o755, 0o777):
        os.chmod(inner, mode)
        for who in (ONE, TWO):
            actor = place.actors(who)
            story.append(
                (oct(mode), who.name, actor.errno(os.mkdir, f"{inner}/d"), actor.errno(os.rmdir, f"{inner}/d"))
            )
            story.append((actor.errno(os.listdir, inner), actor.errno(os.rename, inner, f"{inner}2")))
            if not os.path.exists(inner):
                os.rename(f"{inner}2", inner)
        if os.path.exists(f"{inner}/d"):
            os.rmdir(f"{inner}/d")
    return story


def set_group_id_directories_hand_their_group_on(place: Place) -> Story:
    os.chown(place.path, 0, TEAM)
    os.chmod(place.path, 0o2777)
    story: Story = []
    for who in (ONE, TWO, ROOT):
        place.actors(who)(os.mkdir, str(place.path / f"d{who.uid}"))
        story.append(place.status(str(place.path / f"d{who.uid}")))
    return story


def times_are_set_by_owners_and_touched_by_writers(place: Place) -> Story:
    story: Story = []
    for mode in (0o644, 0o666, 0o444):
        path = place.file(ONE, f"f{mode:o}", mode)
        for who in (ONE, TWO, ROOT):
            actor = place.actors(who)
            story.append([actor.errno(os.utime, path), actor.errno(os.utime, path, (1, 2))])
        story.append(os.stat(path).st_mtime)
    return story


def truncating_needs_write_permission(place: Place) -> Story:
    story: Story = []
    for mode in (0o644, 0o646, 0o444, 0o000):
        path = place.file(ONE, f"f{mode:o}", mode)
        for who in (TWO, ONE, ROOT):
            story += [place.actors(who).errno(os.truncate, path, size) for size in (10, 0, 70)]
        story.append(os.stat(path).st_size)
    return story


SCENARIOS = (
    chmod_takes_set_group_id_from_strangers_to_the_group,
    chown_follows_the_rules,
    writing_and_cutting_take_set_user_id,
    a_sticky_directory_lets_only_owners_remove,
    directories_need_write_and_search,
    set_group_id_directories_hand_their_group_on,
    times_are_set_by_owners_and_touched_by_writers,
    truncating_needs_write_permission,
)


@pytest.fixture(scope="module")
def tops() -> Iterator[tuple[Path, Path, Actors]]:
    """The mount and a tmpfs."""
    tmpfs = Path(tempfile.mkdtemp(prefix="vmofs-posix-"))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmpfs)], check=True)
    tmpfs.chmod(0o755)
    actors = Actors()
    try:
        with reachable_mount() as mounted:
            (mounted.path / "control" / "p").mkdir()
            try:
                yield mounted.path, tmpfs, actors
            finally:
                actors.close()
    finally:
        subprocess.run(["umount", "-l", str(tmpfs)], check=False)
        tmpfs.rmdir()


@pytest.mark.parametrize("top", ["aux", "vmo"])
@pytest.mark.parametrize("run", SCENARIOS, ids=lambda run: run.__name__)
def test_rights_are_those_of_a_tmpfs(tops: tuple[Path, Path, Actors], top: str, run: Callable[[Place], Story]) -> None:
    mount, tmpfs, actors = tops
    stories = []
    for place in (mount / top / run.__name__, tmpfs / f"{top}_{run.__name__}"):
        place.mkdir()
        place.chmod(0o777)
        if top == "vmo" and mount in place.parents:
            stories.append(run(Place(place, actors, mount / "control" / "p")))
        else:
            stories.append(run(Place(place, actors)))
    assert stories[0] == stories[1]


def test_an_actor_is_who_it_says() -> None:
    actor = Actor(ONE)
    assert (actor(os.getuid), actor(os.getgid), actor(os.getgroups)) == (ONE.uid, ONE.gid, list(ONE.groups))
    actor.close()
