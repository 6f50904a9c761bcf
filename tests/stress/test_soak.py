"""The soak: some seconds with a plan that is always the same, and with a fresh one, and what it says of faults.

``VMOFS_SOAK_SECONDS`` says for how long (10 each; with ``VMOFS_NIGHTLY=1`` 30).
"""

from __future__ import annotations

import faulthandler
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import NIGHTLY
from tests.soak import conductor
from tests.soak.conductor import MOUNT_OPTIONS, Settings, Soak, SoakError
from tests.support.mounted import ROOT, Mounter

SECONDS = float(os.environ.get("VMOFS_SOAK_SECONDS", "30" if NIGHTLY else "10"))
FIXED_SEED = 20261125

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has read-ahead of one page, and many requests outstanding"),
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="/dev/fuse cannot be used here"),
]


def start_soak(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "tools" / "soak"), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_everything_at_random_leaves_every_byte_right_and_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    faulthandler.cancel_dump_traceback_later()  # it takes as long as it is told to
    # Both at once: they wait more than they work.
    soaks = [start_soak("--seconds", SECONDS, *seed) for seed in (["--seed", FIXED_SEED], [])]
    outcomes = [(soak.communicate(timeout=SECONDS + 400)[0], soak.returncode) for soak in soaks]
    with capsys.disabled():
        print("", *(text for text, _ in outcomes), sep="\n")  # noqa: T201 - the seed of the fresh one
    assert [code for _, code in outcomes] == [0, 0]


def test_a_lying_pager_is_found_and_the_shortest_history_that_shows_it_is_told() -> None:
    soak = start_soak("--seconds", 20, "--seed", 1, "--lying-pager")
    text = soak.communicate(timeout=300)[0]
    assert soak.returncode == 1
    assert re.search(r"^soak: seed 1, round 0, worker \d: WrongError: .* are wrong: ", text, re.MULTILINE), text
    history = re.search(r"these (\d+) alone fail with .*:\n    create_vmo .*\n((?:    \d+: .*\n)+)", text)
    assert history, text
    # To make the file and look at the page is enough; some ways of looking take two steps.
    assert int(history[1]) == len(history[2].splitlines()) <= 2


def test_what_is_left_after_a_round_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor, "CLEAN_SECONDS", 3.0)
    monkeypatch.setattr(conductor, "ROUND_SECONDS", 1.0)
    mounter = Mounter(tmp_path)
    try:
        mounted = mounter(MOUNT_OPTIONS)
        stray = mounted.path / "control" / "stray"
        soak = Soak(mounted, tmp_path, Settings(seconds=30, workers=1), lambda _: stray.mkdir())
        with pytest.raises(SoakError, match=r"after round 1 there is left: \{.*'pagers': 1.*\}"):
            soak.run()
        stray.rmdir()
        mounter.finish()
    finally:
        mounter.clean_up()
