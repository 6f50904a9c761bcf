"""The command ``tools/bench``."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from tools.benchmarks import report
from tools.benchmarks.goals import ROWS, Goal, Row
from tools.benchmarks.growth import AXES
from tools.benchmarks.machine import ROOT, Placement, description
from tools.benchmarks.run import OTHER, Run, wanted
from tools.benchmarks.targets import FULL, QUICK, Bench
from tools.benchmarks.vmofs_targets import Vmofs
from tools.benchmarks.workloads import IN_BLOCKS

_DOCUMENT = ROOT / "tools" / "BENCH.md"
_BEGIN, _END = "<!-- measured: written by tools/bench --markdown -->\n", "<!-- end of measured -->\n"

Results = dict[str, Any]
"""What ``results.json`` holds: ``machine``, ``placement``, ``quick``, ``records``, ``growth``."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/bench", description="Measure vmofs and its peers alternately.")
    add = parser.add_argument
    add("--quick", action="store_true", help="small sizes, one round: shows that all works, times nothing")
    add("--only", metavar="REGEX", default="", help="only what has such a title; see also: 'in blocks', 'growth'")
    add("--rounds", type=int, help="how often everything is measured (7; quick: 1)")
    add("--placement", type=Placement, choices=list(Placement), default=Placement.FREE, help="what runs on which CPU")
    add("--patience", type=float, help="seconds to wait for a quiet machine before each measurement (1; quick: 0)")
    add("-o", dest="options", metavar="OPT", action="append", default=[], help="an option to mount vmofs with")
    add("--against", metavar="PROGRAM", help="another vmofs to compare with: .venv/bin/vmofs of another checkout")
    add("--against-o", metavar="OPT", action="append", default=[], help="compare with a vmofs that is mounted so")
    add("--out", type=Path, default=Path("bench-results"), metavar="DIR", help="for results.json and the plots")
    add("--from", dest="source", type=Path, metavar="FILE", help="measure nothing; show this results.json")
    add("--markdown", action="store_true", help=f"write the table into {_DOCUMENT.relative_to(ROOT)}")
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


def _measure(parsed: argparse.Namespace, rows: list[Row]) -> Results:
    in_blocks = [workload for workload in IN_BLOCKS if re.search(parsed.only, workload.name)]
    axes = [axis for axis in AXES if re.search(parsed.only, f"growth with {axis}")]
    patience = (0 if parsed.quick else 1.0) if parsed.patience is None else parsed.patience
    directory = Path(tempfile.mkdtemp(prefix="vmofs-bench-"))
    memory = Path(tempfile.mkdtemp(prefix="vmofs-bench-", dir="/dev/shm"))
    try:
        bench = Bench(directory, memory, QUICK if parsed.quick else FULL, parsed.placement)
        bench.client("fill", bench.source, bench.sizes.object_bytes)
        with Run(bench, _programs(parsed), wanted(rows, in_blocks), patience) as run:
            try:
                for number in range(parsed.rounds or (1 if parsed.quick else 7)):
                    run.measure_round(number)
                run.measure_growth(axes, bench.sizes.growth_limit)
            except KeyboardInterrupt:
                print("bench: interrupted; what was measured so far:", file=sys.stderr)
    finally:
        shutil.rmtree(memory)
        shutil.rmtree(directory)
    return {
        "machine": description(),
        "placement": parsed.placement,
        "quick": parsed.quick,
        "records": run.records,
        "growth": run.points,
    }


def _draw(results: Results, directory: Path) -> None:
    try:
        from tools.benchmarks import plots  # noqa: PLC0415 - everything else works without matplotlib
    except ModuleNotFoundError as error:
        print(f"bench: no plots: {error.name} is not installed (pip: matplotlib)", file=sys.stderr)
        return
    for path in plots.draw(results["records"], results["growth"], directory):
        print(f"bench: {path}", file=sys.stderr)


def _write_document(results: Results, table: list[report.Line]) -> None:
    before, _, rest = _DOCUMENT.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    machine, records = results["machine"], results["records"]
    rounds = len({record["round"] for record in records})
    busy = median(record["busy"] for record in records if "busy" in record)
    told = (
        f"Measured {machine['date']} at commit {machine['commit']}: {machine['cpus']} CPUs ({machine['cpu']}), "
        f"Linux {machine['kernel']}, Python {machine['python']}, placement {results['placement']}, {rounds} rounds. "
        f"Before a sample the machine was busy to {busy:.0%}, median; a table is to be trusted if that is little.\n"
    )
    _DOCUMENT.write_text(f"{before}{_BEGIN}\n{told}\n{report.as_markdown(table)}\n\n{_END}{after}")


def main() -> int:
    """Measure, and return the exit code: 0, or 1 if something failed. What is slow is no failure."""
    parsed = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing is left mounted
    os.environ.pop("PYTHONPATH", None)  # it was for us only: nbdkit has another Python
    if os.geteuid() != 0:
        print("bench: not as root: read-ahead is 128 KiB, so misses bring more than a page", file=sys.stderr)
    rows = _rows(parsed)
    if parsed.source:
        results: Results = json.loads(parsed.source.read_text())
    else:
        results = _measure(parsed, rows)
    table = [*report.lines(rows, results["records"]), *report.growth_lines(results["growth"])]
    print(report.as_text(table))
    parsed.out.mkdir(parents=True, exist_ok=True)
    if not parsed.source:
        (parsed.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    _draw(results, parsed.out)
    if parsed.markdown:
        _write_document(results, table)
    return int(any("error" in record for record in results["records"]))


if __name__ == "__main__":
    sys.exit(main())
