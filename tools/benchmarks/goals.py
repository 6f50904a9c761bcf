"""The table of goals: each row is a measurement, and what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tools.benchmarks.web import Way


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

_S = Unit.SECONDS
_PEERS = ("nbdkit curl", "rclone off", "rclone full", "httpdirfs", "fsspec.fuse")


def _open_row(what: str, way: Way, *goals: Goal, field: str = "value", unit: Unit = _S, said: str = "") -> Row:
    title = f"open: {what}, {way}"
    return Row(title + said, title, "vmofs open", unit, goals, field)


def _best(factor: float) -> tuple[Goal, ...]:
    return tuple(Goal(factor, peer) for peer in _PEERS)


_OPEN_ROWS = (
    _open_row("100 random pages, 1 reader", Way.FAR, Goal(1.05, "nbdkit curl")),
    _open_row(
        "100 random pages, 1 reader",
        Way.FAR,
        Goal(32),
        field="of_wanted",
        unit=Unit.TIMES,
        said=": fetched, of what was wanted",
    ),
    _open_row("100 random pages, 1 reader", Way.LOCAL, Goal(1.5, "nbdkit curl")),
    _open_row("640 random pages, 32 readers", Way.FAR, Goal(0.48), Goal(0.1, "nbdkit curl"), Goal(0.4, "rclone full")),
    _open_row("SQLite, 3 rows", Way.FAR, Goal(1.05, "nbdkit curl")),
    _open_row("SQLite, 3 rows", Way.FAR, Goal(0.02), field="of_file", unit=Unit.TIMES, said=": fetched, of the file"),
    *(
        row
        for what in ("unzip, list and a member", "slices of 8 tensors", "grep", "scan of a mapping, 64 MiB")
        for row in (
            _open_row(what, Way.FAR, *_best(1.1)),
            _open_row(what, Way.FAR, Goal(0.5, "rclone full"), field="fetched", unit=Unit.BYTES, said=": fetched"),
        )
    ),
    _open_row("sequential 256 MiB", Way.FAR, Goal(0.95, "rclone off"), field="rate", unit=_GBS),
    _open_row(
        "sequential 256 MiB",
        Way.LIMITED,
        Goal(4, "rclone off"),
        Goal(0.9, "rclone streams"),
        field="rate",
        unit=_GBS,
    ),
    _open_row("sequential 256 MiB", Way.LOCAL, Goal(0.95, "rclone off"), field="rate", unit=_GBS),
    Row("open: first byte, nothing running", "open: first byte", "vmofs open", _S, (Goal(0.35),)),
    Row("open: first byte, mount there", "open: first byte", "vmofs open, mounted", _S, (Goal(0.06),)),
    Row("open: SQLite again, from the disk cache", "open: SQLite again", "vmofs open, cached", _S),
    Row(
        "open: SQLite again, from the disk cache: requests, with those of opening",
        *("open: SQLite again", "vmofs open, cached", Unit.TIMES, (Goal(1),), "requests"),
    ),
)

ROWS = (
    Row(
        "present, not cached: random 4 KiB pread, 1 reader",
        *("pread, 1 reader", "vmofs present", _US, (Goal(1.05, "null"), Goal(1.45, "C null"))),
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
        *("pread, 1 reader", "vmofs supply", _US, (Goal(0.9, "nbdkit python"), Goal(2.2, "null"))),
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
        *("pread, 32 readers", "vmofs supply", _RATE, (Goal(0.85, "nbdkit python"),)),
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
    *_OPEN_ROWS,
)
