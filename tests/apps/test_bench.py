"""``tools/bench`` measures everything. How long something takes is no matter here."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.mounted import ROOT
from tools.benchmarks.goals import ROWS

SECONDS = 600
"""It takes 20 when nothing else runs."""


@pytest.mark.slow
@pytest.mark.fuse
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts with the read-ahead that is measured")
def test_every_goal_is_measured_and_drawn_and_nothing_is_left(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    command = [str(ROOT / "tools" / "bench"), "--quick", "--out", str(tmp_path / "out")]
    bench = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        table, _ = bench.communicate(timeout=SECONDS)
    finally:
        bench.terminate()  # then it unmounts
        bench.wait()
    assert bench.returncode == 0, table
    assert [row.title for row in ROWS if f"\n{row.title}" not in table] == []
    assert "growth with requests outstanding: answer a request (mount)" in table
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    unmeasured = [record for record in results["records"] if "value" not in record]
    assert all("not installed" in record["missing"] or "pip" in record["missing"] for record in unmeasured), unmeasured
    for plot in ("latency", "throughput", "growth"):
        assert (tmp_path / "out" / f"{plot}.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
