"""The command ``tools/bench``."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from tools.benchmarks import report
from tools.benchmarks.goals import ROWS
from tools.benchmarks.machine import ROOT, Placement, description
from tools.benchmarks.run import Run, wanted
from tools.benchmarks.targets import Bench


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/bench", description="Measure vmofs and its peers alternately.")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, one round: shows that all works, times nothing"
    )
    parser.add_argument("--only", metavar="REGEX", default="", help="only rows whose title matches")
    parser.add_argument("--rounds", type=int, help="how often everything is measured (7; quick: 1)")
    parser.add_argument("--placement", type=Placement, choices=list(Placement), default=Placement.FREE)
    parser.add_argument(
        "--patience", type=float, help="seconds to wait for a quiet machine before each measurement (2)"
    )
    parser.add_argument(
        "--vmofs", default=str(ROOT / ".venv/bin/vmofs"), metavar="PROGRAM", help="the program to measure"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("bench-results"), metavar="DIR", help="where results.json goes"
    )
    return parser.parse_args()


def _bench(parsed: argparse.Namespace, directory: Path, memory: Path) -> Bench:
    common = {"directory": directory, "memory": memory, "placement": parsed.placement, "vmofs": parsed.vmofs}
    if parsed.quick:
        return Bench(**common, size_bytes=2**24, misses=200, slow_misses=5, files=200, memory_pages=1024)
    return Bench(**common, size_bytes=2**30, misses=2000, slow_misses=100, files=100_000, memory_pages=2**16)


def main() -> int:
    """Measure, and return the exit code: 0, or 1 if something failed. What is slow is no failure."""
    parsed = _arguments()
    os.environ.pop("PYTHONPATH", None)  # it was for us only: nbdkit has another Python
    rows = [row for row in ROWS if re.search(parsed.only, row.title)]
    rounds = parsed.rounds or (1 if parsed.quick else 7)
    patience = (0 if parsed.quick else 2.0) if parsed.patience is None else parsed.patience
    directory = Path(tempfile.mkdtemp(prefix="vmofs-bench-"))
    memory = Path(tempfile.mkdtemp(prefix="vmofs-bench-", dir="/dev/shm"))
    try:
        bench = _bench(parsed, directory, memory)
        bench.client("fill", bench.source, bench.size_bytes)
        with Run(bench, wanted(rows), patience) as run:
            for number in range(rounds):
                run.measure_round(number)
    finally:
        shutil.rmtree(memory)
        shutil.rmtree(directory)
    table = report.lines(rows, run.records)
    print(report.as_text(table))
    parsed.out.mkdir(parents=True, exist_ok=True)
    result = {"machine": description(), "placement": parsed.placement, "quick": parsed.quick, "records": run.records}
    (parsed.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    return int(any("error" in record for record in run.records))


if __name__ == "__main__":
    sys.exit(main())
