"""The machine: what runs on which CPU, how busy it is, what a process takes; and the C programs, compiled once."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from enum import StrEnum
from importlib import metadata
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
ROOT = PROGRAMS.parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vmofs-bench"
_BUSY_SHARE = 0.2
_MADV_POPULATE_WRITE = 23  # Python's mmap does not name it


class MissingError(Exception):
    """Something that a measurement needs is not on this machine; the message names it."""


class Placement(StrEnum):
    """Where client and servers run: as the scheduler likes, all on one CPU, or the client on a CPU of its own."""

    FREE = "free"
    SAME = "same"
    CROSS = "cross"

    def prefix(self, *, client: bool) -> list[str]:
        """Return what a command line begins with."""
        if self is Placement.FREE:
            return []
        return ["taskset", "-c", "0" if client or self is Placement.SAME else "1"]


@contextlib.contextmanager
def on_one_cpu() -> Iterator[None]:
    """Keep this thread, and what it starts meanwhile, on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def needed(program: str, package: str) -> str:
    """Return the path of a program.

    Raises:
        MissingError: it is not installed.
    """
    path = shutil.which(program)
    if path is None:
        raise MissingError(f"{program} is not installed (Debian: {package})")
    return path


def compiled(name: str) -> str:
    """Return the path of one of the C programs, compiled if its source is new.

    Raises:
        MissingError: there is no compiler, or no libfuse.
    """
    source = PROGRAMS / f"{name}.c"
    key = hashlib.sha256(source.read_bytes() + (PROGRAMS / "object.h").read_bytes()).hexdigest()[:16]
    binary = CACHE / f"{name}-{key}"
    if not binary.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = binary.with_suffix(f".{os.getpid()}")
        command = [needed("gcc", "gcc"), "-O2", "-Wall", "-Wextra", "-o", str(partial), str(source), "-lpthread"]
        if "fuse" in name:
            flags = subprocess.run(
                ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False
            )
            if flags.returncode:
                raise MissingError("libfuse's headers are not installed (Debian: libfuse3-dev)")
            command += flags.stdout.split()
        subprocess.run(command, check=True)
        partial.rename(binary)
    return str(binary)


def fetched_example(name: str) -> Path:
    """Return the path of one of pyfuse3's examples, from the source package of the version that is installed.

    It is LGPL, so it is no part of this project.

    Raises:
        MissingError: it cannot be fetched.
    """
    version = metadata.version("pyfuse3")
    path = CACHE / f"pyfuse3-{version}-{name}"
    if not path.exists():
        with tempfile.TemporaryDirectory() as directory:
            fetch = [
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--no-binary",
                "pyfuse3",
                f"pyfuse3=={version}",
                "-d",
                directory,
            ]
            if subprocess.run([sys.executable, "-m", *fetch], check=False, capture_output=True).returncode:
                raise MissingError("pip could not download the source of pyfuse3")
            (package,) = Path(directory).glob("*.tar.gz")
            with tarfile.open(package) as archive:
                file = archive.extractfile(f"pyfuse3-{version}/examples/{name}")
                assert file is not None
                CACHE.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file.read())
    return path


def _cpu_ticks() -> tuple[int, int]:
    numbers = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(numbers), numbers[3] + numbers[4]


def wait_quiet(patience_seconds: float) -> float:
    """Wait until the machine is at most 20 % busy, but not longer than that; return how busy it was last."""
    deadline = time.monotonic() + patience_seconds
    while True:
        total, idle = _cpu_ticks()
        time.sleep(0.05 if patience_seconds == 0 else 0.15)
        later_total, later_idle = _cpu_ticks()
        busy = 1 - (later_idle - idle) / max(later_total - total, 1)
        if busy <= _BUSY_SHARE or time.monotonic() >= deadline:
            return round(busy, 3)


def warm_memory(size_bytes: int) -> None:
    """Touch free memory and give it back, so that the next to touch it does not wait for a hypervisor.

    A guest that reports its free pages loses them; the first touch of one takes ten times as long then.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, size_bytes, flags=flags) as memory, contextlib.suppress(OSError):  # before Linux 5.14
        memory.madvise(_MADV_POPULATE_WRITE)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no Rss of {pid}")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of the threads of a process that live."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total / 1e9


def available_bytes() -> int:
    """Return how much memory can still be had."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no MemAvailable")


def description() -> dict[str, str]:
    """Return what a reader of figures wants to know of this machine."""
    commit = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "kernel": platform.release(),
        "cpus": str(os.cpu_count()),
        "cpu": next(
            (
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if "model name" in line
            ),
            platform.machine(),
        ),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }
