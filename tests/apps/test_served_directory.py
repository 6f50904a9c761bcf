"""``vmofs serve DIRECTORY MOUNT/vmo/NAME``: trees with all that is in them go through whole, in both directions."""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.apps.serving import run
from tests.support.backed import ENDING, Backing
from tests.support.mounted import END_SECONDS, vmofs_command, vmofs_environment, wait_for

NIGHTLY = os.environ.get("VMOFS_NIGHTLY") == "1"
KILLS = 50 if NIGHTLY else 5
IS_ROOT = os.geteuid() == 0
SECOND = 1_500_000_000
AN_OWNER = 12345


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    """Return what a tree is: kinds, modes, owners, times of change to the second, attributes, contents."""
    return {
        str(path.relative_to(top)): (
            stat.filemode(status.st_mode),
            status.st_uid,
            status.st_gid,
            int(status.st_mtime),
            {
                name: os.getxattr(path, name, follow_symlinks=False)
                for name in os.listxattr(path, follow_symlinks=False)
            },
            path.read_bytes() if stat.S_ISREG(status.st_mode) else b"",
            str(path.readlink()) if path.is_symlink() else "",
            status.st_nlink if not path.is_dir() else 0,
        )
        for path in sorted(top.rglob("*"))
        if (status := path.lstat())
    }


def make_tree(top: Path) -> None:
    """Make directories and files that differ in all that is to go through."""
    (top / "empty/inner").mkdir(parents=True)
    (top / "full").mkdir(mode=0o750)
    for number in range(3):
        path = top / "full" / f"file {number}"
        path.write_bytes(f"{number}".encode() * 5000 * number)
        path.chmod(0o600 + number * 0o22)
        os.setxattr(path, "user.number", b"%d" % number)
    (top / "full/script").write_bytes(b"#!/bin/sh\n")
    (top / "full/script").chmod(0o4755)
    if IS_ROOT:
        os.chown(top / "full/file 1", AN_OWNER, AN_OWNER)
        os.chown(top / "empty/inner", AN_OWNER, 0)
    os.setxattr(top / "empty", "user.kind", b"directory")
    for number, path in enumerate(sorted(top.rglob("*"), reverse=True)):
        os.utime(path, (SECOND, SECOND + number))


def test_what_was_there_is_shown_with_all_attributes(backed: Backing, tmp_path: Path) -> None:
    make_tree(tmp_path / "real")
    before = tree(tmp_path / "real")
    served = backed()
    assert tree(served.path) == before
    served.finish()
    assert tree(tmp_path / "real") == before


def test_what_is_made_is_in_the_directory_with_all_attributes(backed: Backing, tmp_path: Path) -> None:
    served = backed()
    make_tree(served.path)
    made = tree(served.path)
    served.finish()
    assert tree(tmp_path / "real") == made


def test_what_is_changed_and_removed_is_so_in_the_directory(backed: Backing, tmp_path: Path) -> None:
    real = tmp_path / "real"
    make_tree(real)
    served = backed()
    (served.path / "empty/inner").rmdir()
    (served.path / "full/file 0").unlink()
    (served.path / "full/file 1").chmod(0o604)
    os.removexattr(served.path / "full/file 1", "user.number")
    os.setxattr(served.path / "full/file 2", "user.number", b"another")
    (served.path / "full").rename(served.path / "moved")
    os.removexattr(served.path / "empty", "user.kind")
    os.utime(served.path / "moved", (SECOND, SECOND))
    changed = tree(served.path)
    served.finish()
    assert tree(real) == changed
    assert sorted(changed) == ["empty", "moved", "moved/file 1", "moved/file 2", "moved/script"]


