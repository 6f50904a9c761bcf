"""A worker of a soak, a process of its own: ``python -m tests.soak.worker JSON``.

It has a few files for itself, of which it knows every byte, and shares others. What it finds wrong it writes, with the
history of the file, to a file beside its own, and ends.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.soak.board import SLOTS, Board
from tests.soak.files import PrivateFile
from tests.soak.plan import draw_op, draw_options, numbers_for
from tests.soak.shared import DIRECTORY, Program, SharedFile, draw_shared
from tests.soak.world import World, WrongError

FILES = 3
FIRST_SLOT = 32
"""Slots of private files begin here; below are those of shared ones."""

LIVES = (20, 150)
"""Steps that a file lives for: from, to."""


@dataclass(frozen=True)
class Task:
    """What one worker is to do in one round."""

    directory: str
    mount: str
    seed: int
    round: int
    number: int
    workers: int
    pagers: int
    seconds: float

    @property
    def outcome_path(self) -> Path:
        """Where it says how it went."""
        return Path(self.directory, f"outcome-{self.number}.json")


class Worker:
    """Carries out its part of the plan until time is up."""

    def __init__(self, task: Task) -> None:
        self.task = task
        mount = Path(task.mount)
        self.board = Board(Path(task.directory, "board"))
        self.world = World(mount, Path(task.directory, "store"), self.board)
        self.shared, self.program = draw_shared(task.workers, task.pagers)
        self.files: list[PrivateFile | None] = [None] * FILES
        self.ends = [0] * FILES
        self.serial = 0
        self.directory = f"vmo/w{task.number}"
        self.at: PrivateFile | SharedFile | Program | None = None

    def run(self) -> None:
        """Work, then remove everything."""
        (self.world.mount / self.directory).mkdir()
        end = time.monotonic() + self.task.seconds
        step = 0
        while time.monotonic() < end:
            self.board.busy[self.task.number] = time.monotonic()
            self.step(numbers_for(self.task.seed, self.task.round, self.task.number, step))
            step += 1
        self.board.busy[self.task.number] = time.monotonic()
        for file in self.files:
            if file is not None:
                file.remove()
        (self.world.mount / self.directory).rmdir()
        self.board.busy[self.task.number] = 0

    def step(self, numbers: random.Random) -> None:
        """Carry out one step."""
        choice = numbers.random()
        if choice < 0.7:
            self.private_step(numbers)
        elif choice < 0.8:
            self.at = self.shared[self.task.number]
            self.world.counts["shared write"] += 1
            if "writeback" in self.at.words and numbers.random() < 0.2:
                self.at.sync(self.world)
            else:
                self.at.write(self.world, numbers)
        elif choice < 0.95:
            self.at = numbers.choice(self.shared)
            self.world.counts["shared read"] += 1
            self.at.read(self.world, numbers)
        elif choice < 0.98:
            self.meddle(numbers)
        else:
            self.at = self.program
            self.world.counts["exec"] += 1
            self.program.run(self.world, f"{numbers.randrange(1 << 64):x}")

    def private_step(self, numbers: random.Random) -> None:
        """Do something with a file of our own; make it first if need be, or remove it if it is old."""
        seat = numbers.randrange(FILES)
        file = self.files[seat]
        if file is not None and (file.detached or len(file.history) >= self.ends[seat]):
            self.at = file
            file.remove()
            file = self.files[seat] = None
        if file is None:
            self.serial += 1
            slot = FIRST_SLOT + self.task.number * FILES + seat
            pager = numbers.randrange(self.task.pagers)
            options = draw_options(numbers)
            file = self.files[seat] = PrivateFile(
                self.world, self.directory, self.serial * SLOTS + slot, pager, options
            )
            self.ends[seat] = numbers.randrange(*LIVES)
            self.world.counts["file"] += 1
        self.at = file
        file.do(draw_op(numbers, len(file.history) + 1))

    def meddle(self, numbers: random.Random) -> None:
        """Disturb others as anybody may: evict, look at everything."""
        self.at = None
        file = numbers.choice(self.shared)
        control = self.world.mount / "control"
        match numbers.randrange(4):
            case 0 | 1:
                self.world.counts["evict of a shared file"] += 1
                self.world.command(f"p{file.pager}/evict", f"{file.name} 0 {file.pages * 4096}")
            case 2:
                for path in ("stats", "log", f"p{file.pager}/pending", f"p{file.pager}/stats"):
                    (control / path).read_bytes()
            case 3:
                for place, _, names in os.walk(self.world.mount / DIRECTORY):
                    for name in names:
                        os.listxattr(Path(place, name))
        self.world.counts["look"] += 1

    def failure(self, error: BaseException) -> dict[str, Any]:
        """Describe what went wrong."""
        at = self.at
        found: dict[str, Any] = {
            "error": f"{type(error).__name__}: {error}",
            "trace": traceback.format_exc(),
            "worker": self.task.number,
            "round": self.task.round,
            "offset": getattr(error, "offset", 0),
            "length": getattr(error, "length", 0),
        }
        if isinstance(at, PrivateFile):
            found |= {"file": at.name, "pager": at.pager, "options": at.options, "history": at.history}
        elif at is not None:
            found["file"] = at.name
        return found


def main() -> None:
    """Do the task given as JSON; the exit code is 1 if something is wrong."""
    task = Task(**json.loads(sys.argv[1]))
    worker = Worker(task)
    failure = None
    try:
        worker.run()
    except (WrongError, OSError, ValueError, AssertionError) as error:
        failure = worker.failure(error)
    task.outcome_path.write_text(json.dumps({"counts": worker.world.counts, "failure": failure}))
    sys.exit(failure is not None)


if __name__ == "__main__":
    main()
