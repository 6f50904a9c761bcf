"""Programs that copy files copy the right ones out of a mount and into it, with all that belongs to them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.conftest import Serve
from tests.apps.serving import run
from tests.support.mounted import Mounted
from tests.support.pager_client import PagerClient
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE
from vmofs_mount.tree.inodes import BLOCKS_PER_PAGE

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


PAGES = 64
SPARSE_COPIERS = {
    "tar -S": 'tar -C "$(dirname "$1")" -cSf - "$(basename "$1")" | tar -xOf - >"$2"',
    "tar -S, seek": 'tar -C "$(dirname "$1")" --hole-detection=seek -cSf - "$(basename "$1")" | tar -xOf - >"$2"',
    "tar -S, raw": 'tar -C "$(dirname "$1")" --hole-detection=raw -cSf - "$(basename "$1")" | tar -xOf - >"$2"',
    "bsdtar": 'bsdtar -C "$(dirname "$1")" --read-sparse -cf - "$(basename "$1")" | bsdtar -xOf - >"$2"',
    "cp --sparse=always": 'cp --sparse=always "$1" "$2"',
    "cp --sparse=auto": 'cp --sparse=auto "$1" "$2"',
    "rsync -S": 'rsync -S "$1" "$2"',
    "dd conv=sparse": 'dd if="$1" of="$2" bs=4k conv=sparse status=none',
    "qemu-img": 'qemu-img convert -f raw -O raw "$1" "$2"',
}


@pytest.fixture
def half_of_zeros(tmp_path: Path) -> Path:
    """A file of which every second group of four pages is zeros, so that there is something to leave out."""
    path = tmp_path / "source"
    path.write_bytes((os.urandom(4 * PAGE_SIZE) + bytes(4 * PAGE_SIZE)) * (PAGES // 8))
    return path


def copied(copier: str, path: Path, target: Path) -> bytes:
    """Return what a tool that looks for holes makes of a file."""
    run("bash", "-euo", "pipefail", "-c", SPARSE_COPIERS[copier], "bash", path, target)
    return target.read_bytes()


@pytest.mark.parametrize("supplied", ["untouched", "half", "full"])
@pytest.mark.parametrize("copier", SPARSE_COPIERS)
def test_who_looks_for_holes_copies_what_is_absent(
    serve: Serve, half_of_zeros: Path, tmp_path: Path, copier: str, supplied: str
) -> None:
    if copier == "qemu-img" and shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed")
    served = serve(half_of_zeros)
    size = {"untouched": 0, "half": PAGES // 2, "full": PAGES}[supplied] * PAGE_SIZE
    with served.path.open("rb") as file:
        assert file.read(size) == half_of_zeros.read_bytes()[:size]
    assert copied(copier, served.path, tmp_path / "copy") == half_of_zeros.read_bytes()


@pytest.mark.parametrize("kind", ["snapshot_at_least_on_write", "slice"])
@pytest.mark.parametrize("copier", ["tar -S", "bsdtar", "cp --sparse=auto"])
def test_children_that_have_no_page_of_their_own_are_copied_too(
    pager: PagerClient, tmp_path: Path, copier: str, kind: str
) -> None:
    vmo, child = pager.create(size=PAGES * PAGE_SIZE), pager.vmo("child")
    pager.supply(vmo, 0, PAGES * PAGE_SIZE)
    with (pager.mount / "control/vmo_create_child").open("w") as commands:
        commands.write(f"{kind} {vmo.name} {child.name} 0 {PAGES * PAGE_SIZE}\n")
    assert copied(copier, child.path, tmp_path / "copy") == pattern.make(0, 0, PAGES * PAGE_SIZE)


def test_who_looks_for_holes_in_what_has_no_pager_gets_an_error(pager: PagerClient, tmp_path: Path) -> None:
    vmo = pager.create(size=PAGES * PAGE_SIZE)
    pager.command("detach_vmo", vmo.name)
    for copier in ("tar -S", "bsdtar", "cp --sparse=auto"):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", SPARSE_COPIERS[copier], "bash", vmo.path, tmp_path / "copy"],
            capture_output=True,
            check=False,
        )
        assert done.returncode != 0, copier


def test_aux_files_with_holes_keep_them(pager: PagerClient, tmp_path: Path) -> None:
    source = pager.aux("holes").path
    with source.open("wb", buffering=0) as file:
        os.truncate(file.fileno(), PAGES * PAGE_SIZE)
        os.pwrite(file.fileno(), b"x" * PAGE_SIZE, 8 * PAGE_SIZE)
    for copier in SPARSE_COPIERS:
        if copier != "qemu-img":
            assert copied(copier, source, tmp_path / "copy") == source.read_bytes()
    assert source.stat().st_blocks == BLOCKS_PER_PAGE
