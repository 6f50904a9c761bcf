"""The command ``tools/bench``."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tools.benchmarks import report
from tools.benchmarks.goals import ROWS, Goal, Row
from tools.benchmarks.machine import ROOT, Placement, description
from tools.benchmarks.run import OTHER, Run, wanted
from tools.benchmarks.targets import FULL, QUICK, Bench, Vmofs


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/bench", description="Measure vmofs and its peers alternately.")
    add = parser.add_argument
    add("--quick", action="store_true", help="small sizes, one round: shows that all works, times nothing")
    add("--only", metavar="REGEX", default="", help="only rows whose title matches")
    add("--rounds", type=int, help="how often everything is measured (7; quick: 1)")
    add("--placement", type=Placement, choices=list(Placement), default=Placement.FREE, help="what runs on which CPU")
    add("--patience", type=float, help="seconds to wait for a quiet machine before each measurement (1; quick: 0)")
    add("-o", dest="options", metavar="OPT", action="append", default=[], help="an option to mount vmofs with")
    add("--against", metavar="PROGRAM", help="another vmofs to compare with: .venv/bin/vmofs of another checkout")
    add("--against-o", metavar="OPT", action="append", default=[], help="compare with a vmofs that is mounted so")
    add("--out", type=Path, default=Path("bench-results"), metavar="DIR", help="where results.json goes")
    return parser.parse_args()


def _programs(parsed: argparse.Namespace) -> list[Vmofs]:
    ours = str(ROOT / ".venv/bin/vmofs")
    programs = [Vmofs(ours, tuple(parsed.options))]
    if parsed.against or parsed.against_o:
        programs.append(Vmofs(parsed.against or ours, tuple(parsed.against_o), OTHER))
    return programs


def _rows(parsed: argparse.Namespace) -> list[Row]:
    rows = [row for row in ROWS if re.search(parsed.only, row.title)]
    if parsed.against or parsed.against_o:
        rows = [replace(row, goals=(*row.goals, Goal(None, f"{OTHER}{row.target}"))) for row in rows]
    return rows


def main() -> int:
    """Measure, and return the exit code: 0, or 1 if something failed. What is slow is no failure."""
    parsed = _arguments()
    os.environ.pop("PYTHONPATH", None)  # it was for us only: nbdkit has another Python
    rows = _rows(parsed)
    rounds = parsed.rounds or (1 if parsed.quick else 7)
    patience = (0 if parsed.quick else 1.0) if parsed.patience is None else parsed.patience
    directory = Path(tempfile.mkdtemp(prefix="vmofs-bench-"))
    memory = Path(tempfile.mkdtemp(prefix="vmofs-bench-", dir="/dev/shm"))
    try:
        bench = Bench(directory, memory, QUICK if parsed.quick else FULL, parsed.placement)
        bench.client("fill", bench.source, bench.sizes.object_bytes)
        with Run(bench, _programs(parsed), wanted(rows), patience) as run:
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
