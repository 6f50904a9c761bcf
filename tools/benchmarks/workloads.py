"""What is done to a target, and what is measured: each workload gives one sample for a target and a round."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.benchmarks import files, holes, memory, opening, supplying
from tools.benchmarks.machine import cpu_seconds, needed
from tools.benchmarks.targets import Bench, ObjectTarget
from tools.benchmarks.web import Way

Sample = dict[str, Any]
"""``value``, and what else is known: ``quantiles`` of latencies in µs, ``cpu_us`` of each miss, ..."""

Measure = Callable[[Bench, Any, int], Sample]
"""Called with the target and the number of the round, as seed."""


@dataclass(frozen=True)
class Workload:
    """One kind of work, and how it is done to each target. What takes long is measured in fewer rounds.

    ``fills``: it fills much memory that was free before; such memory is touched first.
    """

    name: str
    measures: dict[str, Measure]
    most_rounds: int = 1000
    fills: bool = False


_MOST_BLOCKS = 2**14


def misses(*, how: str = "pread", threads: int = 1, slow: bool = False) -> Measure:
    """Read random pages, none of which the kernel has. The value is the median latency, or with threads the rate."""

    def measure(bench: Bench, target: ObjectTarget, seed: int) -> Sample:
        number = bench.sizes.slow_misses if slow else bench.sizes.misses
        with target.object() as path:
            before = sum(map(cpu_seconds, target.pids()))
            measured = bench.client("miss", path, f"how={how}", f"n={number}", f"threads={threads}", f"seed={seed}")
            measured["cpu_us"] = (sum(map(cpu_seconds, target.pids())) - before) / measured["n"] * 1e6
        assert measured["resident_before"] == 0, measured
        measured["value"] = measured["rate"] if threads > 1 else measured["quantiles"][100]
        return measured

    return measure


def fio(bench: Bench, target: ObjectTarget, seed: int) -> Sample:
    """Let fio read random pages, as a witness that our own client counts right. It drops the file from the cache."""
    with target.object() as path:
        job = [
            *(needed("fio", "fio"), "--name=miss", f"--filename={path}", "--readonly", "--rw=randread", "--bs=4k"),
            *("--ioengine=psync", "--invalidate=1", f"--number_ios={bench.sizes.misses}", f"--randseed={seed}"),
            "--output-format=json",
        ]
        said = subprocess.run([*bench.placement.prefix(client=True), *job], check=True, capture_output=True, text=True)
    read = json.loads(said.stdout)["jobs"][0]["read"]
    return {"value": read["clat_ns"]["percentile"]["50.000000"] / 1e3, "n": read["total_ios"]}


def sequential(*, keep: bool = False, block_bytes: int = 2**20) -> Measure:
    """Read the object once from its beginning, with or without what the kernel's cache has.

    In small blocks less is read: one request for each would take long.
    """

    def measure(bench: Bench, target: ObjectTarget, seed: int) -> Sample:  # noqa: ARG001 - as every measure
        with target.object() as path:
            measured = bench.client(
                "seq", path, f"keep={int(keep)}", f"bs={block_bytes}", f"most={block_bytes * _MOST_BLOCKS}"
            )
        assert keep or measured["resident_before"] == 0, measured
        measured["value"] = measured["bytes"] / measured["seconds"] / 1e9
        return measured

    return measure


BLOCK_SIZES = tuple(2**power for power in range(12, 21, 2))


def _to_all(measure: Measure, *targets: str) -> dict[str, Measure]:
    return dict.fromkeys(targets, measure)


def reading_in_blocks(block_bytes: int) -> str:
    """Return the name of a workload."""
    return f"sequential, in blocks of {block_bytes // 1024} KiB"


def supplying_in_blocks(block_bytes: int) -> str:
    """Return the name of a workload."""
    return f"supply in blocks of {block_bytes // 1024} KiB"


_SERVERS = ("null", "C null", "nbdkit python", "vmofs present", "vmofs supply", "vmofs aux", "vmofs answers")

_ALL = ("nbdkit curl", "rclone off", "rclone full", "httpdirfs", "fsspec.fuse")

OPEN_JOBS = (
    ("100 random pages, 1 reader", "big.bin", opening.randomly(100, 1), (Way.FAR, Way.LOCAL), ("nbdkit curl",)),
    ("640 random pages, 32 readers", "big.bin", opening.randomly(640, 32), (Way.FAR,), ("nbdkit curl", "rclone full")),
    ("SQLite, 3 rows", "db.sqlite", opening.query, (Way.FAR,), ("nbdkit curl",)),
    ("unzip, list and a member", "m.zip", opening.member, (Way.FAR,), _ALL),
    ("slices of 8 tensors", "w.safetensors", opening.slices, (Way.FAR,), _ALL),
    ("grep", "t.txt", opening.grep, (Way.FAR,), _ALL),
    ("scan of a mapping, 64 MiB", "big.bin", opening.scan, (Way.FAR,), _ALL),
    ("sequential 256 MiB", "big.bin", opening.sequentially, (Way.FAR, Way.LOCAL), ("rclone off",)),
    ("sequential 256 MiB", "big.bin", opening.sequentially, (Way.LIMITED,), ("rclone off", "rclone streams")),
)
"""What is done with an opened file: name, file, job, how far the server is, and peers."""

WORKLOADS = (
    Workload("pread, 1 reader", _to_all(misses(), *_SERVERS)),
    Workload("mmap, 1 reader", _to_all(misses(how="mmap"), "null", "C null", "vmofs present")),
    Workload("pread, 32 readers", _to_all(misses(threads=32), *_SERVERS)),
    Workload("pread, process per miss", _to_all(misses(slow=True), "nbdkit sh", "vmofs bash")),
    Workload("pread by fio", _to_all(fio, "null", "C null", "vmofs present")),
    Workload("sequential, cached", _to_all(sequential(keep=True), "tmpfs", "vmofs cached"), fills=True),
    Workload(
        "sequential, not cached",
        _to_all(sequential(), "null", "C null", "nbdkit python", "vmofs present", "vmofs ahead"),
        fills=True,
    ),
    *(
        Workload(
            f"sequential, not cached, by {size // 1024} KiB",
            _to_all(sequential(block_bytes=size), "null", "vmofs present", "vmofs sparse"),
            fills=True,
        )
        for size in (2**12, 2**14)
    ),
    Workload(
        "supply, aux",
        {"null": supplying.notify_store(2**20), "vmofs supplying": supplying.commands(2**20)},
        fills=True,
    ),
    Workload("holes", {"vmofs supplying": holes.growth}),
    Workload("files", {"tmpfs.py": files.of_example, "vmofs fresh": files.of_vmofs}, most_rounds=3),
    Workload("memory, runs", {"vmofs fresh": memory.in_runs}, most_rounds=2),
    Workload("memory, random order", {"vmofs fresh": memory.in_random_order}, most_rounds=2),
    Workload("start", {"vmofs fresh": files.start}),
    *(
        Workload(f"open: {what}, {way}", _to_all(opening.measure(name, job, way), "vmofs open", *peers), most_rounds=3)
        for what, name, job, ways, peers in OPEN_JOBS
        for way in ways
    ),
    Workload("open: first byte", _to_all(opening.first_byte, "vmofs open", "vmofs open, mounted")),
    Workload("open: SQLite again", {"vmofs open, cached": opening.again("db.sqlite", opening.query, Way.FAR)}),
)

IN_BLOCKS = (
    *(
        Workload(
            reading_in_blocks(size),
            _to_all(sequential(block_bytes=size), "null", "C null", "vmofs present"),
            most_rounds=3,
            fills=True,
        )
        for size in BLOCK_SIZES
    ),
    *(
        Workload(
            supplying_in_blocks(size),
            {"null": supplying.notify_store(size), "vmofs supplying": supplying.writes(size)},
            most_rounds=3,
            fills=True,
        )
        for size in BLOCK_SIZES
    ),
)
