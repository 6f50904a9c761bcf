"""Measures what was asked for, in alternation: workload by workload, target beside target, in every round."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterable
from itertools import chain
from typing import Any, Self

from tools.benchmarks.goals import Row
from tools.benchmarks.growth import Point, measure_model
from tools.benchmarks.machine import MissingError, wait_quiet, warm_memory
from tools.benchmarks.mounted_growth import measure_mount
from tools.benchmarks.open_targets import open_targets
from tools.benchmarks.peers import peers
from tools.benchmarks.targets import Bench, Target
from tools.benchmarks.vmofs_targets import SharedMount, Vmofs, targets_of
from tools.benchmarks.workloads import IN_BLOCKS, WORKLOADS, Workload

Record = dict[str, Any]
"""A sample with its ``workload``, ``target`` and ``round``; or these with ``missing`` or ``error``, a sentence."""


_WARM_OBJECTS = 3  # an object once in vmofs and once in the kernel's cache, and what a server has at hand

OTHER = "other "
"""What the names of the targets of a second vmofs begin with."""


def wanted(rows: Iterable[Row], workloads: Iterable[Workload]) -> set[tuple[str, str]]:
    """Return the workloads and targets that these rows need, and all targets of these workloads."""
    pairs = {(workload.name, target) for workload in workloads for target in workload.measures}
    for row in rows:
        pairs.add((row.workload, row.target))
        pairs |= {(row.workload, goal.target) for goal in row.goals if goal.target is not None}
    return pairs


class Run:
    """One run. Targets are started when they are first needed, and stay until the end: they sleep meanwhile."""

    def __init__(
        self, bench: Bench, programs: list[Vmofs], pairs: set[tuple[str, str]], patience_seconds: float
    ) -> None:
        self._bench = bench
        self._pairs = pairs
        self._patience_seconds = patience_seconds
        self._mounts = [SharedMount(program) for program in programs]
        opening = [open_targets(program.program, program.prefix) for program in programs]
        targets = [*peers(), *chain(*opening), *(target for mount in self._mounts for target in targets_of(mount))]
        self._targets = {target.name: target for target in targets}
        self._started: list[Target] = []
        self._unusable: dict[str, Record] = {}
        self.records: list[Record] = []
        self.points: list[Point] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for target in reversed(self._started):
            try:
                target.stop()
            except OSError as error:
                print(f"bench: {target.name}: {error}", file=sys.stderr)
        for mount in self._mounts:
            mount.stop()

    def measure_round(self, number: int) -> None:
        """Measure everything once, in an order of the round's own."""
        order = random.Random(number)  # noqa: S311
        workloads = (*WORKLOADS, *IN_BLOCKS)
        for workload in order.sample(workloads, len(workloads)):
            if number < workload.most_rounds:
                names = sorted(name for of, name in self._pairs if of == workload.name)
                for name in order.sample(names, len(names)):
                    self._measure(workload, name, number)

    def measure_growth(self, axes: Iterable[str], limit: int) -> None:
        """Measure growth along these axes, of the model and through mounts of the first vmofs."""
        for axis in axes:
            print(f"growth: {axis}", file=sys.stderr)
            try:
                self.points += measure_model(axis, limit)
                self.points += measure_mount(self._bench, self._mounts[0].vmofs, axis)
            except (OSError, RuntimeError, AssertionError, subprocess.CalledProcessError) as error:
                self.records.append({"workload": "growth", "target": axis, "round": 0, "error": repr(error)})
                _show(self.records[-1])

    def _measure(self, workload: Workload, name: str, number: int) -> None:
        record: Record = {"workload": workload.name, "target": name, "round": number}
        target = self._targets[name]
        try:
            self._start(target)
            if name in self._unusable:
                record |= self._unusable[name]
            else:
                if workload.fills:
                    warm_memory(_WARM_OBJECTS * self._bench.sizes.object_bytes)
                record["busy"] = wait_quiet(self._patience_seconds)
                measure = workload.measures[name.removeprefix(OTHER)]
                record |= measure(self._bench, target, number + 1)
        except MissingError as error:
            record["missing"] = str(error)
        except (OSError, RuntimeError, AssertionError, subprocess.CalledProcessError) as error:
            record["error"] = f"{type(error).__name__}: {error}"
        self.records.append(record)
        _show(record)

    def _start(self, target: Target) -> None:
        if target in self._started or target.name in self._unusable:
            return
        try:
            self._started.append(target)
            target.start(self._bench)
        except MissingError as error:
            self._unusable[target.name] = {"missing": str(error)}
            self._started.remove(target)
        except (OSError, RuntimeError, AssertionError) as error:
            self._unusable[target.name] = {"error": f"{type(error).__name__}: {error}"}


def _show(record: Record) -> None:
    what = record.get("error") or record.get("missing") or f"{record['value']:.4g}"
    print(f"round {record['round']}  {record['workload']:26} {record['target']:16} {what}", file=sys.stderr)
