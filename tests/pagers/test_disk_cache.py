"""The cache on disk: what is in it is right or is not used, whatever has happened to it."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.mounted import vmofs_environment
from tests.support.sources import MemorySource, mixed_bytes
from vmofs.client import Changed, Object
from vmofs.pagers.disk_cache import DiskCache
from vmofs.pagers.sources_pager import SourcesPager
from vmofs.testing import pattern

PAGE = 4096
DATA = mixed_bytes(60 * PAGE + 100)
GENEROUS = 1 << 40


def cached(folder: Path, source: MemorySource, most: int = GENEROUS) -> tuple[DiskCache, Object]:
    cache = DiskCache(SourcesPager({"x": source}), folder, most)
    (obj,) = cache.objects()
    return cache, obj


def test_what_was_read_once_is_not_read_again(tmp_path: Path) -> None:
    source = MemorySource(DATA)
    cache, obj = cached(tmp_path, source)
    assert bytes(cache.read(obj, 0, len(DATA))) == DATA
    cache.close(obj)
    again = MemorySource(DATA)
    cache, obj = cached(tmp_path, again)
    assert bytes(cache.read(obj, 0, len(DATA))) == DATA
    assert (again.reads, cache.misses, cache.hits) == (0, 0, 61)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 61)), max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_any_ranges_in_any_order_are_right(ranges: list[tuple[int, int]], numbers: random.Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = MemorySource(DATA)
        cache, obj = cached(Path(folder), source)
        known: set[int] = set()
        for first, count in ranges:
            start, end = first * PAGE, min((first + count) * PAGE, len(DATA))
            before = source.bytes_read
            assert bytes(cache.read(obj, start, end - start)) == DATA[start:end]
            pages = set(range(first, -(-end // PAGE)))
            assert source.bytes_read - before == sum(min(PAGE, len(DATA) - page * PAGE) for page in pages - known)
            known |= pages
            if numbers.random() < 0.2:
                cache.close(obj)
                cache, obj = cached(Path(folder), source)


@pytest.mark.parametrize("suffix", [".data", ".map"])
def test_what_was_damaged_is_read_anew(tmp_path: Path, suffix: str) -> None:
    cache, obj = cached(tmp_path, MemorySource(DATA))
    cache.read(obj, 0, len(DATA))
    cache.close(obj)
    (path,) = tmp_path.glob(f"*{suffix}")
    damaged = bytearray(path.read_bytes())
    for at in range(5, len(damaged), len(damaged) // 7):
        damaged[at] ^= 0x40
    path.write_bytes(damaged)
    source = MemorySource(DATA)
    cache, obj = cached(tmp_path, source)
    assert bytes(cache.read(obj, 0, len(DATA))) == DATA
    assert 0 < source.bytes_read <= 8 * PAGE
    assert bytes(cache.read(obj, 0, len(DATA))) == DATA
    assert source.bytes_read <= 8 * PAGE


def test_what_was_cut_off_is_read_anew(tmp_path: Path) -> None:
    cache, obj = cached(tmp_path, MemorySource(DATA))
    cache.read(obj, 0, len(DATA))
    for suffix in (".data", ".map"):
        (path,) = tmp_path.glob(f"*{suffix}")
        os.truncate(path, path.stat().st_size // 2)
        assert bytes(cache.read(obj, 0, len(DATA))) == DATA


def test_another_version_is_another_object(tmp_path: Path) -> None:
    cache, obj = cached(tmp_path, MemorySource(DATA, version="1"))
    cache.read(obj, 0, PAGE)
    other = DATA[::-1]
    cache, obj = cached(tmp_path, MemorySource(other, version="2"))
    assert bytes(cache.read(obj, 0, PAGE)) == other[:PAGE]


def test_what_has_no_version_is_not_kept(tmp_path: Path) -> None:
    source = MemorySource(DATA, version=None)
    cache, obj = cached(tmp_path, source)
    for _ in range(2):
        assert bytes(cache.read(obj, 0, PAGE)) == DATA[:PAGE]
    assert source.reads == 2


def test_a_failure_is_not_kept_and_what_is_there_goes_on(tmp_path: Path) -> None:
    source = MemorySource(DATA)
    cache, obj = cached(tmp_path, source)
    cache.read(obj, 0, 2 * PAGE)
    source.failure = Changed("replaced")
    assert bytes(cache.read(obj, PAGE, PAGE)) == DATA[PAGE : 2 * PAGE]
    with pytest.raises(Changed):
        cache.read(obj, PAGE, 2 * PAGE)


def test_what_was_not_used_for_the_longest_time_goes_first(tmp_path: Path) -> None:
    size = 64 * PAGE
    for number in range(4):
        source = MemorySource(DATA.ljust(size, b"x")[:size], f"{number}")
        cache, obj = cached(tmp_path, source, most=3 * size)
        cache.read(obj, 0, size)
        cache.close(obj)
        (path,) = (path for path in tmp_path.glob("*.map") if path.stat().st_mtime > 1000)
        os.utime(path, (number, number))
    cache, obj = cached(tmp_path, MemorySource(bytes(PAGE), "new"), most=3 * size)
    cache.read(obj, 0, PAGE)
    assert sorted(int(path.stat().st_mtime) for path in tmp_path.glob("*.map"))[:2] == [2, 3]


def test_an_object_that_is_larger_than_the_cache_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmofs.pagers.disk_cache._LOOK_AFTER_BYTES", 4 * PAGE)
    cache, obj = cached(tmp_path, MemorySource(DATA), most=10 * PAGE)
    for _ in range(2):
        for page in range(60):
            assert bytes(cache.read(obj, page * PAGE, PAGE)) == DATA[page * PAGE : (page + 1) * PAGE]
        assert sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir()) < 30 * PAGE


def test_a_full_disk_is_no_failure(tmp_path: Path) -> None:
    source = MemorySource(DATA)
    cache, obj = cached(tmp_path, source)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * PAGE + 77, before[1]))
    try:
        for _ in range(2):
            assert bytes(cache.read(obj, 0, len(DATA))) == DATA
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert bytes(cache.read(obj, 0, len(DATA))) == DATA


def test_a_directory_that_cannot_be_written_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "bad disk")

    cache, obj = cached(tmp_path, MemorySource(DATA))
    cache.read(obj, 0, PAGE)
    monkeypatch.setattr(os, "pread", refuse)
    monkeypatch.setattr(os, "pwrite", refuse)
    assert bytes(cache.read(obj, 0, 2 * PAGE)) == DATA[: 2 * PAGE]


_WRITER = """
import sys
from pathlib import Path
from vmofs.pagers.disk_cache import DiskCache
from vmofs.pagers.pattern_file import PatternFile
from vmofs.pagers.sources_pager import SourcesPager
cache = DiskCache(SourcesPager({"x": PatternFile(8 << 20, 1 << 40)}), Path(sys.argv[1]), 1 << 40)
(obj,) = cache.objects()
print(flush=True)
while True:
    for path in Path(sys.argv[1]).glob("*.map"):
        path.write_bytes(b"")
    for at in range(0, 8 << 20, 64 << 10):
        cache.read(obj, at, 64 << 10)
"""


def test_whoever_is_killed_leaves_nothing_wrong_behind(tmp_path: Path) -> None:
    numbers = random.Random(1)  # noqa: S311 - when to kill
    for _ in range(5):
        command = [sys.executable, "-c", _WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=vmofs_environment()) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(numbers.random() * 0.1)
            process.kill()
        source = MemorySource(pattern.make(1 << 40, 0, 8 << 20), "x", f"{1 << 40:#x}")
        source.url = f"pattern:{8 << 20}"
        cache, obj = cached(tmp_path, source)
        for at in range(0, 8 << 20, 1 << 20):
            pattern.check(bytes(cache.read(obj, at, 1 << 20)), 1 << 40, at)
