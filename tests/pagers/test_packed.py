"""Sources that stand on another one: compressed files, and members of archives, compared with what was packed."""

from __future__ import annotations

import gc
import gzip
import io
import lzma
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import pyzstd
from xxhash import xxh64_intdigest

from tests.support.sources import MemorySource, check_ranges, mixed_bytes, tar_of, zip_of
from vmofs.client import Changed, Retry, Unavailable
from vmofs.pagers.archive_members import TarMembers, ZipMembers, member_name, members_of
from vmofs.pagers.deflate_stream import DeflateStream
from vmofs.pagers.source import ExitCode, Refusal, Source
from vmofs.pagers.xz_blocks import XzBlocks
from vmofs.pagers.zstd_frames import ZstdFrames

DATA = mixed_bytes(3_000_001)


def seekable_zstd(data: bytes, frame: int = 200_000, *, checksum: bool = False) -> bytes:
    packed = io.BytesIO()
    options: dict[int, int] = {pyzstd.CParameter.checksumFlag: int(checksum)}
    with pyzstd.SeekableZstdFile(packed, "w", level_or_option=options, max_frame_content_size=frame) as file:
        file.write(data)
    return packed.getvalue()


def with_checksums(packed: bytes, data: bytes, frame: int = 200_000) -> bytes:
    """Return the file with a table that has checksums, as the format allows and no writer here can do."""
    count = -(-len(data) // frame)
    start = len(packed) - 9 - 8 * count
    entries = [
        packed[start + 8 * n :][:8] + (xxh64_intdigest(data[n * frame :][:frame]) & 0xFFFFFFFF).to_bytes(4, "little")
        for n in range(count)
    ]
    table = b"".join(entries) + struct.pack("<IBI", count, 0x80, 0x8F92EAB1)
    return packed[: start - 8] + struct.pack("<II", 0x184D2A5E, len(table)) + table


def xz_of_blocks(data: bytes, block: str = "300KiB") -> bytes:
    return subprocess.run(["xz", "-1c", f"--block-size={block}"], input=data, capture_output=True, check=True).stdout


def zst(source: Source, _: Path) -> Source:
    return ZstdFrames(source)


def gz(source: Source, folder: Path) -> Source:
    return DeflateStream(source, "data", folder)


def blocks(source: Source, _: Path) -> Source:
    return XzBlocks(source)


def zipped(source: Source, folder: Path) -> Source:
    return ZipMembers(source, folder).open("a/data")


def tarred(source: Source, folder: Path) -> Source:
    return TarMembers(source, folder).open("a/data")


MEMBERS = {"first": b"1" * 700, "a/data": DATA, "last": b"3" * 70_000}
KINDS: dict[str, tuple[bytes, Callable[[Source, Path], Source]]] = {
    "zst": (seekable_zstd(DATA), zst),
    "gz": (gzip.compress(DATA, 1), gz),
    "gz of members": (gzip.compress(DATA[:1_000_000], 1) + gzip.compress(DATA[1_000_000:], 1), gz),
    "xz": (xz_of_blocks(DATA), blocks),
    "zip": (zip_of(MEMBERS), zipped),
    "zip, stored": (zip_of(MEMBERS, zipfile.ZIP_STORED), zipped),
    "tar": (tar_of(MEMBERS), tarred),
    "tar of old": (tar_of(MEMBERS, tarfile.GNU_FORMAT), tarred),
}


@pytest.fixture(params=KINDS, ids=lambda kind: kind.replace(" ", "-"))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_range_is_what_was_packed(kind: str, tmp_path: Path) -> None:
    packed, opener = KINDS[kind]
    source = opener(MemorySource(packed), tmp_path)
    check_ranges(source, DATA)
    assert source.version == "1"


def test_a_failure_below_is_told_as_it_is_and_heals(kind: str, tmp_path: Path) -> None:
    packed, opener = KINDS[kind]
    opener(MemorySource(packed), tmp_path)  # makes an index, if it needs one: rapidgzip keeps what it reads for it
    below = MemorySource(packed)
    source = opener(below, tmp_path)
    below.failure = Unavailable("the server answers 418")
    with pytest.raises(Unavailable, match="418"):
        source.read(1_500_000, 700_000)
    below.failure = Changed("replaced")
    with pytest.raises(Changed, match="replaced"):
        source.read(600_000, 700_000)
    below.failure = None
    gc.collect()  # what a failed read has left behind takes nothing away
    check_ranges(source, DATA, 5)
    gc.collect()
    check_ranges(source, DATA, 1)


def test_a_failure_below_while_it_is_opened_is_told_as_it_is(kind: str, tmp_path: Path) -> None:
    packed, opener = KINDS[kind]
    below = MemorySource(packed)
    below.failure = Changed("replaced")
    with pytest.raises(Changed, match="replaced"):
        opener(below, tmp_path)


@pytest.mark.parametrize("kind", ["zst", "xz", "zip, stored", "tar"])
def test_one_page_costs_little_of_the_source(kind: str, tmp_path: Path) -> None:
    packed, opener = KINDS[kind]
    below = MemorySource(packed)
    source = opener(below, tmp_path)
    source.read(1_600_000, 4096)
    assert below.bytes_read < 500_000


@pytest.mark.parametrize("cut", [1, 100, 50_000, 2_000_000])
def test_a_file_that_was_cut_off_is_never_read_as_another(kind: str, tmp_path: Path, cut: int) -> None:
    packed, opener = KINDS[kind]
    below = MemorySource(packed[:-cut])
    try:
        source = opener(below, tmp_path)
        data = bytes(source.read(0, source.size))
    except (Refusal, Unavailable):
        return
    assert data == DATA, "the end of the archive was not needed for it"


def test_plain_zstd_is_refused_and_says_what_to_do() -> None:
    with pytest.raises(Refusal, match="t2sz"):
        ZstdFrames(MemorySource(pyzstd.compress(DATA), "x.zst"))
    with pytest.raises(Refusal):
        ZstdFrames(MemorySource(b"", "x.zst"))


def test_a_frame_that_is_damaged_is_no_bytes() -> None:
    packed = bytearray(seekable_zstd(DATA, checksum=True))
    packed[300_000] ^= 1
    source = ZstdFrames(MemorySource(bytes(packed), "x.zst"))
    wrong = 0
    for offset in range(0, len(DATA) - 4096, 4096):
        try:
            assert source.read(offset, 4096) == DATA[offset : offset + 4096]
        except Unavailable:
            wrong += 1
    assert 0 < wrong < 200


def test_checksums_in_the_table_of_frames_are_compared() -> None:
    packed = bytearray(with_checksums(seekable_zstd(DATA), DATA))
    check_ranges(ZstdFrames(MemorySource(bytes(packed), "x.zst")), DATA, 3)
    packed[300_000] ^= 1
    with pytest.raises(Unavailable, match="checksum"):
        ZstdFrames(MemorySource(bytes(packed), "x.zst")).read(0, len(DATA))


def test_one_large_block_of_xz_is_refused_and_says_what_to_do() -> None:
    with pytest.raises(Refusal, match="block-size"):
        XzBlocks(MemorySource(lzma.compress(bytes(17 << 20), preset=0), "x.xz"))
    check_ranges(XzBlocks(MemorySource(lzma.compress(DATA, preset=0), "x.xz")), DATA, 3)


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(DATA, 1))
    packed[len(packed) // 2] ^= 1
    with pytest.raises(Refusal):
        DeflateStream(MemorySource(bytes(packed)), "x", tmp_path)


def test_an_index_is_kept_for_its_version_only(tmp_path: Path) -> None:
    packed = gzip.compress(DATA, 1)
    DeflateStream(MemorySource(packed), "x", tmp_path)
    again = MemorySource(packed)
    DeflateStream(again, "x", tmp_path)
    assert again.bytes_read < len(packed) // 4
    other = MemorySource(packed, version="2")
    DeflateStream(other, "x", tmp_path)
    assert other.bytes_read >= len(packed)
    nameless = MemorySource(packed, version=None)
    DeflateStream(nameless, "x", tmp_path)
    assert nameless.bytes_read >= len(packed)
    for file in tmp_path.iterdir():
        file.write_bytes(b"damaged")
    check_ranges(DeflateStream(MemorySource(packed), "x", tmp_path), DATA, 3)


def test_a_large_deflated_member_has_an_index(tmp_path: Path) -> None:
    data = mixed_bytes(17 << 20)
    packed = zip_of({"large": data, "small": b"x"})
    check_ranges(ZipMembers(MemorySource(packed), tmp_path).open("large"), data, 3)
    below = MemorySource(packed)
    source = ZipMembers(below, tmp_path).open("large")
    assert bytes(source.read(9 << 20, 4096)) == data[9 << 20 : (9 << 20) + 4096]
    assert below.bytes_read < len(packed) // 2


def test_members_that_cannot_be_served_say_why(tmp_path: Path) -> None:
    members = ZipMembers(MemorySource(zip_of({"a": b"x" * 5000}, zipfile.ZIP_LZMA), "z.zip"), tmp_path)
    with pytest.raises(Refusal, match="lzma"):
        members.open("a")
    with pytest.raises(Refusal, match="no member") as refused:
        members.open("b")
    assert refused.value.code == ExitCode.NOT_FOUND
    with pytest.raises(Refusal, match="neither"):
        members_of(MemorySource(DATA), tmp_path)
    assert isinstance(members_of(MemorySource(zip_of({})), tmp_path), ZipMembers)
    assert isinstance(members_of(MemorySource(tar_of(MEMBERS)), tmp_path), TarMembers)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a/./b", "a/b"), ("/etc/passwd", "etc/passwd"), ("../a", None), ("a/../../b", None), ("", None), ("./x", "x")],
)
def test_a_name_does_not_lead_out_of_the_archive(name: str, shown: str | None) -> None:
    assert member_name(name) == shown


def test_where_the_members_of_a_tar_are_is_kept(tmp_path: Path) -> None:
    packed = tar_of({f"{n}": bytes(70_000) for n in range(20)})
    assert list(TarMembers(MemorySource(packed), tmp_path)) == [f"{n}" for n in range(20)]
    again = MemorySource(packed)
    assert TarMembers(again, tmp_path).open("7").size == 70_000
    assert again.bytes_read == 0


def test_a_moment_of_trouble_below_is_waited_for_while_it_is_opened(tmp_path: Path) -> None:
    class Stumbling(MemorySource):
        def read(self, offset: int, length: int) -> bytes:
            self.failure = Retry("503") if self.reads % 2 == 0 and self.failure is None else None
            if self.failure is not None:
                self.reads += 1
            return super().read(offset, length)

    assert TarMembers(Stumbling(tar_of(MEMBERS)), tmp_path).open("last").size == 70_000
