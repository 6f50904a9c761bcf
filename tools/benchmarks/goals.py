"""The table of goals: each row is a measurement, and what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Unit(StrEnum):
    """What a value is counted in."""

    MICROSECONDS = "µs"
    PER_SECOND = "/s"
    GIGABYTES = "GB/s"
    BYTES = "bytes"
    SECONDS = "s"
    TIMES = "times"

    @property
    def less_is_better(self) -> bool:
        """Whether a smaller value is the better one."""
        return self in {Unit.MICROSECONDS, Unit.BYTES, Unit.SECONDS, Unit.TIMES}


@dataclass(frozen=True)
class Goal:
    """A bound: ``factor`` times the value of ``target`` in the same workload and round, or just ``factor`` if None.

    Without ``factor`` it is a comparison, with nothing to be met.
    """

    factor: float | None
    target: str | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table: what ``target`` gave in ``workload``, and its goals; without goals it informs.

    ``field`` is the part of the sample that is meant.
    """

    title: str
    workload: str
    target: str
    unit: Unit
    goals: tuple[Goal, ...] = ()
    field: str = "value"


_US, _RATE, _GBS = Unit.MICROSECONDS, Unit.PER_SECOND, Unit.GIGABYTES

ROWS = (
    Row(
        "present, not cached: random 4 KiB pread, 1 reader",
        *("pread, 1 reader", "vmofs present", _US, (Goal(1.05, "null"), Goal(1.3, "C null"))),
    ),
    Row(
        "present, not cached: random 4 KiB page fault, 1 reader",
        *("mmap, 1 reader", "vmofs present", _US, (Goal(1.05, "null"), Goal(1.3, "C null"))),
    ),
    Row(
        "present, not cached: random 4 KiB pread, 32 readers",
        *("pread, 32 readers", "vmofs present", _RATE, (Goal(1.3, "null"), Goal(0.5, "C null"))),
    ),
    Row(
        "present, not cached: as fio measures it, 1 reader",
        *("pread by fio", "vmofs present", _US, (Goal(None, "null"), Goal(None, "C null"))),
    ),
    Row(
        "sequential read, supplied while open",
        *("sequential, cached", "vmofs cached", _GBS, (Goal(0.95, "tmpfs"),)),
    ),
    Row(
        "sequential read, present, kernel's cache dropped",
        *("sequential, not cached", "vmofs present", _GBS, (Goal(0.9, "C null"),)),
    ),
    *(
        row
        for size in (4, 16)
        for row in (
            Row(
                f"sequential read by {size} KiB, present, kernel's cache dropped",
                *(f"sequential, not cached, by {size} KiB", "vmofs present", _GBS, (Goal(0.8, "null"),)),
            ),
            Row(
                f"sequential read by {size} KiB, every 64th page absent and supplied at once",
                *(f"sequential, not cached, by {size} KiB", "vmofs sparse", _GBS, (Goal(0.4, "null"),)),
            ),
        )
    ),
    Row(
        "miss, Python pager, FIFO and supply/, 1 reader",
        *("pread, 1 reader", "vmofs supply", _US, (Goal(1.0, "nbdkit python"), Goal(2.2, "null"))),
    ),
    Row(
        "miss, Python pager, FIFO and answers, 1 reader",
        *("pread, 1 reader", "vmofs answers", _US, (Goal(0.9, "nbdkit python"),)),
    ),
    Row(
        "miss, Python pager, FIFO and answers, 32 readers",
        *("pread, 32 readers", "vmofs answers", _RATE, (Goal(1.4, "nbdkit python"),)),
    ),
    Row(
        "miss, Python pager, aux and supply_pages, 1 reader",
        *("pread, 1 reader", "vmofs aux", _US, (Goal(3.0, "null"),)),
    ),
    Row(
        "miss, Python pager, aux and supply_pages, 32 readers",
        *("pread, 32 readers", "vmofs aux", _RATE, (Goal(1.0, "nbdkit python"),)),
    ),
    Row(
        "miss, Python pager, FIFO and supply/, 32 readers",
        *("pread, 32 readers", "vmofs supply", _RATE, (Goal(1.0, "nbdkit python"),)),
    ),
    Row(
        "miss, bash pager, one dd per request, 1 reader",
        *("pread, process per miss", "vmofs bash", _US, (Goal(1.0, "nbdkit sh"),)),
    ),
    Row(
        "sequential cold read, Python pager that supplies 1 MiB ahead",
        *("sequential, not cached", "vmofs ahead", _GBS, (Goal(0.8, "null"), Goal(2.0, "nbdkit python"))),
    ),
    Row(
        "supply, 1 MiB commands from aux, file open, until stored",
        *("supply, aux", "vmofs supplying", _GBS, (Goal(0.6, "null"),)),
    ),
    Row(
        "supplied zeros: the 4,000th read of 128 KiB, of the first",
        *("holes", "vmofs supplying", Unit.TIMES, (Goal(1.2),)),
    ),
    Row("create and unlink many VMOs", *("files", "vmofs fresh", _RATE, (Goal(0.5, "tmpfs.py"),))),
    Row("ls -l of many VMOs", *("files", "vmofs fresh", _RATE, (Goal(0.5, "tmpfs.py"),)), "listed_per_second"),
    Row("memory of a VMO", *("files", "vmofs fresh", Unit.BYTES, (Goal(2048),)), "bytes_per_file"),
    Row(
        "memory of a present page beyond the page, supplied in 1 MiB runs",
        *("memory, runs", "vmofs fresh", Unit.BYTES, (Goal(64),)),
    ),
    Row(
        "memory of a present page beyond the page, supplied singly in random order",
        *("memory, random order", "vmofs fresh", Unit.BYTES, (Goal(400),)),
    ),
    Row("start: vmofs mount until it returns", *("start", "vmofs fresh", Unit.SECONDS, (Goal(0.5),))),
)
