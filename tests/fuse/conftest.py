"""A mounted vmofs for each test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.identity import Actor
from tests.support.mounted import Commands, Mounted, Mounter, wait_for
from tests.support.pager_client import PagerClient, Readers
from tests.support.rights import STRANGER, World, made_world
from tests.support.two_users import HOSTILE, OTHER, acting
from vmofs_mount.linux.mountinfo import mount_at

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    can_mount = os.access("/dev/fuse", os.R_OK | os.W_OK)
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.fuse)
            if not can_mount:
                item.add_marker(pytest.mark.skip(reason="/dev/fuse cannot be used here"))


@pytest.fixture
def mount(mounter: Mounter) -> Mounted:
    """A vmofs, mounted with the default options."""
    return mounter()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that is no mount point any more after the test."""
    path = tmp_path / "place"
    path.mkdir()
    yield path

    def is_free() -> bool:
        if mount_at(str(path)) is not None:  # its daemon may be about to unmount it
            subprocess.run(["fusermount3", "-u", "-z", str(path)], check=False)
        return mount_at(str(path)) is None

    wait_for(is_free, f"nothing is mounted at {path}")


@pytest.fixture(scope="module")
def shared_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """One mount for all tests of a module, where each has a pager of its own."""
    mounter = Mounter(tmp_path_factory.mktemp("shared"))
    try:
        yield mounter()
        mounter.finish()
    finally:
        mounter.clean_up()


@pytest.fixture
def pager(shared_mount: Mounted) -> Iterator[PagerClient]:
    """A pager in the module's mount, closed after the test, so that nobody goes on waiting for it."""
    client = PagerClient(shared_mount.path)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def readers() -> Iterator[Readers]:
    """A starter of reader processes, which are killed after the test."""
    readers = Readers()
    yield readers
    readers.close()


@pytest.fixture
def start(pager: PagerClient, readers: Readers) -> Readers:
    """A starter of reader processes, which are killed before the pager of the module's mount is closed."""
    del pager
    return readers


@pytest.fixture
def run() -> Iterator[Commands]:
    """A starter of commands that may hang; they are killed after the test."""
    commands = Commands()
    yield commands
    commands.close()


@pytest.fixture
def hostile() -> Iterator[Actor]:
    """A user who means harm."""
    with acting(HOSTILE) as actor:
        yield actor


@pytest.fixture
def other() -> Iterator[Actor]:
    """A user who must not feel it."""
    with acting(OTHER) as actor:
        yield actor


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A mount with files of several users, and its twin."""
    if os.geteuid() != 0:
        pytest.skip("only root can be others")
    with made_world() as world:
        yield world


@pytest.fixture
def strange(world: World) -> Iterator[str]:
    """The directory of a pager of the stranger's; what he has left in ``vmo/common`` goes with it."""
    pager = f"{world.mount}/control/strange"
    world.actors(STRANGER)(os.mkdir, pager)
    yield pager
    (world.mount / "control/strange").rmdir()
    for left in (world.mount / "vmo/common").iterdir():
        if left.stat().st_uid == STRANGER.uid:
            left.unlink()