def test_a_page_in_a_large_hole_costs_a_page(backed: Backing, tmp_path: Path) -> None:
    served = backed()
    with (served.path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(500_000_000)
        file.write(b"in the middle")
    served.finish()
    real = tmp_path / "real/sparse"
    assert real.stat().st_size == 1 << 30
    assert real.stat().st_blocks * 512 <= 64 * 1024
    with real.open("rb") as file:
        file.seek(500_000_000)
        assert file.read(14) == b"in the middle\0"


def test_zeros_over_data_get_to_the_file(backed: Backing, tmp_path: Path) -> None:
    (tmp_path / "real/file").write_bytes(b"x" * 1_000_000)
    served = backed()
    os.truncate(served.path / "file", 100_000)
    os.truncate(served.path / "file", 500_000)
    served.finish()
    assert (tmp_path / "real/file").read_bytes() == b"x" * 100_000 + bytes(400_000)


def test_many_files_are_stored_and_a_second_sigterm_does_not_abandon_them(backed: Backing, tmp_path: Path) -> None:
    served = backed()
    served.stop()
    for number in range(600):
        folder = served.path / str(number // 100)
        folder.mkdir(exist_ok=True)
        (folder / str(number)).write_bytes(b"%d" % number * 1000)
    made = tree(served.path)
    os.kill(served.pid, signal.SIGTERM)
    served.go_on()
    wait_for(lambda: ENDING in served.log(), "it has the first signal")
    os.kill(served.pid, signal.SIGTERM)
    served.finish()
    assert tree(tmp_path / "real") == made


@pytest.mark.skipif(not NIGHTLY, reason="compares times of 5,000 files: VMOFS_NIGHTLY=1")
@pytest.mark.alone
@pytest.mark.slow
def test_files_are_stored_nearly_as_fast_as_they_are_copied(backed: Backing, tmp_path: Path) -> None:
    served = backed()
    served.stop()
    for number in range(5000):
        folder = served.path / str(number // 100)
        folder.mkdir(exist_ok=True)
        (folder / str(number)).write_bytes(os.urandom(4096 + number))
    began = time.monotonic()
    run("cp", "-a", served.path, tmp_path / "copy")
    run("sync", "-f", tmp_path / "copy")
    copied = time.monotonic()
    os.kill(served.pid, signal.SIGTERM)
    served.finish()
    assert tree(tmp_path / "real") == tree(tmp_path / "copy")
    assert time.monotonic() - copied <= 2 * (copied - began)


@contextmanager
def small_filesystem(path: Path) -> Iterator[Path]:
    """Have a filesystem of 1 MiB at a path."""
    run("mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", path)
    try:
        yield path
    finally:
        run("umount", "-l", path)


@pytest.mark.skipif(not IS_ROOT, reason="mounts a small filesystem")
def test_a_full_disk_is_an_error_of_fsync_and_of_the_end_and_nothing_is_lost(backed: Backing, tmp_path: Path) -> None:
    real = tmp_path / "real"
    with small_filesystem(real):
        (real / "filler").write_bytes(bytes(600_000))
        served = backed()
        data = os.urandom(800_000)
        with (served.path / "large").open("wb") as file:
            file.write(data)
            file.flush()
            with pytest.raises(OSError, match="No space left") as caught:
                os.fsync(file.fileno())
            assert caught.value.errno == errno.ENOSPC
        served.end(signal.SIGTERM, code=1)
        assert "not written back" in served.log()
        assert "'large'" in served.log()
        assert (served.path / "large").read_bytes() == data
        (served.path / "filler").unlink()
        served.start()
        served.wait_ready()
        wait_for(lambda: not (real / "filler").exists(), "there is room again")
        served.end(signal.SIGTERM)
        assert (real / "large").read_bytes() == data


def test_what_cannot_be_shown_is_left_out_with_a_line_each_and_stays(backed: Backing, tmp_path: Path) -> None:
    real = tmp_path / "real"
    Path(os.fsdecode(bytes(real) + b"/\xff")).write_bytes(b"kept")
    (real / "d").mkdir()
    Path(os.fsdecode(bytes(real) + b"/d/\xff")).mkdir()
    (real / "good").write_bytes(b"good")
    served = backed()
    assert (served.path / "good").read_bytes() == b"good"
    served.end(signal.SIGTERM)
    complaints = served.complaints()
    assert len(complaints) == 2
    assert all(re.fullmatch(r"vmofs: .* is left out: .*", line) for line in complaints), complaints
    assert Path(os.fsdecode(bytes(real) + b"/\xff")).read_bytes() == b"kept"


def make_links(top: Path) -> None:
    """Make links of all kinds, and nodes."""
    (top / "sub").mkdir()
    (top / "file").write_bytes(b"short")
    (top / "hard").hardlink_to(top / "file")
    (top / "sub/third").hardlink_to(top / "file")
    (top / "link").symlink_to("file")
    (top / "folder").symlink_to("sub")
    (top / "broken").symlink_to("nowhere")
    (top / "loop").symlink_to("loop")
    os.mkfifo(top / "fifo", 0o620)
    os.mknod(top / "socket", stat.S_IFSOCK | 0o755)
    for path in sorted(top.rglob("*"), reverse=True):
        os.utime(path, (SECOND, SECOND), follow_symlinks=False)


def test_links_and_nodes_go_through_in_both_directions(backed: Backing, tmp_path: Path) -> None:
    make_links(tmp_path / "real")
    before = tree(tmp_path / "real")
    served = backed()
    assert tree(served.path) == before
    (served.path / "new").mkdir()
    make_links(served.path / "new")
    (served.path / "link").unlink()
    (served.path / "link").symlink_to("hard")
    (served.path / "hard").rename(served.path / "renamed")
    (served.path / "sub/third").unlink()
    made = tree(served.path)
    assert made["renamed"][-1] == made["file"][-1] == 2
    served.finish()
    assert tree(tmp_path / "real") == made
    assert (tmp_path / "real/renamed").samefile(tmp_path / "real/file")


def test_what_is_synced_by_one_name_is_not_cut_off_by_another(backed: Backing, tmp_path: Path) -> None:
    """Hard links and symbolic links to a file are one file."""
    real = tmp_path / "real"
    make_links(real)
    served = backed()
    with (served.path / "link").open("ab") as file:
        file.write(b"er" * 5000)
        file.flush()
        os.fsync(file.fileno())
        assert (real / "sub/third").read_bytes() == b"short" + b"er" * 5000
    served.finish()
    assert {(real / name).read_bytes() for name in ("file", "hard", "sub/third", "link")} == {b"short" + b"er" * 5000}


def test_a_file_that_is_unlinked_and_open_keeps_its_content(backed: Backing, tmp_path: Path) -> None:
    (tmp_path / "real/file").write_bytes(b"content" * 1000)
    served = backed()
    with (served.path / "file").open("rb") as file:
        (served.path / "file").unlink()
        wait_for(lambda: not (tmp_path / "real/file").exists(), "its name is gone")
        served.end(signal.SIGKILL)
        served.start()
        assert file.read() == b"content" * 1000
    served.finish()
    assert list((tmp_path / "real").iterdir()) == []


def test_read_only_nothing_can_be_changed(backed: Backing, tmp_path: Path) -> None:
    make_tree(tmp_path / "real")
    before = tree(tmp_path / "real")
    served = backed("--read-only")
    assert tree(served.path) == before
    with (served.path / "full/file 2").open("r+b", buffering=0) as file, pytest.raises(OSError, match=r"Input|read"):
        file.write(b"x")
    with pytest.raises(PermissionError):
        (served.path / "new").write_bytes(b"")
    with pytest.raises(PermissionError):
        os.truncate(served.path / "full/file 2", 0)
    served.finish()
    assert tree(tmp_path / "real") == before


def test_read_only_a_file_that_was_changed_is_an_error(backed: Backing, tmp_path: Path) -> None:
    (tmp_path / "real/file").write_bytes(b"old" * 5000)
    served = backed("--read-only")
    (tmp_path / "real/file").write_bytes(b"new" * 6000)
    with pytest.raises(OSError, match="Bad message") as caught:
        (served.path / "file").read_bytes()
    assert caught.value.errno == errno.EBADMSG
    served.end(signal.SIGTERM)


def test_a_directory_is_served_by_one_process_at_a_time(backed: Backing, tmp_path: Path) -> None:
    served = backed()
    again = vmofs_command("serve", str(tmp_path / "real"), str(served.mount.path / "vmo/other"))
    done = subprocess.run(again, env=vmofs_environment(), capture_output=True, check=False, timeout=END_SECONDS)
    assert done.returncode == 1
    assert b"it is being served by another process" in done.stderr
    assert b"Traceback" not in done.stderr
    served.finish()


def test_files_of_many_writers_are_whole(backed: Backing, tmp_path: Path) -> None:
    served = backed()

    def write(number: int) -> None:
        for turn in range(20):
            path = served.path / f"{number}.new"
            with path.open("wb") as file:
                file.write(b"%d %d " % (number, turn) * 2000)
                file.flush()
                os.fsync(file.fileno())
            path.rename(served.path / f"{number}")
            expected = b"%d %d " % (number, turn) * 2000
            assert (served.path / f"{number}").read_bytes() == expected

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(END_SECONDS)
        assert not thread.is_alive()
    made = tree(served.path)
    served.finish()
    assert tree(tmp_path / "real") == made


@pytest.mark.slow
def test_what_writers_have_synced_and_renamed_is_whole_though_the_server_is_killed(
    backed: Backing, tmp_path: Path
) -> None:
    served = backed()
    ended = threading.Event()
    confirmed: dict[str, bytes] = {}
    wrong: list[str] = []

    def write(number: int) -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            data = b"%d %d " % (number, turn) * 3000
            folder = served.path / str(turn % 3)
            folder.mkdir(exist_ok=True)
            new, name = folder / f"{number}.new", f"{turn % 3}/{number}"
            with new.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            confirmed[f"{name}.new"] = data
            new.rename(served.path / name)
            confirmed[name] = data
            if (served.path / name).read_bytes() != data:
                wrong.append(name)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(KILLS):
            time.sleep(0.3 + 0.1 * (number % 9))
            served.end(signal.SIGKILL)
            served.start()
    finally:
        ended.set()
        for thread in threads:
            thread.join(2 * END_SECONDS)
    assert not wrong
    assert len(confirmed) >= 6
    made = tree(served.path)
    served.finish()
    assert tree(tmp_path / "real") == made
    last = {name: data for name, data in confirmed.items() if not name.endswith(".new")}
    assert {name: (tmp_path / "real" / name).read_bytes() for name in last} == last


def test_a_file_without_a_name_can_be_synced(backed: Backing, tmp_path: Path) -> None:
    served = backed()
    with (served.path / "temporary").open("w+b") as file:
        file.write(b"x" * 10_000)
        (served.path / "temporary").unlink()
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        assert file.read() == b"x" * 10_000
    served.finish()
    assert list((tmp_path / "real").iterdir()) == []
