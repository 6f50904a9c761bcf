"""Ordinary programs write files that ``vmofs serve`` shows; all of it gets to the real files.

The server may be killed at any moment: nothing that fsync or msync confirmed is lost, and who writes notices nothing.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.apps.serving import EXAMPLES, PAGE, run
from tests.support.backed import Backing
from tests.support.mounted import END_SECONDS, Mounted, wait_for

NIGHTLY = os.environ.get("VMOFS_NIGHTLY") == "1"
KILLS = 50 if NIGHTLY else 5


SQL = """
CREATE TABLE words (number INTEGER PRIMARY KEY, word TEXT);
WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 3000)
    INSERT INTO words SELECT i, hex(i * 7919) || 'x' FROM numbers;
BEGIN; UPDATE words SET word = word || number WHERE number % 3 = 0; COMMIT;
BEGIN; DELETE FROM words; ROLLBACK;
DELETE FROM words WHERE number % 100 = 0;
CREATE INDEX by_word ON words (word);
VACUUM;
INSERT INTO words VALUES (100000, 'last');
"""


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="there is no sqlite3")
@pytest.mark.parametrize("pragmas", ["journal_mode=delete", "journal_mode=wal; PRAGMA mmap_size=100000000"])
def test_a_database_written_through_the_mount_is_whole_in_the_real_file(
    backed: Backing, tmp_path: Path, pragmas: str
) -> None:
    served = backed()
    for place in (served.path / "w.db", tmp_path / "reference.db"):
        output = run("sqlite3", place, f"PRAGMA {pragmas}; {SQL} PRAGMA integrity_check;").stdout
        assert output.endswith(b"ok\n")
    served.finish()
    with (
        closing(sqlite3.connect(served.directory / "w.db")) as real,
        closing(sqlite3.connect(tmp_path / "reference.db")) as expected,
    ):
        assert list(real.iterdump()) == list(expected.iterdump())
        assert real.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.skipif(not shutil.which("git"), reason="there is no git")
def test_a_clone_made_in_the_mount_is_whole_in_the_real_directory(backed: Backing, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    config = ("user.name=x", "user.email=x@example.org", "maintenance.auto=false", "gc.auto=0")  # nothing in background
    git = ["git", *(part for setting in config for part in ("-c", setting))]
    run(*git, "init", "-q", origin)
    for number in range(40):
        (origin / f"file {number}").write_bytes(random.Random(number).randbytes(number * 500))  # noqa: S311 - no secret
        if number % 10 == 9:
            run(*git, "-C", origin, "add", ".")
            run(*git, "-C", origin, "commit", "-qm", f"up to {number}")
    served = backed()
    clone = served.path / "repo"
    run(*git, "clone", "-q", "--no-hardlinks", origin, clone)
    run(*git, "-C", clone, "fsck", "--strict")
    run(*git, "-C", clone, "commit", "-q", "--allow-empty", "-m", "in the mount")
    run(*git, "-C", clone, "gc", "-q")
    head = run(*git, "-C", clone, "rev-parse", "HEAD").stdout
    served.finish()
    real = served.directory / "repo"
    run(*git, "-C", real, "fsck", "--strict")
    assert run(*git, "-C", real, "rev-parse", "HEAD").stdout == head
    assert run(*git, "-C", real, "status", "--porcelain").stdout == b""
    for path in origin.glob("file *"):
        assert (real / path.name).read_bytes() == path.read_bytes()


@pytest.mark.skipif(not shutil.which("fio"), reason="there is no fio: tools/setup --dev installs it")
@pytest.mark.parametrize("engine", ["psync", "mmap"])
def test_fio_finds_what_it_wrote(backed: Backing, tmp_path: Path, engine: str) -> None:
    served = backed()
    job = ["--name=job", "--size=1M", "--rw=randwrite", "--bs=4k", "--verify=crc32c", "--verify_fatal=1", "--thread"]
    common = [*job, f"--ioengine={engine}", "--fsync=64", f"--output={tmp_path}/fio.out", "--verify_state_save=0"]
    run("fio", *common, f"--filename={served.path}/data", "--do_verify=1")
    written = (served.path / "data").read_bytes()
    served.finish()
    assert (served.directory / "data").read_bytes() == written
    run("fio", *common, f"--filename={served.directory}/data", "--verify_only=1")


def test_everything_done_to_files_is_done_to_the_real_ones(backed: Backing, tmp_path: Path) -> None:
    real = tmp_path / "real"
    for name in ("changed", "shorter", "longer", "renamed", "removed"):
        (real / name).write_bytes(name.encode() * 2000)
    served = backed()
    with (served.path / "changed").open("r+b") as file:
        file.seek(5000)
        file.write(b"CHANGED")
    os.truncate(served.path / "shorter", 5000)
    os.truncate(served.path / "longer", 50_000)
    (served.path / "renamed").rename(served.path / "new name")
    (served.path / "removed").unlink()
    (served.path / "sub").mkdir()
    (served.path / "sub/new").write_bytes(b"new" * 5000)
    expected = {path.name: path.read_bytes() for path in served.path.rglob("*") if path.is_file()}
    wait_for(lambda: not (real / "removed").exists(), "what was removed is removed")
    served.finish()
    assert {path.name: path.read_bytes() for path in real.rglob("*") if path.is_file()} == expected
    assert expected["changed"][5000:5007] == b"CHANGED"


def test_what_is_dirty_is_written_back_at_the_end_though_it_is_forgotten_that_it_was_modified(
    backed: Backing, tmp_path: Path
) -> None:
    (tmp_path / "real/file").write_bytes(b"old" * 5000)
    served = backed()
    assert (served.path / "file").read_bytes() == b"old" * 5000
    served.stop()
    with (served.path / "file").open("r+b") as file:
        file.write(b"new")
    with (served.mount.path / "control/wb/query_vmo_stats").open("r+b", buffering=0) as stats:
        stats.write(b"vmo/wb/file reset\n")
        assert stats.read() == b"ZX_OK modified=1\n"
    served.finish()
    assert (tmp_path / "real/file").read_bytes() == b"new" + b"old" * 4999


def test_names_that_changed_while_no_pager_ran_are_followed(backed: Backing, tmp_path: Path) -> None:
    real = tmp_path / "real"
    for name in ("renamed", "removed", "kept"):
        (real / name).write_bytes(name.encode() * 2000)
    served = backed()
    with (served.path / "renamed").open("r+b") as file:
        file.write(b"RENAMED")
        file.flush()
        os.fsync(file.fileno())
    served.end(signal.SIGKILL)
    (served.path / "renamed").rename(served.path / "new name")
    (served.path / "removed").unlink()
    served.start()
    assert (served.path / "new name").read_bytes() == b"RENAMED" + b"renamed" * 1999
    assert sorted(path.name for path in served.path.iterdir()) == ["kept", "new name"]
    wait_for(lambda: not (real / "removed").exists(), "what was removed is removed")
    served.finish()
    assert sorted(path.name for path in real.iterdir()) == ["kept", "new name"]
    assert (real / "new name").read_bytes() == b"RENAMED" + b"renamed" * 1999


def test_what_was_removed_just_before_the_end_is_removed(backed: Backing, tmp_path: Path) -> None:
    """It would come back otherwise: the journal of a database, say, by which the last change were taken back."""
    real = tmp_path / "real"
    for name in ("closed", "open", "kept"):
        (real / name).write_bytes(name.encode() * 2000)
    served = backed()
    served.stop()
    with (served.path / "open").open("rb"):
        for name in ("closed", "open"):
            (served.path / name).unlink()
        served.end(signal.SIGTERM)
        (aside,) = real.glob(".vmofs-aside/*")
        assert sorted(path.name for path in real.iterdir()) == [".vmofs-aside", "kept"]
        assert aside.read_bytes() == b"open" * 2000
    served.start()
    wait_for(lambda: not aside.exists(), "it is removed when it is closed")
    served.finish()


@pytest.mark.parametrize("meanwhile", ["stopped", "killed"])
def test_names_that_are_exchanged_before_they_are_followed_keep_their_content(
    backed: Backing, tmp_path: Path, meanwhile: str
) -> None:
    """Not read by anybody so far, the content is in the real files only, and each must get another's name."""
    real = tmp_path / "real"
    for name in "abcd":
        (real / name).write_bytes(name.encode() * 20_000)
    served = backed()
    with (served.path / "a").open("r+b") as file:
        file.write(b"A")
    if meanwhile == "stopped":
        served.stop()
    else:
        served.end(signal.SIGKILL)
    for old, new in (("a", "t"), ("b", "a"), ("t", "b"), ("c", "d"), ("b", "t"), ("a", "c"), ("t", "a")):
        (served.path / old).rename(served.path / new)
    expected = {"a": b"A" + b"a" * 19_999, "c": b"b" * 20_000, "d": b"c" * 20_000}
    if meanwhile == "stopped":
        served.go_on()
    else:
        served.start()
    wait_for(lambda: {path.name for path in real.iterdir()} == set(expected), "names are followed")
    assert (served.path / "c").read_bytes() == expected["c"]
    served.finish()
    assert {path.name: path.read_bytes() for path in real.iterdir()} == expected


