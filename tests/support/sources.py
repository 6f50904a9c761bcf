"""Sources for tests of what stands on sources: bytes in memory that count what is read, and can fail."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile

from vmofs.pagers.source import Source


class MemorySource(Source):
    """Bytes; ``failure`` is raised by each read while it is set."""

    def __init__(self, data: bytes, name: str = "data", version: str | None = "1") -> None:
        self.data, self.name, self.size, self.version = data, name, len(data), version
        self.url = f"memory:{name}"
        self.failure: Exception | None = None
        self.bytes_read = self.reads = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return a range; beyond the end it is an error of who asks."""
        if self.failure is not None:
            raise self.failure
        assert 0 <= offset <= offset + length <= self.size, f"{offset}+{length} of {self.size}"
        self.bytes_read, self.reads = self.bytes_read + length, self.reads + 1
        return self.data[offset : offset + length]


def mixed_bytes(size: int, seed: int = 0) -> bytes:
    """Return bytes of which half can be compressed."""
    numbers = random.Random(seed)  # noqa: S311 - test data
    pieces, length = [], 0
    while length < size:
        piece = numbers.randbytes(numbers.randrange(1, 9000))
        pieces += [piece, bytes([numbers.randrange(256)]) * len(piece)]
        length += 2 * len(piece)
    return b"".join(pieces)[:size]


def ranges(size: int, count: int, seed: int = 0) -> list[tuple[int, int]]:
    """Return ranges: both ends, all of it, single bytes, and many in between."""
    numbers = random.Random(seed)  # noqa: S311 - as above
    found = [(0, size), (0, 1), (size - 1, 1), (0, 0), (size, 0)]
    for _ in range(count):
        start = numbers.randrange(size)
        found.append((start, numbers.randrange(1, size - start + 1) if numbers.random() < 0.1 else 1))
        found.append((start // 4096 * 4096, min(4096, size - start // 4096 * 4096)))
    return found


def check_ranges(source: Source, data: bytes, count: int = 40) -> None:
    """Compare ranges of a source with what it should hold."""
    assert source.size == len(data)
    for offset, length in ranges(len(data), count):
        assert bytes(source.read(offset, length)) == data[offset : offset + length], (offset, length)


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip archive of these members."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return packed.getvalue()


def tar_of(members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar archive of these members."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()
