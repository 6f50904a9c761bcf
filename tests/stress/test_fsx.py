"""One file, everything done to it at random, compared with an ordinary file after it.

``VMOFS_NIGHTLY=1`` does 100,000 operations in each test, ``VMOFS_FSX_OPERATIONS`` says how many otherwise;
``VMOFS_FSX_SEED`` repeats a run.
"""

# ruff: noqa: S311 - nothing here is a secret

from __future__ import annotations

import faulthandler
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.conftest import NIGHTLY
from tests.support.fsx import Job
from tests.support.mounted import Mounted, Mounter
from tests.support.pager_client import PagerClient, metric
from tests.support.store import ENVIRONMENT, Store, beside
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE

OPERATIONS = int(os.environ.get("VMOFS_FSX_OPERATIONS", "100000" if NIGHTLY else "500"))
SEED = int(os.environ.get("VMOFS_FSX_SEED", str(random.randrange(2**32))))
HISTORY = 200
PAGES = 64
BALLAST_PAGES = 256
LIMIT_PAGES = 160

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="/dev/fuse cannot be used here"),
]


def run(job: Job, what: str, mounted: Mounted) -> None:
    """Do the job in a process of its own, and say how it went."""
    faulthandler.cancel_dump_traceback_later()  # it takes as long as it is told to
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.support.fsx", json.dumps(asdict(job))]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    history = Path(job.history).read_text().splitlines()
    what_was_done = ["the last operations:", *history[-HISTORY:]]
    assert done.returncode == 0, "\n".join([f"seed {job.seed}: {done.returncode} {done.stderr}", *what_was_done])
    stats = (mounted.path / "control" / "stats").read_text()
    evicted = metric(stats, "vmofs_evicted_pages_total")
    sys.stderr.write(
        f"\nfsx, {what}: seed {job.seed}, {job.operations} operations in {time.monotonic() - began:.0f} s, "
        f"{evicted} pages evicted for the limit, {done.stdout}"
    )


def log_of(mounted: Mounted) -> list[str]:
    return (mounted.path / "control" / "log").read_text().splitlines()


def job_for(tmp_path: Path, path: Path, content: bytes, pager: str = "", store: str = "") -> Job:
    """Return the job for a file with this content."""
    oracle = tmp_path / "oracle"
    oracle.write_bytes(content)
    return Job(str(path), str(oracle), str(tmp_path / "history"), SEED, OPERATIONS, PAGES, pager, store)


def test_an_aux_file_is_what_an_ordinary_file_is(mounter: Mounter, tmp_path: Path) -> None:
    mounted = mounter("deadline=20")
    pager = PagerClient(mounted.path)
    content = random.Random(SEED).randbytes(10_000)
    aux = pager.aux("file")
    aux.path.write_bytes(content)
    run(job_for(tmp_path, aux.path, content), "aux", mounted)
    pager.close()


@pytest.mark.parametrize("options", ["", "trap_dirty"], ids=["plain", "trap_dirty"])
@pytest.mark.parametrize("crowded", [False, True], ids=["alone", "crowded"])
def test_a_written_vmo_is_what_an_ordinary_file_is(
    mounter: Mounter, tmp_path: Path, options: str, crowded: bool
) -> None:
    mounted = mounter(f"deadline=20,memory_limit={LIMIT_PAGES * PAGE_SIZE}")
    store = Store(mounted, tmp_path / "store", tmp_path / "lock", SEED)
    try:
        content = random.Random(SEED).randbytes(10_000)
        vmo = store.create(1, content, f"resizable writeback {options}")
        ballast = store.create(2, pattern.make(0, 0, BALLAST_PAGES * PAGE_SIZE), "")
        control, kept = str(store.pager.control), str(store.directory / "1")
        with vmo.path.open("r+b", buffering=0) as synced, ballast.path.open("rb", buffering=0) as crowd:

            def read_ballast(numbers: random.Random) -> None:
                page = numbers.randrange(BALLAST_PAGES)
                pattern.check(os.pread(crowd.fileno(), PAGE_SIZE, page * PAGE_SIZE), 0, page * PAGE_SIZE)

            works = (lambda _: os.fsync(synced), read_ballast, read_ballast) if crowded else ()
            with beside(SEED, *works):
                job = job_for(tmp_path, vmo.path, content, control, "" if crowded else kept)
                run(job, f"VMO {options} {'crowded' if crowded else 'alone'}", mounted)
        store.close()
    except AssertionError as error:
        error.add_note("\n".join(["the log:", *log_of(mounted)[-HISTORY:]]))
        raise
    finally:
        store.kill()
