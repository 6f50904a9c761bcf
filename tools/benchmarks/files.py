"""What files cost that nobody reads: making, listing and removing many; and mounting."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tools.benchmarks.machine import resident_bytes
from tools.benchmarks.peers import TmpfsExample
from tools.benchmarks.targets import Bench
from tools.benchmarks.vmofs_targets import Fresh

_STARTS = 3
_WARM_FILES = 50  # made before memory is looked at: code that runs for the first time takes some


def of_example(bench: Bench, target: TmpfsExample, seed: int) -> dict[str, Any]:  # noqa: ARG001 - as every measure
    """Make files as any program does."""

    def create(path: Path) -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))

    with target.mounted(bench) as path:
        return _make_list_remove(path, bench.sizes.peer_files, create)


def of_vmofs(bench: Bench, target: Fresh, seed: int) -> dict[str, Any]:  # noqa: ARG001 - as every measure
    """Make VMOs, with a write for each."""
    with target.mounted(bench) as mount:
        pager = mount.make_pager()
        command = os.open(pager / "create_vmo", os.O_WRONLY)
        after = [0]

        def create(path: Path) -> None:
            os.write(command, f"vmo/{path.name} 4096\n".encode())

        def listed() -> None:
            after[0] = resident_bytes(mount.pid)

        try:
            _make_list_remove(mount.path / "vmo", _WARM_FILES, create)
            before = resident_bytes(mount.pid)
            sample = _make_list_remove(mount.path / "vmo", bench.sizes.files, create, listed)
        finally:
            os.close(command)
        return {**sample, "bytes_per_file": (after[0] - before) / bench.sizes.files}


def _make_list_remove(
    directory: Path, number: int, create: Callable[[Path], None], listed: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    paths = [directory / f"file{index}" for index in range(number)]
    began = time.monotonic()
    for path in paths:
        create(path)
    made = time.monotonic()
    text = subprocess.run(["ls", "-l", directory], check=True, capture_output=True).stdout
    shown = time.monotonic()
    assert text.count(b"\n") == number + 1
    listed()
    removing = time.monotonic()
    for path in paths:
        path.unlink()
    removed = time.monotonic()
    return {
        "value": number / (made - began + removed - removing),
        "listed_per_second": number / (shown - made),
        "made_per_second": number / (made - began),
        "removed_per_second": number / (removed - removing),
    }


def start(bench: Bench, target: Fresh, seed: int) -> dict[str, Any]:  # noqa: ARG001 - as every measure
    """Mount until the command returns, and unmount. Python may keep bytecode, as it does for users."""
    seconds = []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(_STARTS):
        path = bench.new_directory()
        began = time.monotonic()
        try:
            subprocess.run(target.vmofs.mount_command(path), check=True, capture_output=True, env=environment)
            seconds.append(time.monotonic() - began)
            assert (path / "control").is_dir()
        finally:
            with suppress(subprocess.CalledProcessError):
                subprocess.run([target.vmofs.program, "umount", path], check=True, capture_output=True)
    return {"value": sorted(seconds)[_STARTS // 2], "seconds": seconds}
