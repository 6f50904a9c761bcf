"""What is done to a target, and what is measured: each workload gives one sample for a target and a round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.benchmarks.targets import (
    Bench,
    Cached,
    CNull,
    NbdPython,
    NbdShell,
    Null,
    Present,
    Served,
    SharedMount,
    Target,
    Tmpfs,
)

Sample = dict[str, Any]
"""``value``, and what else is known: ``quantiles`` of latencies in µs, ``bytes``, ..."""


@dataclass(frozen=True)
class Workload:
    """One kind of work. ``targets`` are those that it is done to, one after the other in each round."""

    name: str
    targets: tuple[str, ...]
    measure: Callable[[Bench, Target, int], Sample]


def misses(*, how: str = "pread", threads: int = 1, slow: bool = False) -> Callable[[Bench, Target, int], Sample]:
    """Read random pages, none of which the kernel has. The value is the median latency, or with threads the rate."""

    def measure(bench: Bench, target: Target, seed: int) -> Sample:
        number = bench.slow_misses if slow else bench.misses
        with target.object() as path:
            measured = bench.client("miss", path, f"how={how}", f"n={number}", f"threads={threads}", f"seed={seed}")
        assert measured["resident_before"] == 0, measured
        measured["value"] = measured["rate"] if threads > 1 else measured["quantiles"][100]
        return measured

    return measure


def sequential(*, keep: bool) -> Callable[[Bench, Target, int], Sample]:
    """Read the object once from its beginning in blocks of 1 MiB, with or without what the kernel's cache has."""

    def measure(bench: Bench, target: Target, seed: int) -> Sample:  # noqa: ARG001
        with target.object() as path:
            measured = bench.client("seq", path, f"keep={int(keep)}")
        assert keep or measured["resident_before"] == 0, measured
        measured["value"] = measured["bytes"] / measured["seconds"] / 1e9
        return measured

    return measure


WORKLOADS = (
    Workload(
        "pread, 1 reader",
        ("null", "C null", "nbdkit python", "vmofs present", "vmofs supply", "vmofs aux"),
        misses(),
    ),
    Workload("mmap, 1 reader", ("null", "C null", "vmofs present"), misses(how="mmap")),
    Workload(
        "pread, 32 readers",
        ("null", "C null", "nbdkit python", "vmofs present", "vmofs supply", "vmofs aux"),
        misses(threads=32),
    ),
    Workload("pread, process per miss", ("nbdkit sh", "vmofs bash"), misses(slow=True)),
    Workload("sequential, cached", ("tmpfs", "vmofs cached"), sequential(keep=True)),
    Workload(
        "sequential, not cached",
        ("null", "C null", "nbdkit python", "vmofs present", "vmofs ahead"),
        sequential(keep=False),
    ),
)


def make_targets(shared: SharedMount) -> dict[str, Target]:
    """Return everything that can be measured, by name. Nothing is started yet."""
    targets: list[Target] = [
        *(Tmpfs(), Null(), CNull(), NbdPython(), NbdShell()),
        *(Present(shared), Cached(shared)),
        *(Served(shared, how) for how in ("supply", "aux", "ahead", "bash")),
    ]
    return {target.name: target for target in targets}
