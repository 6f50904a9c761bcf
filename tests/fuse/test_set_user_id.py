"""Set-user-ID and set-group-ID go with a write as they do on a tmpfs, by whatever name of the memory it is made."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.test_mapped_stores import child_of
from tests.support.identity import reachable_mount
from tests.support.pager_client import PagerClient, Vmo
from vmofs.units import PAGE_SIZE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others")

P = PAGE_SIZE

WRITERS = {
    "root": [],
    "root without the capability": ["--bounding-set=-fsetid", "--inh-caps=-fsetid"],
    "a user": ["--reuid=2001", "--regid=2001", "--clear-groups"],
    "a user with the capability": [
        *("--reuid=2001", "--regid=2001", "--clear-groups", "--inh-caps=+fsetid", "--ambient-caps=+fsetid")
    ],
}

WAYS = {
    "write": "fd = os.open(path, os.O_RDWR); os.pwrite(fd, b'w' * 100, 10)",
    "write only": "fd = os.open(path, os.O_WRONLY); os.pwrite(fd, b'w' * 100, 10)",
    "direct": "fd = os.open(path, os.O_RDWR | os.O_DIRECT); os.pwritev(fd, [mmap.mmap(-1, 4096)], 0)",
    "nothing": "fd = os.open(path, os.O_RDWR); os.pwrite(fd, b'', 10)",
    "truncate": "os.truncate(path, 5000)",
    "ftruncate": "fd = os.open(path, os.O_RDWR); os.ftruncate(fd, 3000)",
    "open to truncate": "os.open(path, os.O_RDWR | os.O_TRUNC)",
    "mapped store": "fd = os.open(path, os.O_RDWR); m = mmap.mmap(fd, 4096); m[:5] = b'store'; m.flush(); m.close()",
    "no change": "os.open(path, os.O_RDWR)",
}

MODES = (0o4777, 0o2777, 0o6777)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A mount that everybody reaches."""
    with reachable_mount() as mount:
        yield mount.path


@pytest.fixture
def pager(place: Path) -> Iterator[PagerClient]:
    client = PagerClient(place)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def twin() -> Iterator[Path]:
    """A file on a tmpfs."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        Path(directory).chmod(0o755)
        path = Path(directory) / "twin"
        path.write_bytes(bytes(2 * P))
        yield path


def do(who: str, way: str, path: Path) -> None:
    script = f"import mmap, os; path = {os.fspath(path)!r}; {WAYS[way]}"
    subprocess.run(["setpriv", *WRITERS[who], sys.executable, "-I", "-S", "-c", script], check=True)


def bits_after(who: str, way: str, path: Path) -> list[str]:
    found = []
    for mode in MODES:
        path.chmod(mode)
        do(who, way, path)
        found.append(f"{mode:o}: {stat.S_IMODE(path.stat().st_mode):o}")
        os.truncate(path, 2 * P)
    return found


def made(pager: PagerClient, kind: str) -> Vmo:
    if kind == "aux":
        return pager.stage(bytes(2 * P), "a")
    vmo = pager.create(size=2 * P, options="resizable")
    pager.supply_bytes(vmo, bytes(2 * P))
    return vmo


@pytest.mark.parametrize("who", list(WRITERS))
@pytest.mark.parametrize("way", list(WAYS))
def test_the_bits_go_as_on_a_tmpfs(pager: PagerClient, twin: Path, who: str, way: str) -> None:
    expected = bits_after(who, way, twin)
    assert {kind: bits_after(who, way, made(pager, kind).path) for kind in ("aux", "vmo")} == {
        "aux": expected,
        "vmo": expected,
    }


@pytest.mark.parametrize("way", ["write", "write only", "truncate"])
@pytest.mark.parametrize("kind", ["aux", "vmo"])
@pytest.mark.parametrize("written_by", ["parent", "reference"])
def test_the_bits_go_from_all_names_of_the_memory(pager: PagerClient, kind: str, written_by: str, way: str) -> None:
    parent = made(pager, kind)
    child = child_of(pager, parent, "reference")
    written = parent if written_by == "parent" else child
    for who in WRITERS:
        for file in (parent, child):
            file.path.chmod(0o4777)
        do(who, way, written.path)
        found = [f"{stat.S_IMODE(file.path.stat().st_mode):o}" for file in (parent, child)]
        assert found == (["4777"] * 2 if who in {"root", "a user with the capability"} else ["777"] * 2), who


@pytest.mark.parametrize("kind", ["slice", "snapshot_at_least_on_write"])
def test_the_bits_go_from_what_shows_a_part_of_what_was_written(pager: PagerClient, kind: str) -> None:
    parent = pager.create(size=2 * P)
    pager.supply_bytes(parent, bytes(2 * P))
    child = child_of(pager, parent, kind, size=2 * P)
    for path in (parent.path, child.path):
        path.chmod(0o4777)
    do("root", "write", parent.path)
    assert stat.S_IMODE(child.path.stat().st_mode) == 0o4777
    do("a user", "write", parent.path)
    assert stat.S_IMODE(child.path.stat().st_mode) == 0o777


@pytest.mark.parametrize("by", ["parent", "child"])
def test_a_command_takes_the_bits_from_all_names_too(pager: PagerClient, by: str) -> None:
    parent = made(pager, "vmo")
    child = child_of(pager, parent, "reference")
    for who, identity in WRITERS.items():
        for path in (parent.path, child.path):
            path.chmod(0o4777)
        line = f"zero {(parent if by == 'parent' else child).name} 0 10"
        script = f"open({os.fspath(pager.mount / 'control/vmo_op_range')!r}, 'w').write({line!r})"
        subprocess.run(["setpriv", *identity, sys.executable, "-I", "-S", "-c", script], check=True)
        keeps = who in {"root", "a user with the capability"}
        for path in (parent.path, child.path):
            assert stat.S_IMODE(path.stat().st_mode) == (0o4777 if keeps else 0o777), (who, path)
