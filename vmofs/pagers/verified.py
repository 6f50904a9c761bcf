"""A source whose bytes are compared with a list of digests: for servers that do not show that a file was replaced.

The list is text. Its first line is ``vmofs-digests xxh3 CHUNK SIZE``; then comes a line for each chunk, the XXH3-64 of
its bytes in 16 hex digits. ``vmofs digests FILE`` prints one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xxhash import xxh3_64_intdigest

from vmofs.client import Changed, Data
from vmofs.pagers.source import ExitCode, Refusal, Source

_MAGIC = "vmofs-digests xxh3"
CHUNK = 128 << 10


def digests_of(path: Path, chunk: int = CHUNK) -> Iterator[str]:
    """Yield the lines of a list for a file of this machine.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        yield f"{_MAGIC} {chunk} {path.stat().st_size}"
        while data := file.read(chunk):
            yield f"{xxh3_64_intdigest(data):016x}"


class Verified(Source):
    """A source that gives only bytes that the list knows.

    Raises:
        Refusal: The list cannot be read, or is one of another file.
    """

    def __init__(self, source: Source, path: Path) -> None:
        self._source = source
        self.name, self.size, self.version, self.url = source.name, source.size, source.version, source.url
        try:
            head, *lines = path.read_text(encoding="ascii").splitlines()
            chunk, size = (int(number) for number in head.removeprefix(_MAGIC).split())
            self._digests = [int(line, 16) for line in lines]
        except OSError as error:
            raise Refusal(f"{path}: {error.strerror}", ExitCode.USAGE) from error
        except ValueError as error:
            raise Refusal(f"{path} is no list of digests: {error}", ExitCode.USAGE) from error
        if not head.startswith(_MAGIC) or chunk < 1 or len(self._digests) != -(-size // chunk):
            raise Refusal(f"{path} is no list of digests, or not a whole one: {head!r}", ExitCode.USAGE)
        if size != source.size:
            raise Refusal(f"{source.name} has {source.size} bytes; {path} is of one of {size}", ExitCode.CHANGED)
        self._chunk = chunk

    def read(self, offset: int, length: int) -> Data:
        """Return a range of chunks of which each is what the list says."""
        if not length:
            return b""
        start = offset // self._chunk * self._chunk
        end = min(-(-(offset + length) // self._chunk) * self._chunk, self.size)
        data = memoryview(self._source.read(start, end - start))
        for at in range(0, len(data), self._chunk):
            if xxh3_64_intdigest(data[at : at + self._chunk]) != self._digests[(start + at) // self._chunk]:
                raise Changed(f"the bytes from {start + at} on are not those of the list of digests")
        return data[offset - start : offset - start + length]

    def close(self) -> None:
        """Close what it stands on."""
        self._source.close()
