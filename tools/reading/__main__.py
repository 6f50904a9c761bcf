"""tools/readers: which pages programs read from a file that lies in a mount, and what they make of one that fails.

Each look at a file is a run of its own, on fresh VMOs: exactly what is asked for is supplied, then the aligned clusters
around it, then pages fail, one in each run. What a program prints, and how it ends, is compared with the first run.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tools.reading.cases import CASES, Case, Look
from tools.reading.serving import Asked, Page, Serving
from vmofs.client import Mount
from vmofs.units import PAGE_SIZE, page_count

_LOOK_SECONDS = 120


class Outcome(NamedTuple):
    """How a program ended, and what it printed."""

    code: int
    output: bytes


class Row(NamedTuple):
    """A line of the table. ``clusters``: requests and supplied pages for each size. ``failed``: outcomes by kind."""

    case: str
    look: str
    asked: Asked
    file_pages: int
    clusters: tuple[Asked, ...]
    failed: Counter[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if a program did not do its work on a file that is whole."""
    parser = argparse.ArgumentParser(prog="tools/readers", description=__doc__)
    parser.add_argument("--only", metavar="REGEX", default="", help="cases whose name matches")
    parser.add_argument("--cluster", type=_size, action="append", metavar="SIZE", help="answer by these; 64K, 1M")
    parser.add_argument("--blksize", type=_size, default=PAGE_SIZE, metavar="SIZE", help="st_blksize of the files")
    parser.add_argument("--fail", type=int, default=6, metavar="N", help="pages that fail, one in each run; 6")
    parser.add_argument("--env", type=Path, metavar="DIR", help="keep the installed packages here for the next time")
    parsed = parser.parse_args(arguments)
    clusters = parsed.cluster or [2**16, 2**20]
    chosen = [case for case in CASES if re.search(parsed.only, case.name)]
    with tempfile.TemporaryDirectory(prefix="vmofs-readers-") as folder:
        python = _environment(parsed.env or Path(folder, "env"), chosen)
        is_right = True
        _print_head(clusters)
        with _mounted(Path(folder, "mount")) as mount:
            for case in chosen:
                missing = [program for program in case.programs if shutil.which(program) is None]
                if missing:
                    print(f"{case.name}: not tried, without {', '.join(missing)}", file=sys.stderr)
                    continue
                source = _made(Path(folder, f"files-{CASES.index(case)}"), case, python)
                for look in case.looks:
                    row = _look(mount, source, case, look, python, clusters, parsed.blksize, parsed.fail)
                    is_right = is_right and row is not None
                    if row is not None:
                        _print_row(row)
    return 0 if is_right else 1


def _size(text: str) -> int:
    return int(text.rstrip("KM")) * {"K": 2**10, "M": 2**20}.get(text[-1], 1)


def _environment(folder: Path, cases: Sequence[Case]) -> Path:
    """Return a Python that has the packages of the cases."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    packages = sorted({package for case in cases for package in case.packages})
    if packages:
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True)
    return python


def _made(folder: Path, case: Case, python: Path) -> Path:
    folder.mkdir()
    subprocess.run([python, "-c", case.make], check=True, cwd=folder)
    return folder


@contextmanager
def _mounted(place: Path) -> Iterator[Mount]:
    place.mkdir()
    vmofs = Path(sys.executable).with_name("vmofs")
    subprocess.run([vmofs, "mount", "-o", "deadline=60", place], check=True)
    try:
        mount = Mount(place)
        yield mount
        mount.close()
    finally:
        subprocess.run([vmofs, "umount", "--discard", place], check=True)


def _look(
    mount: Mount,
    source: Path,
    case: Case,
    look: Look,
    python: Path,
    clusters: Sequence[int],
    blksize: int,
    fail: int,
) -> Row | None:
    """Run a look in all ways; None if it fails on what is whole."""

    def run(cluster: int, failing: Page | None = None) -> tuple[Outcome, Asked]:
        with Serving(mount, source, cluster, blksize, failing) as serving:
            return _outcome(look, serving.path / case.file, python), serving.asked

    right, asked = run(PAGE_SIZE)
    if right.code:
        print(f"{case.name}, {look.label}: exit code {right.code}: {right.output.decode()[-300:]}", file=sys.stderr)
        return None
    by_cluster = tuple(run(cluster)[1] for cluster in clusters)
    pages = list(asked.pages)
    step = max(1, len(pages) / fail) if fail else 1
    chosen = [pages[int(n * step)] for n in range(min(fail, len(pages)))]
    failed = Counter(_kind(right, run(PAGE_SIZE, page)[0]) for page in chosen)
    file_pages = sum(page_count(file.stat().st_size) for file in source.iterdir())
    return Row(case.name, look.label, asked, file_pages, by_cluster, failed)


def _outcome(look: Look, file: Path, python: Path) -> Outcome:
    command = [str(python) if word == "python" else word.replace("{}", str(file)) for word in look.command]
    done = subprocess.run(command, capture_output=True, check=False, timeout=_LOOK_SECONDS)
    return Outcome(done.returncode, (done.stdout if not done.returncode else done.stderr).replace(bytes(file), b"FILE"))


def _kind(right: Outcome, failed: Outcome) -> str:
    if failed.code < 0:
        return signal.Signals(-failed.code).name
    if failed.code:
        return "error"
    return "not seen" if failed == right else "HIDDEN"


def _print_head(clusters: Sequence[int]) -> None:
    sizes = " | ".join(f"{cluster // 1024} KiB" for cluster in clusters)
    print(f"| file | look | requests | pages | of | {sizes} | a page fails |")
    print("|---|---|" + "---:|" * (3 + len(clusters)) + "---|")


def _print_row(row: Row) -> None:
    sizes = " | ".join(f"{asked.requests}/{asked.supplied}" for asked in row.clusters)
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(row.failed.items()))
    print(
        f"| {row.case} | {row.look} | {row.asked.requests} | {len(row.asked.pages)} | {row.file_pages} "
        f"| {sizes} | {failed} |",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
