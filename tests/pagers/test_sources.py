"""Files of this machine, of commands, of fsspec; what a URL names; and what libraries see of a source."""

from __future__ import annotations

import io
import os
import re
import sys
import time
from pathlib import Path

import pytest

from tests.support.sources import MemorySource, check_ranges, mixed_bytes, tar_of, zip_of
from vmofs.client import Changed, Object, Retry, Unavailable
from vmofs.pagers.command_output import CommandOutput
from vmofs.pagers.local_files import LocalFile, files_of
from vmofs.pagers.opening import Request, hint, open_sources, parse_size
from vmofs.pagers.pattern_file import PatternFile
from vmofs.pagers.source import ExitCode, KeptPieces, RangeFile, Refusal, Slice, patiently
from vmofs.pagers.sources_pager import SourcesPager
from vmofs.pagers.verified import Verified, digests_of
from vmofs.testing import pattern

DATA = mixed_bytes(50_000)
_NEEDING = {"http_client", "web_file", "bucket_files", "foreign_urls", "deflate_stream", "xz_blocks"}
"""Modules that import a library which may not be there."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def test_a_local_file_is_read_in_ranges(file: Path) -> None:
    check_ranges(LocalFile(file), DATA)


@pytest.mark.parametrize("how", ["replace", "write", "cut", "remove"])
def test_a_local_file_that_changes_is_stale_for_ever(file: Path, how: str) -> None:
    source = LocalFile(file)
    source.read(0, 100)
    if how == "replace":
        other = file.with_name("other")
        other.write_bytes(DATA)
        other.rename(file)
    elif how == "write":
        file.write_bytes(DATA)
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    elif how == "cut":
        os.truncate(file, 10)
    else:
        file.unlink()
    with pytest.raises(Changed):
        source.read(0, 100)
    file.unlink(missing_ok=True)
    file.write_bytes(DATA)
    with pytest.raises(Changed):
        source.read(0, 100)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, code in [("none", ExitCode.NOT_FOUND), ("fifo", ExitCode.CANNOT), (".", ExitCode.CANNOT)]:
        with pytest.raises(Refusal) as refused:
            LocalFile(tmp_path / name)
        assert refused.value.code == code


def test_a_directory_is_its_files(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_bytes(b"c")
    (tmp_path / "d").write_bytes(b"dd")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    assert [(file.name, file.size) for file in files_of(tmp_path)] == [("d", 2), ("a/b/c", 1)]


def test_a_command_is_asked_for_each_range(file: Path) -> None:
    command = f"tail -c +$((OFFSET + 1)) '{file}' | head -c $LENGTH"
    check_ranges(CommandOutput(command, len(DATA), "x"), DATA, 3)


@pytest.mark.parametrize(
    ("command", "kind", "word"),
    [
        ("exit 75", Retry, "75"),
        ("echo no such thing >&2; exit 3", Unavailable, "no such thing"),
        ("echo short", Unavailable, "6 bytes"),
        ("sleep 60 & sleep 60", Unavailable, "did not end"),
        ("head -c 100000 /dev/zero", Unavailable, "100000 bytes"),
    ],
)
def test_a_command_that_fails_says_why(command: str, kind: type[Exception], word: str) -> None:
    began = time.monotonic()
    with pytest.raises(kind, match=word):
        CommandOutput(command, 10_000, "x", 0.3).read(0, 4096)
    assert time.monotonic() - began < 5


def test_a_pattern_is_read_in_ranges() -> None:
    source = PatternFile(100_000, pattern.KEY_STEP)
    check_ranges(source, pattern.make(pattern.KEY_STEP, 0, 100_000), 5)


def test_a_slice_is_a_range_of_the_whole() -> None:
    whole = MemorySource(DATA)
    check_ranges(Slice(whole, "part", 1000, 20_000), DATA[1000:21_000], 5)
    with pytest.raises(Refusal, match="ends at 50000"):
        Slice(whole, "part", 40_000, 20_000)


def test_a_source_as_a_file() -> None:
    source = MemorySource(DATA)
    file = RangeFile(source, 0.0)
    assert file.read() == DATA
    assert file.read(10) == b""
    assert file.seek(-10, io.SEEK_END) == len(DATA) - 10
    assert file.read(100) == DATA[-10:]
    assert file.seek(-20, io.SEEK_CUR) == file.tell() == len(DATA) - 20
    source.failure = Changed("replaced")
    with pytest.raises(OSError, match="replaced"):
        file.read(5)
    with pytest.raises(Changed):
        file.check()
    file.check()


def test_patience_ends() -> None:
    attempts = 0

    def fail() -> None:
        nonlocal attempts
        attempts += 1
        raise Retry("503", after=0.15)

    began = time.monotonic()
    with pytest.raises(Retry):
        patiently(fail, 0.5)
    assert 2 <= attempts <= 4
    assert time.monotonic() - began < 2


def test_pieces_that_were_used_last_are_kept() -> None:
    kept = KeptPieces(10)
    kept.put(1, b"1234")
    kept.put(2, b"1234")
    assert kept.get(1) == b"1234"
    kept.put(3, b"1234")
    assert (kept.get(1), kept.get(2), kept.get(3)) == (b"1234", None, b"1234")
    kept.put(4, bytes(20))
    assert (kept.get(1), kept.get(4)) == (None, bytes(20))
    kept.put(4, b"")
    kept.put(5, bytes(10))
    assert kept.get(4) == b""


def test_sources_are_served_as_a_pager() -> None:
    source = MemorySource(DATA, "a b")
    pager = SourcesPager({"dir/a b": source})
    objects = list(pager.objects())
    assert objects == [Object("dir/a b", len(DATA), version="1", source="memory:a b")]
    assert pager.read(objects[0], 10, 20) == DATA[10:30]
    pager.close(objects[0])
    pager.close(objects[0])


def request(tmp_path: Path, **flags: object) -> Request:
    return Request(indexes=tmp_path / "indexes", **flags)  # type: ignore[arg-type]


def test_a_url_names_sources(file: Path, tmp_path: Path) -> None:
    (tmp_path / "t/u").mkdir(parents=True)
    (tmp_path / "t/u/v").write_bytes(DATA)
    plain = request(tmp_path)
    for url in (file.as_uri(), str(file), f"local://{file}"):
        (source,) = open_sources(url, plain)
        assert source.name == "file"
        check_ranges(source, DATA, 3)
    for url in ((tmp_path / "t").as_uri() + "/", str(tmp_path / "t")):
        assert [source.name for source in open_sources(url, plain)] == ["u/v"]
    (source,) = open_sources("pattern:64K", plain)
    assert source.size == 65536


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("nowhere/file", ExitCode.NOT_FOUND),
        ("file:///nowhere", ExitCode.NOT_FOUND),
        ("file:///nowhere/", ExitCode.NOT_FOUND),
        ("http://127.0.0.1:9/x/", ExitCode.CANNOT),
        ("http://127.0.0.1:9/x", ExitCode.TEMPORARY),
        ("noscheme://x/y", ExitCode.CANNOT),
        ("local:///nowhere", ExitCode.NOT_FOUND),
        ("pattern:many", ExitCode.USAGE),
    ],
)
def test_a_url_that_cannot_be_opened_says_so(tmp_path: Path, url: str, code: ExitCode) -> None:
    with pytest.raises(Refusal) as refused:
        list(open_sources(url, request(tmp_path)))
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("library", "url", "flags", "extra"),
    [
        ("pycurl", "http://h/x", {}, "vmofs[open]"),
        ("obstore", "s3://b/x", {}, "vmofs[open]"),
        ("fsspec", "ftp://h/x", {}, "vmofs[fsspec]"),
        ("rapidgzip", "pattern:4K", {"as_format": "gz"}, "vmofs[open]"),
        ("xz", "pattern:4K", {"as_format": "xz"}, "vmofs[open]"),
    ],
)
def test_a_library_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: str, url: str, flags: dict[str, str], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for module in [name for name in sys.modules if name.startswith("vmofs.pagers.")]:
        if module.rpartition(".")[2] in _NEEDING:
            monkeypatch.delitem(sys.modules, module)
    with pytest.raises(Refusal, match=re.escape(f"pip install '{extra}'")):
        list(open_sources(url, request(tmp_path, **flags)))


def test_what_is_read_is_compared_with_a_list_of_digests(file: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list"
    listed.write_text("\n".join(digests_of(file, 8192)) + "\n")
    (source,) = open_sources(str(file), request(tmp_path, verify=listed))
    check_ranges(source, DATA, 10)
    damaged = MemorySource(DATA[:20_000] + b"x" + DATA[20_001:])
    verified = Verified(damaged, listed)
    assert verified.read(0, 16_384) == DATA[:16_384]
    with pytest.raises(Changed, match="16384"):
        verified.read(17_000, 10)
    assert verified.read(24_576, 10) == DATA[24_576:24_586]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", ExitCode.USAGE),
        ("vmofs-digests xxh3 4096 5\nxyz", ExitCode.USAGE),
        ("vmofs-digests xxh3 4096 50000\n00", ExitCode.USAGE),
        ("vmofs-digests xxh3 4096 5\n00", ExitCode.CHANGED),
    ],
)
def test_a_list_of_digests_of_another_file_is_refused(tmp_path: Path, text: str, code: ExitCode) -> None:
    listed = tmp_path / "list"
    listed.write_text(text)
    with pytest.raises(Refusal) as refused:
        Verified(MemorySource(DATA), listed)
    assert refused.value.code == code


def test_archives_are_opened_by_member_or_as_a_tree(tmp_path: Path) -> None:
    for name, packed in [("x.zip", zip_of({"a/b": DATA, "c": b"1"})), ("x.tar", tar_of({"a/b": DATA, "c": b"1"}))]:
        (tmp_path / name).write_bytes(packed)
        url = str(tmp_path / name)
        (source,) = open_sources(url, request(tmp_path, member="a/b"))
        check_ranges(source, DATA, 3)
        assert [source.name for source in open_sources(url, request(tmp_path, tree=True))] == ["a/b", "c"]
        (source,) = open_sources(url, request(tmp_path))
        assert "--member" in (hint(source, request(tmp_path)) or "")
        assert hint(source, request(tmp_path, tree=True)) is None


def test_a_fsspec_file_that_is_replaced_is_stale(file: Path, tmp_path: Path) -> None:
    (source,) = open_sources(f"local://{file}", request(tmp_path))
    file.write_bytes(DATA[:-1])
    os.utime(file, (1, 1))
    vars(source)["_looked"] -= 2
    with pytest.raises(Changed):
        source.read(0, 10)
    with pytest.raises(Changed):
        source.read(0, 10)


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("17", 17), ("4k", 4096), ("1.5M", 3 << 19), ("2G", 2 << 30), ("1T", 1 << 40)]
)
def test_sizes_have_suffixes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "-1", "1X", "1.5", "x"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - int and float have sentences of their own
        parse_size(text)
