"""``tools/readers``: that it counts what programs ask for, and sees what they make of a page that fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mounted import ROOT

pytestmark = pytest.mark.fuse


def rows(*arguments: str | Path) -> dict[str, list[str]]:
    """Run it; return the cells of each look."""
    command = [sys.executable, "-m", "tools.reading", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    return {cells[1]: cells[2:] for cells in lines[2:]}


def test_requests_and_failures_of_programs_are_counted(tmp_path: Path) -> None:
    # The environment that it would make: no packages are wanted.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    found = rows("--only", "any|SQLite", "--fail", "2", "--cluster", "64K", "--env", tmp_path)
    assert found["head -c 1"] == ["1", "1", "2048", "1/16", "1 error"]
    assert found["mmap, 1 MiB in the middle"] == ["256", "256", "2048", "16/256", "2 SIGBUS"]
    requests, pages, of, _, failed = found["one row by key"]
    assert int(requests) == int(pages) < 10 < int(of)
    assert "HIDDEN" not in failed
