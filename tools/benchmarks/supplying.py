"""How fast pages get from a pager into the kernel's page cache of an open file."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.benchmarks.machine import compiled
from tools.benchmarks.peers import Null
from tools.benchmarks.targets import ALMOST_ALL, Bench
from tools.benchmarks.vmofs_targets import Empty
from vmofs.units import PAGE_SIZE

_COMMANDS = 16
"""How many a write has."""


def notify_store(block_bytes: int) -> Callable[[Bench, Null, int], dict[str, Any]]:
    """Let the null filesystem store, and do nothing else: the limit."""

    def measure(bench: Bench, target: Null, seed: int) -> dict[str, Any]:  # noqa: ARG001 - as every measure
        size = bench.sizes.supply_bytes
        with target.object() as path, path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            began = time.monotonic()
            (path.parent / "store").write_text(f"0 {size} {block_bytes}")
            seconds = time.monotonic() - began
            seen = bench.client("check", path, size)
            assert seen["resident"] >= ALMOST_ALL * size // PAGE_SIZE, seen
        return {"value": size / seconds / 1e9}

    return measure


def commands(block_bytes: int) -> Callable[[Bench, Empty, int], dict[str, Any]]:
    """Supply from an aux file that is written already, with a write for several commands."""

    def measure(bench: Bench, target: Empty, seed: int) -> dict[str, Any]:
        size = bench.sizes.supply_bytes
        aux = f"aux/{target.pager.name}-{seed}"
        with bench.mapped_source() as data:
            staged = os.open(target.mount.path / aux, os.O_WRONLY | os.O_CREAT, 0o600)
            for offset in range(0, size, block_bytes):
                os.pwrite(staged, data[offset : offset + block_bytes], offset)
        command = os.open(target.pager / "supply_pages", os.O_WRONLY)

        def supply(path: Path) -> None:
            lines = [
                f"vmo/{path.name} {offset} {block_bytes} {aux} {offset}\n" for offset in range(0, size, block_bytes)
            ]
            for first in range(0, len(lines), _COMMANDS):
                text = "".join(lines[first : first + _COMMANDS]).encode()
                while text:  # a write ends when others have their turn
                    text = text[os.write(command, text) :]

        try:
            return _until_stored(bench, target, size, supply)
        finally:
            os.close(command)
            os.close(staged)
            (target.mount.path / aux).unlink()

    return measure


def writes(block_bytes: int) -> Callable[[Bench, Empty, int], dict[str, Any]]:
    """Supply through ``supply/VMO``. Small blocks are measured over less."""

    def measure(bench: Bench, target: Empty, seed: int) -> dict[str, Any]:  # noqa: ARG001 - as every measure
        size = min(bench.sizes.supply_bytes, block_bytes * 2048)

        def supply(path: Path) -> None:
            out = os.open(target.pager / "supply" / "vmo" / path.name, os.O_WRONLY)
            with bench.mapped_source() as data:
                for offset in range(0, size, block_bytes):
                    os.pwrite(out, data[offset : offset + block_bytes], offset)
            os.close(out)

        return _until_stored(bench, target, size, supply)

    return measure


def _until_stored(bench: Bench, target: Empty, size: int, supply: Callable[[Path], None]) -> dict[str, Any]:
    """Supply a new VMO that is open, and count until the last page is in the kernel's cache."""
    path = target.mount.create(target.pager, size)
    watch = [compiled("client"), "resident", str(path), str(size // PAGE_SIZE)]
    with path.open("rb"), subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as watcher:
        began = time.monotonic()
        supply(path)
        accepted = time.monotonic()
        assert watcher.stdout is not None
        seen = json.loads(watcher.stdout.read())
        assert seen["resident"] >= ALMOST_ALL * size // PAGE_SIZE, seen
        bench.client("check", path, size)
    path.unlink()
    return {"value": size / (seen["at"] - began) / 1e9, "accepted_gbs": size / (accepted - began) / 1e9}
