"""A soak as a whole: a mount, rounds of workers and pagers, pagers that die and stop, and what must be left at the end.

A round makes everything afresh, lets workers do their part of the plan while pagers are killed and stopped, and removes
everything. After each one every gauge of the mount, its descriptors and its threads must be what they were before the
first, and its memory what it was after the first.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.soak.board import Board
from tests.soak.disturbance import DEADLINE, PagerProcess
from tests.soak.plan import numbers_for
from tests.soak.shared import DIRECTORY, Program, SharedFile, draw_shared
from tests.soak.worker import Task
from tests.soak.world import STEP_SECONDS, World
from tests.support.mounted import ROOT, Mounted, vmofs_environment
from vmofs_mount.linux.procfs import process_state

T = TypeVar("T")

PAGERS = 3
MOUNT_OPTIONS = f"deadline={DEADLINE},stall=1.5,memory_limit=32M"
"""The large files of a round do not fit in the memory."""

ROUND_SECONDS = 15.0
HANG_SECONDS = STEP_SECONDS + 4 * DEADLINE
CLEAN_SECONDS = 30.0
MAY_GROW_KIB = 16 * 1024
"""How much more memory the daemon may have after a round than it had after the first."""


class SoakError(Exception):
    """The soak has found something; ``report`` says what, as a worker would."""

    def __init__(self, report: dict[str, Any]) -> None:
        super().__init__(report["error"])
        self.report = report


@dataclass
class Settings:
    """What a soak is told. ``fail_percent``: of requests; ``calm``: pagers are let alone; ``options``: of the mount."""

    seconds: float = 60.0
    seed: int = 0
    workers: int = 4
    fail_percent: float = 3.0
    lie: bool = False
    calm: bool = False
    options: str = ""

    @property
    def mount_options(self) -> str:
        """How to mount."""
        return ",".join(filter(None, (MOUNT_OPTIONS, self.options)))


@dataclass
class Usage:
    """What the daemon holds: its gauges, and its process."""

    gauges: dict[str, int]
    descriptors: Counter[str]
    threads: int
    resident_kib: int


@dataclass
class Outcome:
    """What a soak did."""

    counts: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    usages: list[Usage] = field(default_factory=list)


class Soak:
    """One soak of a mount. ``say`` is told of each round."""

    def __init__(self, mounted: Mounted, directory: Path, settings: Settings, say: Callable[[str], None]) -> None:
        self.settings, self.say = settings, say
        self._mounted, self._directory = mounted, directory
        self._store = directory / "store"
        self._store.mkdir()
        self.board = Board(directory / "board", create=True)
        self.world = World(mounted.path, self._store, self.board)
        self.outcome = Outcome()
        files, program = draw_shared(settings.workers, PAGERS)
        self._shared: list[SharedFile | Program] = [*files, program]
        self._pagers: list[PagerProcess] = []
        self._workers: list[subprocess.Popen[bytes]] = []
        self._scenes: deque[str] = deque(maxlen=4)
        self._look_again = 0.0

    def run(self) -> None:
        """Run rounds until time is up.

        Raises:
            SoakError: something is wrong.
        """
        end = time.monotonic() + self.settings.seconds
        try:
            before = self._usage_at_rest()
            while (left := end - time.monotonic()) > 1 or not self.outcome.rounds:
                self._round(min(ROUND_SECONDS, left))
                self._check_usage(before)
        finally:
            for worker in self._workers:
                worker.kill()
                worker.wait()
            for pager in self._pagers:
                pager.kill()

    @contextmanager
    def pagers_only(self) -> Iterator[None]:
        """Have the files and pagers of a round for a while, undisturbed, and no workers."""
        try:
            self._within("making a round", self._make)
            yield
        finally:
            self._end_pagers()

    # A round

    def _round(self, seconds: float) -> None:
        number = self.outcome.rounds
        numbers = numbers_for(self.settings.seed, number, "chaos")
        self._within("making a round", self._make)
        self._start_workers(number, seconds)
        while any(worker.poll() is None for worker in self._workers):
            self._disturb(numbers)
            self._look_for_hangs()
            self._look_at_requests()
            time.sleep(0.01)
        outcomes = [self._outcome(worker) for worker in range(self.settings.workers)]
        for outcome in outcomes:
            self.outcome.counts.update(outcome["counts"])
        for outcome in outcomes:
            if outcome["failure"] is not None:
                raise SoakError(outcome["failure"] | {"scene": "\n\n".join(self._scenes)})
        self._end_pagers()
        self._within("removing everything", self._unmake)
        self.outcome.rounds += 1

    def _make(self) -> None:
        control = self.world.mount / "control"
        for number in range(PAGERS):
            (control / f"p{number}").mkdir()
        os.mkfifo(control / "p1" / "second")
        (self.world.mount / DIRECTORY).mkdir()
        self.board.reset_versions()
        for file in self._shared:
            file.make(self.world)
        fifos = [(number, "requests") for number in range(PAGERS)] + [(1, "second")]
        for index, (number, fifo) in enumerate(fifos):
            log = self._directory / f"pager-{number}-{fifo}.log"
            pager = PagerProcess(
                self._starter(number, fifo, index, log), (number, index), self._mounted.pid, self.board, log
            )
            self._pagers.append(pager)
            pager.begin()

    def _starter(self, number: int, fifo: str, index: int, log_path: Path) -> Callable[[int], subprocess.Popen[bytes]]:
        def start(life: int) -> subprocess.Popen[bytes]:
            settings = self.settings
            seed = f"{settings.seed}/{self.outcome.rounds}/{number}/{fifo}/{life}"
            arguments = [self.world.mount, f"p{number}", fifo, index, self._store, self._directory / "board", seed]
            command = [sys.executable, "-S", "-m", "tests.soak.pager", *arguments]
            with log_path.open("ab") as log:
                return subprocess.Popen(
                    [*map(str, command), str(settings.fail_percent), str(int(settings.lie))],
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    cwd=ROOT,
                    env=vmofs_environment(),
                )

        return start

    def _start_workers(self, number: int, seconds: float) -> None:
        self._workers = []
        for worker in range(self.settings.workers):
            task = self._task(worker, number, seconds)
            task.outcome_path.unlink(missing_ok=True)
            command = [sys.executable, "-m", "tests.soak.worker", json.dumps(asdict(task))]
            self._workers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=ROOT, env=vmofs_environment()))

    def _task(self, worker: int, number: int, seconds: float) -> Task:
        settings = self.settings
        directory, mount = str(self._directory), str(self.world.mount)
        return Task(directory, mount, settings.seed, number, worker, settings.workers, PAGERS, seconds)

    def _outcome(self, worker: int) -> dict[str, Any]:
        path = self._task(worker, 0, 0).outcome_path
        if not path.exists():
            code = self._workers[worker].returncode
            return {"counts": {}, "failure": {"error": f"worker {worker} ended with {code} and said nothing"}}
        outcome: dict[str, Any] = json.loads(path.read_text())
        return outcome

    def _disturb(self, numbers: random.Random) -> None:
        began = time.monotonic()
        try:
            for pager in self._pagers:
                pager.look(numbers, self.outcome.counts, calm=self.settings.calm)
            self.board.looked[0] = began
        except ChildProcessError as error:
            raise SoakError({"error": str(error)}) from error

    # Hangs

    def _look_for_hangs(self) -> None:
        now = time.monotonic()
        for worker, process in enumerate(self._workers):
            since = self.board.busy[worker]
            if since and process.poll() is None and now - since > HANG_SECONDS:
                raise SoakError({"error": f"worker {worker} hangs since {now - since:.0f} s", "trace": self._stacks()})

    def _look_at_requests(self) -> None:
        """Once a second: a request that is old although its pager is well is going to time out. Keep what waits."""
        now = time.monotonic()
        if now < self._look_again:
            return
        self._look_again = now + 1.0
        for number in range(PAGERS):
            ages = [float(age) for age in re.findall(r" age=(\S+)", self._pending(number))]
            if max(ages, default=0.0) > DEADLINE / 2 and self.board.trouble[number] < now:
                self._scenes.append(f"At {now:.1f} s:\n{self._stacks()}")

    def _pending(self, number: int) -> str:
        path = self.world.mount / "control" / f"p{number}" / "pending"
        return self._within(f"reading {path}", path.read_text)

    def _stacks(self) -> str:
        """Say what waits: the requests, and pagers and workers in the kernel."""
        texts = [f"pager {number} has pending:\n{self._pending(number)}" for number in range(PAGERS)]
        processes = [(f"pager {pager.pager}", pager.process) for pager in self._pagers if pager.process]
        processes += [(f"worker {number}", worker) for number, worker in enumerate(self._workers)]
        for name, process in processes:
            with suppress(OSError):  # it has ended
                state = process_state(process.pid)
                texts.append(f"{name}, in state {state}, is in:\n{Path(f'/proc/{process.pid}/stack').read_text()}")
        return "\n".join(texts)

    # The end of a round

    def _end_pagers(self) -> None:
        for pager in self._pagers:
            pager.kill()
        self._pagers = []

    def _unmake(self) -> None:
        for file in self._shared:
            (self.world.mount / file.name).unlink()
            (self._store / str(file.key)).unlink()
        (self.world.mount / DIRECTORY).rmdir()
        for stage in (self.world.mount / "aux").iterdir():
            stage.unlink()
        for number in range(PAGERS):
            (self.world.mount / "control" / f"p{number}").rmdir()

    def _within(self, what: str, work: Callable[[], T]) -> T:
        """Do something with the mount in a thread; raises SoakError if it takes too long."""
        results: list[T] = []
        errors: list[BaseException] = []

        def guarded() -> None:
            try:
                results.append(work())
            except BaseException as error:  # noqa: BLE001 - raised again below
                errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        thread.join(CLEAN_SECONDS)
        if errors:
            raise SoakError({"error": f"{what}: {type(errors[0]).__name__}: {errors[0]}"}) from errors[0]
        if not results:
            raise SoakError({"error": f"{what} takes longer than {CLEAN_SECONDS} s"})
        return results[0]

    def _usage_at_rest(self) -> Usage:
        """Wait until what the daemon holds does not change: it answers before it has begun all that it does."""
        deadline = time.monotonic() + CLEAN_SECONDS
        usage = self._usage()
        while time.monotonic() < deadline:
            time.sleep(0.5)
            last, usage = usage, self._usage()
            if (last.gauges, last.descriptors) == (usage.gauges, usage.descriptors):
                break
        return usage

    def _usage(self) -> Usage:
        def look() -> Usage:
            process = Path(f"/proc/{self._mounted.pid}")
            gauges = {}
            for line in (self.world.mount / "control" / "stats").read_text().splitlines():
                name, _, value = line.rpartition(" ")
                if not line.startswith("#") and not name.endswith(("_total", "_peak")):
                    gauges[name.removeprefix("vmofs_")] = int(value)
            status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            resident = int(status["VmRSS"].split()[0])
            return Usage(gauges, _descriptors(process), int(status["Threads"]), resident)

        return self._within("looking at the daemon", look)

    def _check_usage(self, before: Usage) -> None:
        """Wait until the daemon holds what it held before; its memory what it had after the first round."""
        deadline = time.monotonic() + CLEAN_SECONDS
        while True:
            usage = self._usage()
            left: dict[str, object] = {
                name: value for name, value in usage.gauges.items() if value != before.gauges.get(name)
            }
            if more := usage.descriptors - before.descriptors:
                left["descriptors"] = dict(more)
            first = self.outcome.usages[0] if self.outcome.usages else usage
            if usage.resident_kib > first.resident_kib + MAY_GROW_KIB:
                left["KiB more than after the first round"] = usage.resident_kib - first.resident_kib
            if not left:
                break
            if time.monotonic() > deadline:
                raise SoakError({"error": f"after round {self.outcome.rounds - 1} there is left: {left}"})
            time.sleep(0.05)
        self.outcome.usages.append(usage)
        self.say(f"round {self.outcome.rounds}: {self.outcome.counts.total()} steps, {usage.resident_kib} KiB")


def _descriptors(process: Path) -> Counter[str]:
    """Return what a process has open, how often."""
    found: Counter[str] = Counter()
    for path in (process / "fd").iterdir():
        with suppress(OSError):  # it was closed meanwhile
            found[re.sub(r"\[\d+\]", "", str(path.readlink()))] += 1
    return found
