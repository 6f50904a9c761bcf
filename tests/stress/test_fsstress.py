"""Trees of files, everything done to their names at random by several processes, compared with ordinary trees.

``VMOFS_NIGHTLY=1`` does 100,000 operations in each test, ``VMOFS_FSX_OPERATIONS`` says how many otherwise;
``VMOFS_FSX_SEED`` repeats the operations, but not who comes first.
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
from tests.support.fsstress import Job
from tests.support.mounted import Mounter
from tests.support.store import ENVIRONMENT, Store

OPERATIONS = int(os.environ.get("VMOFS_FSX_OPERATIONS", "100000" if NIGHTLY else "1000"))
SEED = int(os.environ.get("VMOFS_FSX_SEED", str(random.randrange(2**32))))
PROCESSES = 4
HISTORY = 200

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="/dev/fuse cannot be used here"),
]


def run(top: Path, tmp_path: Path, pager: str, what: str) -> None:
    """Have several processes use a directory of the mount, and say how it went."""
    faulthandler.cancel_dump_traceback_later()  # it takes as long as it is told to
    began = time.monotonic()
    shared = top / "shared"
    shared.mkdir()
    jobs, processes = [], []
    for number in range(PROCESSES):
        tree, oracle = top / f"tree{number}", tmp_path / f"oracle{number}"
        tree.mkdir()
        oracle.mkdir()
        job = Job(
            tree=str(tree),
            oracle=str(oracle),
            shared=str(shared),
            lock=str(tmp_path / "lock"),
            history=str(tmp_path / f"history{number}"),
            seed=SEED + number,
            operations=OPERATIONS // PROCESSES,
            pager=pager,
        )
        jobs.append(job)
        command = [sys.executable, "-m", "tests.support.fsstress", json.dumps(asdict(job))]
        processes.append(subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    outcomes = [process.communicate() for process in processes]
    for job, process, (_, complaint) in zip(jobs, processes, outcomes, strict=True):
        history_lines = Path(job.history).read_text().splitlines()[-HISTORY:]
        said = [f"seed {job.seed}: {process.returncode} {complaint.decode()}", "the last operations:", *history_lines]
        assert process.returncode == 0, "\n".join(said)
    seconds = time.monotonic() - began
    sys.stderr.write(f"\nfsstress, {what}: seed {SEED}, {OPERATIONS} operations in {seconds:.0f} s\n")


def test_trees_of_aux_files_are_what_ordinary_trees_are(mounter: Mounter, tmp_path: Path) -> None:
    mounted = mounter("deadline=20")
    run(mounted.path / "aux", tmp_path, "", "aux")


@pytest.mark.parametrize("options", ["", "trap_dirty"], ids=["plain", "trap_dirty"])
def test_trees_of_written_vmos_are_what_ordinary_trees_are(mounter: Mounter, tmp_path: Path, options: str) -> None:
    mounted = mounter("deadline=20")
    store = Store(mounted, tmp_path / "store", tmp_path / "lock", SEED)
    try:
        pager = store.pager
        top = pager.mount / "vmo" / pager.name
        pager.command("serve_directory", f"vmo/{pager.name} writeback {options}")
        run(top, tmp_path, str(pager.control), f"VMOs {options}")
        store.close()
    finally:
        store.kill()
