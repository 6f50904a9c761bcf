"""The soak as a program: ``tools/soak``, and what the tests of it call."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.soak.conductor import PAGERS, Outcome, Settings, Soak, SoakError
from tests.soak.plan import Op, Options
from tests.soak.replay import Replay, complaint, shrink
from tests.support.mounted import Mounter
from vmofs.units import PAGE_SIZE

SHRINK_SECONDS = 90.0
REPLAY_SECONDS = 30.0
"""How long a history may take that is done again alone; some take 0.3 s."""

STEPS_SHOWN = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak; return 0 if nothing was wrong, 1 if something was."""
    parsed = _parser().parse_args(arguments)
    seed = random.randrange(2**32) if parsed.seed is None else parsed.seed  # noqa: S311 - nothing secret
    settings = Settings(
        parsed.seconds, seed, parsed.workers, lie=parsed.lying_pager, calm=parsed.calm, options=parsed.options
    )
    on_terminal = sys.stdout.isatty()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("soak: ended by SIGTERM"))  # nothing may stay mounted

    def say(text: str) -> None:
        if on_terminal:
            print(f"\r\033[Ksoak: {text}", end="", flush=True)  # noqa: T201

    report, code = soak(settings, say)
    say("")
    print(("\r" if on_terminal else "") + report)  # noqa: T201
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long; the last round ends a little later")
    parser.add_argument(
        "--seed", type=int, help="which plan is carried out; a fresh one is drawn and printed if missing"
    )
    parser.add_argument("--workers", type=int, default=4, help="processes that use the mount")
    parser.add_argument("-o", dest="options", default="", metavar="OPT[,OPT...]", help="more options to mount with")
    parser.add_argument("--calm", action="store_true", help="neither kill nor stop pagers")
    parser.add_argument(
        "--lying-pager", action="store_true", help="let pagers change a bit now and then: it must be found"
    )
    return parser


def soak(settings: Settings, say: Callable[[str], None]) -> tuple[str, int]:
    """Run a soak in a mount of its own; return what it has to say, and the exit code."""
    directory = Path(tempfile.mkdtemp(prefix="vmofs-soak-"))
    mounter = Mounter(directory)
    began = time.monotonic()
    try:
        mounted = mounter(settings.mount_options)
        work = Soak(mounted, directory, settings, say)
        try:
            work.run()
            mounter.finish()  # the daemon checks all its invariants, and ends with an error if one is broken
        except SoakError as error:
            return f"{_failure(settings, error.report, work.outcome, say)}\n{mounted.log()}".strip(), 1
        except AssertionError as error:
            return f"soak: seed {settings.seed}: the daemon did not end well: {error}\n{mounted.log()}".strip(), 1
        return _success(settings, work.outcome, time.monotonic() - began), 0
    finally:
        mounter.clean_up()
        shutil.rmtree(directory)


def _success(settings: Settings, outcome: Outcome, seconds: float) -> str:
    first, last = outcome.usages[0], outcome.usages[-1]
    quarters = [outcome.usages[(len(outcome.usages) - 1) * number // 4].resident_kib for number in range(5)]
    did = ", ".join(f"{count} {what}" for what, count in sorted(outcome.counts.items()))
    return (
        f"soak: seed {settings.seed}, {seconds:.0f} s, {outcome.rounds} rounds, {settings.workers} workers: "
        "nothing wrong\n"
        f"soak: {did}\n"
        "soak: after each round all gauges as before; "
        f"descriptors {first.descriptors.total()} -> {last.descriptors.total()}, "
        f"threads {first.threads} -> {last.threads}, "
        f"memory in KiB, by quarters of the time: {' -> '.join(map(str, quarters))}"
    )


# What to say about a failure


def _failure(settings: Settings, report: dict[str, Any], outcome: Outcome, say: Callable[[str], None]) -> str:
    where = f"round {report.get('round', outcome.rounds)}, worker {report.get('worker', '-')}"
    lines = [f"soak: seed {settings.seed}, {where}: {report['error']}"]
    if "history" in report:
        lines += _history(settings, report, say)
    elif "file" in report:
        lines.append(f"soak: {report['file']}, bytes {report['offset']:#x}+{report['length']:#x}")
    lines += [report[part].rstrip() for part in ("trace", "scene") if report.get(part)]
    return "\n".join(lines)


def _history(settings: Settings, report: dict[str, Any], say: Callable[[str], None]) -> list[str]:
    """Return the shortest history that shows a failure: one that fails alone, or else what touched the place."""
    history = [Op(*op) for op in report["history"]]
    options = Options(*report["options"])
    say(f"{report['error']}; looking for the shortest history")
    short, why = shortest(settings, report["pager"], options, history)
    if short is None:
        short = [op for op in history if concerns(op, history[-1], report["offset"], report["length"])][-STEPS_SHOWN:]
        title = f"done again alone it does not fail; of its {len(history)} steps these concern the place:"
    else:
        title = f"of its {len(history)} steps these {len(short)} alone fail with {why}:"
    return [
        f"soak: {report['file']}, pager {report['pager']}; {title}",
        f"    {options}",
        *(f"    {op}" for op in short),
    ]


def concerns(op: Op, last: Op, offset: int, length: int) -> bool:
    """Return whether a step may matter to a place of its file, whose failure the ``last`` one has shown.

    Where a step does something is cut to the size of the file at the time, so what changes the size always counts.
    """
    if op == last or op.kind in {"truncate", "stream_size", "child", "child_drop", "fsync", "cycle", "detach"}:
        return True
    first = offset - offset % PAGE_SIZE
    return not length or (op.offset < offset + max(length, 1) and op.offset + op.length > first)


def shortest(
    settings: Settings, pager: int, options: Options, history: Sequence[Op]
) -> tuple[list[Op] | None, str | None]:
    """Look in a mount of its own for as few steps as still fail; return them and how they fail, or None if none do."""
    directory = Path(tempfile.mkdtemp(prefix="vmofs-soak-"))
    mounter = Mounter(directory)
    serial, last = 0, ""
    try:
        mounted = mounter(settings.mount_options)
        work = Soak(mounted, directory, Settings(seed=settings.seed, lie=settings.lie, workers=1), lambda _: None)

        def fails(steps: Sequence[Op]) -> bool:
            nonlocal serial, last
            serial += 1
            wanted = Replay(str(directory), str(mounted.path), pager, serial, list(options), [list(op) for op in steps])
            found = complaint(wanted, REPLAY_SECONDS)
            last = found or last
            return found is not None

        with work.pagers_only():
            if pager >= PAGERS or not fails(history):
                return None, None
            return shrink(history, fails, time.monotonic() + SHRINK_SECONDS), last
    finally:
        mounter.clean_up()
        shutil.rmtree(directory)
