"""What reads of supplied zeros cost the daemon, which have no memory behind them, when many were read before."""

from __future__ import annotations

import os
from typing import Any

from tools.benchmarks.machine import cpu_seconds
from tools.benchmarks.targets import Bench
from tools.benchmarks.vmofs_targets import Empty

_BLOCK = 2**17
_MOST_READS = 4000
_PARTS = 16
"""Of the reads the first and the last of so many parts are compared: the clock ticks too seldom for a single one."""


def growth(bench: Bench, target: Empty, seed: int) -> dict[str, Any]:
    """Read a hole from its beginning. The value is the daemon's CPU time for the last reads, of that for the first."""
    reads = min(_MOST_READS, bench.sizes.object_bytes // _BLOCK)
    size = reads * _BLOCK
    path = target.mount.create(target.pager, size)
    aux = target.mount.path / "aux" / f"{target.pager.name}-hole-{seed}"
    with aux.open("wb") as hole:
        hole.truncate(size)
    (target.pager / "supply_pages").write_text(f"vmo/{path.name} 0 {size} aux/{aux.name} 0\n")
    aux.unlink()
    part = reads // _PARTS
    at = [0.0] * (reads + 1)
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)  # each read is one READ, whatever the read-ahead
    for number in range(reads):
        if number in {0, part, reads - part}:
            at[number] = sum(map(cpu_seconds, target.pids()))
        assert not any(os.pread(file, _BLOCK, number * _BLOCK))
    at[reads] = sum(map(cpu_seconds, target.pids()))
    os.close(file)
    path.unlink()
    first, last = at[part] - at[0], at[reads] - at[reads - part]
    return {"value": last / first, "cpu_us": last / part * 1e6, "n": reads}