SLOTS = 32

_WORKLOAD = r"""
import mmap, os, random, struct, sys
path, slots, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
numbers = random.Random(seed)
fd = os.open(path, os.O_RDWR)
version = 0
while not os.path.exists(sys.argv[4]):
    version += 1
    slot = numbers.randrange(slots)
    page = struct.pack("<Q", version) * 512
    way = numbers.choice(("fsync", "fdatasync", "msync"))
    if way == "msync" and os.fstat(fd).st_size >= (slot + 1) * 4096:
        with mmap.mmap(fd, 4096, offset=slot * 4096) as mapping:
            mapping[:] = page
            mapping.flush()
    else:
        assert os.pwrite(fd, page, slot * 4096) == 4096
        (os.fdatasync if way == "fdatasync" else os.fsync)(fd)
    print(slot, version, flush=True)
print("end", flush=True)
"""


def oldest_word(data: bytes, slot: int) -> int:
    """Return the oldest version of which the page still has a part. A page may be torn, but not be older."""
    page = data[slot * PAGE : (slot + 1) * PAGE]
    return min(struct.unpack(f"<{PAGE // 8}Q", page)) if len(page) == PAGE else 0


@pytest.mark.slow
def test_nothing_that_fsync_confirmed_is_lost_when_the_pager_is_killed(backed: Backing, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    numbers = random.Random(seed)  # noqa: S311 - no secret
    (tmp_path / "real/data").write_bytes(bytes(PAGE * SLOTS // 2))
    served = backed()
    stop, log_path = tmp_path / "stop", tmp_path / "confirmed"
    with log_path.open("wb") as log:
        arguments = [str(served.path / "data"), str(SLOTS), str(seed), str(stop)]
        workload = subprocess.Popen([sys.executable, "-c", _WORKLOAD, *arguments], stdout=log)
    try:
        confirmed: dict[int, int] = {}
        for number in range(10 * KILLS):
            if number >= KILLS and confirmed:
                break
            time.sleep(numbers.uniform(0.0, 0.2 * (1 + number // KILLS)))  # the pager takes 0.1 s to begin, or more
            confirmed = confirmations(log_path)
            served.end(signal.SIGKILL)
            check_nothing_lost(served.directory / "data", confirmed)
            assert workload.poll() is None
            served.start()
        progress = sum(confirmations(log_path).values())
        stop.touch()
        assert workload.wait(END_SECONDS) == 0
    finally:
        workload.kill()
        workload.wait(END_SECONDS)
    assert log_path.read_text().endswith("end\n")
    assert progress > 0
    written = (served.path / "data").read_bytes()
    served.finish()
    assert (served.directory / "data").read_bytes() == written
    check_nothing_lost(served.directory / "data", confirmations(log_path))


def confirmations(log_path: Path) -> dict[int, int]:
    """Return the last version of each slot of which fsync said that it is safe."""
    lines = log_path.read_text().rpartition("\n")[0].splitlines()
    return {int(slot): int(version) for slot, version in (line.split() for line in lines if line != "end")}


def check_nothing_lost(path: Path, confirmed: dict[int, int]) -> None:
    """Check that the real file has what was confirmed, or something newer."""
    data = path.read_bytes()
    lost = {slot: (oldest_word(data, slot), version) for slot, version in confirmed.items()}
    assert all(found >= version for found, version in lost.values()), lost


def test_the_example_brings_back_what_was_written(mount: Mounted, tmp_path: Path) -> None:
    for name in ("changed", "longer", "shorter", "removed"):
        (tmp_path / name).write_bytes(name.encode() * 2000)
    program: list[str | Path] = [sys.executable, EXAMPLES / "writeback_pager.py", mount.path, tmp_path]
    with subprocess.Popen(program) as process:
        try:
            vmo = mount.path / "vmo"
            wait_for((vmo / "shorter").exists, "the files are shown")
            with (vmo / "changed").open("r+b") as file:
                file.write(b"CHANGED")
                file.flush()
                os.fsync(file.fileno())
                assert (tmp_path / "changed").read_bytes() == b"CHANGED" + b"changed" * 1999
            os.truncate(vmo / "longer", 20_000)
            os.truncate(vmo / "shorter", 5000)
            (vmo / "removed").unlink()
            wait_for(lambda: not (tmp_path / "removed").exists(), "what was removed is removed")
        finally:
            process.terminate()
            process.wait(END_SECONDS)
    assert (tmp_path / "longer").read_bytes() == (b"longer" * 2000).ljust(20_000, b"\0")
    assert (tmp_path / "shorter").read_bytes() == (b"shorter" * 2000)[:5000]
