"""What people do with a file that lies on a web server: how long it takes, and what is asked of the server."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import struct
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from tools.benchmarks.open_targets import OpenTarget, VmofsOpen
from tools.benchmarks.targets import Bench
from tools.benchmarks.web import LAYER_BYTES, LAYERS, Way, lines_of, members_of, rows_of

_PAGE = 4096
_SEQUENTIAL_BYTES = 2**28
_SCANNED_BYTES = 2**26
_MOST_SECONDS = 60

Job = Callable[[Path, Path, int, float], int]
"""Called with the file to read, the file as it is, a seed, and the share of the job that is to be done.

It checks what it reads, and returns how much that is.

Raises:
    RuntimeError: something was wrong.
"""


def measure(name: str, job: Job, way: Way) -> Callable[[Bench, OpenTarget, int], dict[str, Any]]:
    """Do a job with a file of the server. The value is the seconds."""

    def sample(bench: Bench, target: OpenTarget, seed: int) -> dict[str, Any]:
        with target.opened(bench, way, name) as path:
            since = target.web.log_bytes
            began = time.perf_counter()
            wanted = job(path, target.web.files / name, seed, bench.sizes.web_share)
            seconds = time.perf_counter() - began
        return _sample(target, name, since, seconds, wanted)

    return sample


def again(name: str, job: Job, way: Way) -> Callable[[Bench, OpenTarget, int], dict[str, Any]]:
    """Do a job, open the file anew, and do it again: that is what counts, with the requests of opening."""

    def sample(bench: Bench, target: OpenTarget, seed: int) -> dict[str, Any]:
        with target.opened(bench, way, name) as path:
            job(path, target.web.files / name, seed, bench.sizes.web_share)
        since = target.web.log_bytes
        with target.opened(bench, way, name) as path:
            began = time.perf_counter()
            wanted = job(path, target.web.files / name, seed, bench.sizes.web_share)
            seconds = time.perf_counter() - began
        return _sample(target, name, since, seconds, wanted)

    return sample


def first_byte(bench: Bench, target: VmofsOpen, seed: int) -> dict[str, Any]:
    """Open a large file and read a page in its middle. The value is the seconds of both."""
    with target.opened(bench, Way.LOCAL, "big.bin") as path:
        since = target.web.log_bytes
        wanted = _pages(path, target.web.files / "big.bin", [seed])
        seconds = time.perf_counter() - target.began
    return _sample(target, "big.bin", since, seconds, wanted)


def _sample(target: OpenTarget, name: str, since: int, seconds: float, wanted: int) -> dict[str, Any]:
    requests, size_bytes = target.web.traffic(since)
    return {
        "value": seconds,
        "rate": wanted / seconds / 1e9,
        "requests": requests,
        "fetched": size_bytes,
        "of_wanted": size_bytes / wanted,
        "of_file": size_bytes / (target.web.files / name).stat().st_size,
    }


def randomly(count: int, threads: int) -> Job:
    """Read random pages."""

    def job(path: Path, source: Path, seed: int, share: float) -> int:
        chance = random.Random(seed)  # noqa: S311
        numbers = [chance.randrange(source.stat().st_size // _PAGE) for _ in range(int(count * share))]
        with ThreadPoolExecutor(threads) as pool:
            parts = [numbers[n::threads] for n in range(threads)]
            return sum(pool.map(lambda part: _pages(path, source, part), parts))

    return job


def _pages(path: Path, source: Path, numbers: list[int]) -> int:
    with path.open("rb", buffering=0) as file, source.open("rb", buffering=0) as right:
        for number in numbers:
            data = os.pread(file.fileno(), _PAGE, number * _PAGE)
            if data != os.pread(right.fileno(), _PAGE, number * _PAGE):
                raise RuntimeError(f"page {number} is wrong")
    return len(numbers) * _PAGE


def sequentially(path: Path, source: Path, seed: int, share: float) -> int:  # noqa: ARG001 - as every job
    """Read 256 MiB from the beginning, or all, or for a minute."""
    done, end = 0, time.monotonic() + _MOST_SECONDS
    with path.open("rb", buffering=0) as file, source.open("rb", buffering=0) as right:
        while done < _SEQUENTIAL_BYTES * share and time.monotonic() < end:
            data = file.read(2**20)
            if not data:
                break
            if data != right.read(len(data)):
                raise RuntimeError(f"what stands at {done} is wrong")
            done += len(data)
    return done


def scan(path: Path, source: Path, seed: int, share: float) -> int:  # noqa: ARG001 - as every job
    """Touch each page of 64 MiB of a mapping."""
    size = int(_SCANNED_BYTES * share)
    with path.open("rb") as file, closing(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)) as mapped:
        found = mapped[0:size:_PAGE]
    with source.open("rb") as file, closing(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)) as mapped:
        if found != mapped[0:size:_PAGE]:
            raise RuntimeError("something is wrong in the mapping")
    return size


def query(path: Path, source: Path, seed: int, share: float) -> int:
    """Look three rows up in a database."""
    keys = ", ".join(f"'key{(seed * 7919 + n * 31357) % rows_of(share):08}'" for n in range(3))
    sentence = f"SELECT k, v FROM t WHERE k IN ({keys})"  # noqa: S608 - the numbers are ours
    return _same(["sqlite3", "file:{}?immutable=1", sentence], path, source)


def member(path: Path, source: Path, seed: int, share: float) -> int:
    """List a zip, and read one of its members."""
    listed = _same(["unzip", "-l", "{}"], path, source, without_head=True)
    return listed + _same(["unzip", "-p", "{}", f"dir/text{seed % members_of(share)}.txt"], path, source)


def grep(path: Path, source: Path, seed: int, share: float) -> int:  # noqa: ARG001 - as every job
    """Find lines near the end of a text."""
    _same(["grep", "-c", f"line {lines_of(share) // 10 - 1}[0-9] ", "{}"], path, source)
    return source.stat().st_size


def _same(command: list[str], path: Path, source: Path, *, without_head: bool = False) -> int:
    outputs = []
    for file in (path, source):
        words = [word.replace("{}", str(file)) for word in command]
        done = subprocess.run(words, capture_output=True, check=True, timeout=_MOST_SECONDS)
        outputs.append(done.stdout.partition(b"\n")[2] if without_head else done.stdout)
    if outputs[0] != outputs[1]:
        raise RuntimeError(f"{command[0]} says {hashlib.sha256(outputs[0]).hexdigest()[:8]} of something else")
    return len(outputs[0])


def slices(path: Path, source: Path, seed: int, share: float) -> int:  # noqa: ARG001 - as every job
    """Read 40 KiB of every second tensor of a safetensors file, through a mapping."""
    with (
        path.open("rb") as file,
        source.open("rb") as right,
        closing(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)) as mapped,
    ):
        (length,) = struct.unpack("<Q", mapped[:8])
        header = json.loads(mapped[8 : 8 + length])
        for number in range(0, LAYERS, 2):
            start = 8 + length + header[f"layer.{number}.weight"]["data_offsets"][0] + LAYER_BYTES // 2
            if mapped[start : start + 10 * _PAGE] != os.pread(right.fileno(), 10 * _PAGE, start):
                raise RuntimeError(f"tensor {number} is wrong")
    return LAYERS // 2 * 10 * _PAGE
