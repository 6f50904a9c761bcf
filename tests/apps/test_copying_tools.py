"""Programs that copy files copy the right ones out of a mount and into it, with all that belongs to them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.serving import run
from tests.support.mounted import Mounted
from tests.support.pager_client import PagerClient
from vmofs.units import PAGE_SIZE

COPIERS = {
    "cp -a": 'cp -a "$1/." "$2"',
    "rsync -aX": 'rsync -aX "$1/" "$2"',
    "bsdtar": 'bsdtar -C "$1" -cf - . | bsdtar -C "$2" -xpf -',
    "tar --xattrs": 'tar -C "$1" --xattrs -cf - . | tar -C "$2" --xattrs -xpf -',
}


@pytest.fixture
def pager(mount: Mounted) -> Iterator[PagerClient]:
    """A pager in the module's mount."""
    client = PagerClient(mount.path)
    yield client
    client.close()


def made_tree(top: Path) -> None:
    """Make a tree whose files have modes, times, owners and attributes of their own."""
    (top / "sub" / "empty").mkdir(parents=True)
    for number, path in enumerate((top / "a", top / "sub" / "b")):
        path.write_bytes(bytes([65 + number]) * (PAGE_SIZE + number))
        os.setxattr(path, "user.mine", b"\0value\n")
        path.chmod(0o640 + number)
    os.setxattr(top / "sub", "user.directory", b"1")
    for path in (top / "a", top / "sub" / "b", top / "sub" / "empty", top / "sub"):
        if os.geteuid() == 0:
            os.chown(path, 1234, 1235)
        os.utime(path, (10**9, 10**9))


def described(top: Path) -> dict[str, object]:
    """Return what should be the same in a copy: content, mode, owner, time to the second, and attributes."""
    return {
        str(path.relative_to(top)): (
            path.read_bytes() if path.is_file() else None,
            (status := path.stat()).st_mode,
            (status.st_uid, status.st_gid),
            int(status.st_mtime),
            {name: os.getxattr(path, name) for name in os.listxattr(path)},
        )
        for path in top.rglob("*")
    }


def copy(copier: str, source: Path, target: Path) -> subprocess.CompletedProcess[bytes]:
    """Have a tool copy the content of a directory into another one."""
    target.mkdir()
    return run("bash", "-euo", "pipefail", "-c", COPIERS[copier], "bash", source, target)


@pytest.mark.parametrize("copier", COPIERS)
def test_a_tree_is_copied_out_of_a_mount_with_nothing_that_was_computed(
    pager: PagerClient, tmp_path: Path, copier: str
) -> None:
    vmo = pager.create("file", size=2 * PAGE_SIZE)
    pager.supply(vmo, 0, 2 * PAGE_SIZE)
    os.setxattr(vmo.path, "user.mine", b"kept")
    os.utime(vmo.path.parent)  # the kernel may not have seen for a second that a command made a name: tar notices
    made_tree(pager.aux("tree").path)
    for number, source in enumerate((vmo.path.parent, pager.aux("tree").path)):
        target = tmp_path / str(number)
        done = copy(copier, source, target)
        assert (done.stdout, done.stderr) == (b"", b"")
        assert described(target) == described(source)
    assert os.listxattr(tmp_path / "0" / "file") == ["user.mine"]


@pytest.mark.parametrize("copier", COPIERS)
def test_a_tree_is_copied_into_a_mount_and_back(pager: PagerClient, tmp_path: Path, copier: str) -> None:
    source, inside, back = tmp_path / "source", pager.aux("tree").path, tmp_path / "back"
    made_tree(source)
    for start, end in ((source, inside), (inside, back)):
        done = copy(copier, start, end)
        assert (done.stdout, done.stderr) == (b"", b"")
    assert described(inside) == described(source) == described(back)
    shutil.rmtree(inside)
