"""What a soak has found, told shortly: the steps with one file are done again, alone, and as few of them as still fail.

``python -m tests.soak.replay JSON`` does the steps of one history, in a mount where pagers run that nobody disturbs;
the exit code is 1, and the last line says what was wrong, if something is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.soak.board import SLOTS, Board
from tests.soak.files import PrivateFile
from tests.soak.plan import Op, Options
from tests.soak.world import World, WrongError
from tests.support.mounted import ROOT, vmofs_environment

T = TypeVar("T")

SLOT = SLOTS - 1


@dataclass(frozen=True)
class Replay:
    """A history of one file that is to be done again; ``serial`` makes its key."""

    directory: str
    mount: str
    pager: int
    serial: int
    options: list[Any]
    history: list[list[Any]]


def replay(work: Replay) -> None:
    """Do the steps.

    Raises:
        WrongError: something is wrong.
    """
    world = World(Path(work.mount), Path(work.directory, "store"), Board(Path(work.directory, "board")))
    directory = f"vmo/replay{work.serial}"
    (world.mount / directory).mkdir()
    file = PrivateFile(world, directory, work.serial * SLOTS + SLOT, work.pager, Options(*work.options))
    for op in work.history:
        file.do(Op(*op))


def complaint(work: Replay, seconds: float) -> str | None:
    """Do the steps in a process of their own; return what was wrong, or None."""
    command = [sys.executable, "-m", "tests.soak.replay", json.dumps(asdict(work))]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=vmofs_environment(), capture_output=True, check=False, timeout=seconds, text=True
        )
    except subprocess.TimeoutExpired:
        return f"it does not end within {seconds:.0f} s"
    return None if done.returncode == 0 else (done.stdout or done.stderr).strip().rpartition("\n")[2]


def shrink(steps: Sequence[T], fails: Callable[[Sequence[T]], bool], until: float) -> list[T]:
    """Return as few of the steps, in order, as still fail; ``until`` is when to stop looking, a monotonic time.

    Leaves out ever smaller pieces, down to single steps.
    """
    left = list(steps)
    piece = max(1, len(left) // 2)
    while True:
        at, shorter = 0, False
        while at < len(left):
            if time.monotonic() > until:
                return left
            rest = left[:at] + left[at + piece :]
            if fails(rest):
                left, shorter = rest, True
            else:
                at += piece
        if piece == 1 and not shorter:
            return left
        piece = max(1, piece // 2) if not shorter or piece > 1 else 1


def main() -> None:
    """Do what is given as JSON."""
    try:
        replay(Replay(**json.loads(sys.argv[1])))
    except (WrongError, OSError) as error:
        print(f"{type(error).__name__}: {error}")  # noqa: T201 - to who started it
        sys.exit(1)


if __name__ == "__main__":
    main()
