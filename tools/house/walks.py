"""The command ``tools/walks``."""

from __future__ import annotations

import argparse
import atexit
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tools.house import recorder
from tools.house.foreground import ROOT, mounted
from tools.house.recorder import Miss, Walk

_PAGE = 4096
_MISSES = 3
_PROJECT = (ROOT / "vmofs", ROOT / "mount/vmofs_mount")

WALKS: dict[str, Callable[[Miss], Walk | None]] = {
    "(a) READ handler entered, request written": lambda miss: miss.request,
    "(b) supply_pages entered, readers woken": lambda miss: miss.woken,
    "(c) supply_pages entered, its writer returns": lambda miss: miss.answered,
}


def record_and_run(out: str) -> None:
    """Record in this process, from now on; write the misses into ``out`` when it ends. For the daemon.

    Recording makes everything ten times slower, so what is cut into slices of time would be cut where it never is
    otherwise. Therefore ``time.perf_counter`` hardly moves here; trio has taken the true one before.
    """
    import trio  # noqa: F401, PLC0415 - see above

    began, true_clock = time.perf_counter(), time.perf_counter
    time.perf_counter = lambda: began + (true_clock() - began) / 1000
    recording = recorder.Recorder(ROOT, _PROJECT)
    atexit.register(recording.save, Path(out))
    atexit.register(sys.setprofile, None)  # before that
    sys.setprofile(recording.note)


def recorded() -> list[Miss]:
    """Let a reader miss some pages of a mount, answer, and return what was recorded in the daemon."""
    with tempfile.TemporaryDirectory(prefix="vmofs-walks-") as directory:
        out = Path(directory, "misses.json")
        before = f"from tools.house.walks import record_and_run\nrecord_and_run({str(out)!r})"
        with mounted(before) as mount:
            _miss_pages(mount)
        return recorder.load(out)[1:]  # the first miss keeps names, and opens what stays open


def _miss_pages(mount: Path) -> None:
    pager = mount / "control" / "walks"
    pager.mkdir()
    (pager / "create_vmo").write_text(f"vmo/walk {(_MISSES + 1) * 2 * _PAGE}\n")
    stage = os.open(mount / "aux" / "stage", os.O_WRONLY | os.O_CREAT, 0o600)
    supply = os.open(pager / "supply_pages", os.O_WRONLY)
    requests = (pager / "requests").open()
    try:
        for number in range(_MISSES + 1):
            # Every other page: a page beside one that is there becomes a part of its run, which is another walk.
            skip = ["bs=4096", f"skip={2 * number}", "count=1", "status=none"]
            reader = subprocess.Popen(["dd", f"if={mount}/vmo/walk", "of=/dev/null", *skip])
            _, _, offset, length, name = requests.readline().split()
            os.pwrite(stage, b"\1" * int(length), 0)
            os.write(supply, f"{name} {offset} {length} aux/stage 0\n".encode())
            if reader.wait(20):
                raise RuntimeError("the reader has failed")
    finally:
        for descriptor in (stage, supply):
            os.close(descriptor)
        pager.rmdir()
        requests.close()


def table(misses: list[Miss]) -> str:
    """Return a row for each walk of each miss; those that are the same in all misses once."""
    lines = [f"{'walk':<46} {'misses':<7} {'calls':>5} {'files':>5} {'changes of file':>15}"]
    for title, walk_of in WALKS.items():
        found = [walk_of(miss) for miss in misses]
        if all(walk == found[0] for walk in found):
            lines.append(_row(title, "all", found[0]))
        else:
            lines.append(f"{title}: the misses do NOT agree")
            lines += [_row(title, f"{number}", walk) for number, walk in enumerate(found, 1)]
    return "\n".join(lines)


def _row(title: str, misses: str, walk: Walk | None) -> str:
    if walk is None:
        return f"{title:<46} {misses:<7} not recognised"
    return f"{title:<46} {misses:<7} {len(walk.calls):5} {len(walk.files()):5} {walk.changes:15}"


def agree(misses: list[Miss]) -> bool:
    """Return whether there are as many misses as there should be, in which the same was called."""
    return len(misses) == _MISSES and all(miss == misses[0] for miss in misses)


def sequence(walk: Walk | None) -> str:
    """Return the calls of a walk, each below its caller."""
    if walk is None:
        return "not recognised"
    return "\n".join(f"{'  ' * depth}{name}  {file}" for depth, file, name in walk.calls)


def main() -> int:
    """Record, print, and return the exit code: 1 if the misses do not agree."""
    parser = argparse.ArgumentParser(prog="tools/walks", description="Record how a page miss runs through the code.")
    parser.add_argument("--calls", action="store_true", help="also print the calls of the first miss, in their order")
    parsed = parser.parse_args()
    misses = recorded()
    print(table(misses))
    if parsed.calls:
        for title, walk_of in WALKS.items():
            for miss in misses[:1]:
                print(f"\n{title}\n{sequence(walk_of(miss))}")
    if agree(misses):
        return 0
    print(f"walks: {len(misses)} of {_MISSES} misses were recorded, or they do not agree", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
