"""Random operations on one file, done to an ordinary file as well, compared byte by byte: what fsx does elsewhere.

Every written word says which operation wrote it, so that a wrong byte tells where it came from. Runs as a program,
``python -m tests.support.fsx`` with a ``Job`` as JSON, since an access through a mapping that fails ends the process.
"""

# ruff: noqa: S311 - nothing here is a secret

from __future__ import annotations

import json
import mmap
import os
import random
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.writing import SharedMapping
from vmofs.units import PAGE_SIZE

BURST = (1, 1, 1, 2, 4, 10)

Hook = Callable[[int, int], object]


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        path: the file under test; it may be renamed to names that begin with its own.
        oracle: an ordinary file with the same content.
        history: where each operation is written to before it is done.
        seed: of the operations.
        operations: how many.
        pages: how long the file may become.
        pager: the control directory of its pager; evicts. Empty: it is an aux file.
        store: the file that must have the content when ``fsync`` has returned; empty: that is not looked at.
    """

    path: str
    oracle: str
    history: str
    seed: int
    operations: int
    pages: int
    pager: str = ""
    store: str = ""


class FsxError(AssertionError):
    """The file is not what the ordinary one is."""


class Fsx:
    """One file under test, and its oracle.

    ``hooks`` are further operations on ranges of whole pages that no content may show; ``zero`` makes whole pages zero.
    """

    def __init__(self, job: Job, hooks: Mapping[str, Hook], zero: Hook) -> None:
        self.counts: Counter[str] = Counter()
        self._job = job
        self._home = self._path = Path(job.path)
        self._random = random.Random(job.seed)
        self._pages = job.pages
        self._limit = job.pages * PAGE_SIZE
        self._number = 0
        self._history = Path(job.history).open("w", encoding="ascii", buffering=1)  # noqa: SIM115 - as long as we live
        self._mapping: SharedMapping
        self._oracle = os.open(job.oracle, os.O_RDWR)
        self._open()
        operations: dict[str, tuple[int, Callable[[], None]]] = {
            "read": (15, self._read),
            "write": (20, self._write),
            "append": (5, self._append),
            "mapped read": (10, self._mapped_read),
            "mapped write": (20, self._mapped_write),
            "direct read": (3, self._direct_read),
            "direct write": (3, self._direct_write),
            "truncate": (10, self._truncate),
            "open O_TRUNC": (1, self._open_truncating),
            "copy range": (3, self._copy_range),
            "rename": (5, self._rename),
            "reopen": (4, self._reopen),
            "fsync": (5, self._fsync),
            "msync": (5, self._msync),
            "drop cache": (5, self._drop_cache),
        }
        operations["zero"] = (5, lambda: self._zero(zero))
        for name, hook in hooks.items():
            operations[name] = (8, lambda hook=hook: self._range(hook))  # type: ignore[misc]
        self._operations = {name: operation for name, (_, operation) in operations.items()}
        self._weights = [weight for weight, _ in operations.values()]

    @property
    def path(self) -> Path:
        """Where the file is now."""
        return self._path

    def run(self) -> None:
        """Do all operations. After each the sizes are compared, after each burst of up to ten all bytes.

        Raises:
            FsxError: something is wrong.
        """
        until_compared = 0
        for number in range(1, self._job.operations + 1):
            self._number = number
            (name,) = self._random.choices(list(self._operations), self._weights)
            self.counts[name] += 1
            self._note(f"\n{number} {name}")
            self._operations[name]()
            self._compare_sizes()
            until_compared -= 1
            if until_compared <= 0:
                self._compare_all()
                until_compared = self._random.choice(BURST)

    def close(self) -> None:
        """Let go of the files."""
        self._mapping.close()
        os.close(self._fd)
        os.close(self._oracle)
        self._history.close()

    def _note(self, text: str) -> None:
        self._history.write(text)
        self._history.flush()

    # What is compared

    @property
    def _size(self) -> int:
        return os.fstat(self._oracle).st_size

    def _compare_sizes(self) -> None:
        for status in (os.fstat(self._fd), self._path.stat()):
            if status.st_size != self._size:
                raise FsxError(f"size {status.st_size} instead of {self._size}")

    def _compare_all(self) -> None:
        ways = {"pread": self._pread, "mmap": self._load, "open": self._read_anew}
        way = self._random.choice(list(ways))
        self._note(f"; all by {way}")
        self._compare(0, self._size, ways[way](0, self._size))

    def _compare(self, offset: int, length: int, found: bytes) -> None:
        expected = os.pread(self._oracle, length, offset)
        if found == expected:
            return
        if len(found) != len(expected):
            raise FsxError(f"{len(found)} bytes instead of {len(expected)}")
        wrong = [at for at in range(len(found)) if found[at] != expected[at]]
        raise FsxError(
            f"bytes {offset + wrong[0]} to {offset + wrong[-1]} are wrong: "
            f"{_origin(found, offset, wrong[0])} instead of {_origin(expected, offset, wrong[0])}"
        )

    # Ways to read

    def _pread(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def _load(self, offset: int, length: int) -> bytes:
        return self._mapping.load(offset, length) if length else b""

    def _read_anew(self, offset: int, length: int) -> bytes:
        with self._path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)

    # Operations

    def _piece(self, within: int) -> tuple[int, int]:
        """Return a random offset and length inside ``within`` bytes; often at page boundaries."""
        if not within:
            return 0, 0
        offset = self._random.randrange(within)
        if self._random.random() < 0.3:
            offset -= offset % PAGE_SIZE
        longest = self._random.choice([16, PAGE_SIZE, 3 * PAGE_SIZE, self._limit])
        length = min(self._random.randint(1, longest), within - offset)
        if self._random.random() < 0.3:
            length = max(length - (offset + length) % PAGE_SIZE, 1)
        self._note(f" {offset}+{length}")
        return offset, length

    def _whole_pages(self) -> tuple[int, int]:
        """Return a range of whole pages inside the file."""
        pages = -(-self._size // PAGE_SIZE)
        if not pages:
            return 0, 0
        first = self._random.randrange(pages)
        offset, length = first * PAGE_SIZE, self._random.randint(1, pages - first) * PAGE_SIZE
        self._note(f" {offset}+{length}")
        return offset, length

    def _bytes(self, offset: int, length: int) -> bytes:
        first, end = offset // 8, -(-(offset + length) // 8)
        words = struct.pack(f"<{end - first}Q", *(self._number << 32 | word for word in range(first, end)))
        return words[offset % 8 :][:length]

    def _read(self) -> None:
        offset, length = self._piece(self._size)
        self._compare(offset, length, self._pread(offset, length))
        beyond = os.pread(self._fd, PAGE_SIZE, self._size)
        if beyond:
            raise FsxError(f"{len(beyond)} bytes behind the end")

    def _mapped_read(self) -> None:
        offset, length = self._piece(self._size)
        self._compare(offset, length, self._load(offset, length))

    def _direct_read(self) -> None:
        offset, length = self._piece(self._size)
        with self._opened(os.O_RDONLY | os.O_DIRECT) as fd, mmap.mmap(-1, max(length, 1)) as buffer:
            self._compare(offset, length, buffer[: os.preadv(fd, [buffer], offset) if length else 0])

    def _write(self) -> None:
        offset, length = self._piece(self._limit)
        self._write_both(self._fd, offset, length)

    def _direct_write(self) -> None:
        offset, length = self._piece(self._limit)
        with self._opened(os.O_RDWR | os.O_DIRECT) as fd:
            self._write_both(fd, offset, length)

    def _append(self) -> None:
        offset = self._size
        length = min(self._random.randint(1, 2 * PAGE_SIZE), self._limit - offset)
        self._note(f" {offset}+{length}")
        with self._opened(os.O_WRONLY | os.O_APPEND) as fd:
            self._write_both(fd, offset, length)

    def _write_both(self, fd: int, offset: int, length: int) -> None:
        data = self._bytes(offset, length)
        if offset + length > self._size:
            self._mapping.msync()  # or Linux may lose a part of it, see lost_append.py
        written = os.pwrite(fd, data, offset)
        if written != length:
            raise FsxError(f"{written} bytes of {length} written")
        os.pwrite(self._oracle, data, offset)

    def _mapped_write(self) -> None:
        offset, length = self._piece(self._limit)
        how = self._random.choice(["stay", "msync", "unmap"])
        self._note(f" {how}")
        if offset + length > self._size:
            self._set_size(offset + length)
        data = self._bytes(offset, length)
        self._mapping.store(offset, data)
        os.pwrite(self._oracle, data, offset)
        if how == "msync":
            self._mapping.msync()
        elif how == "unmap":
            self._mapping.close()
            self._mapping = SharedMapping(self._fd, self._pages)

    def _truncate(self) -> None:
        size = self._random.choice([self._random.randrange(self._limit + 1), self._size // 2, self._size + 1, 0])
        if self._random.random() < 0.3:
            size -= size % PAGE_SIZE
        self._set_size(min(size, self._limit))

    def _set_size(self, size: int) -> None:
        self._note(f" size {self._size} to {size}")
        if self._random.random() < 0.5:
            os.ftruncate(self._fd, size)
        else:
            os.truncate(self._path, size)
        os.ftruncate(self._oracle, size)

    def _open_truncating(self) -> None:
        with self._opened(os.O_RDWR | os.O_TRUNC):
            os.ftruncate(self._oracle, 0)

    def _copy_range(self) -> None:
        source, length = self._piece(self._size)
        target = self._random.randrange(self._limit)
        length = min(length, self._limit - target, abs(target - source))
        self._note(f" {length} to {target}")
        if target + length > self._size:
            self._mapping.msync()  # as before any write that grows the file
        done = 0
        while done < length:
            count = os.copy_file_range(self._fd, self._fd, length - done, source + done, target + done)
            if not count:
                raise FsxError(f"ended after {done}")
            done += count
        os.pwrite(self._oracle, os.pread(self._oracle, length, source), target)

    def _rename(self) -> None:
        self._path = self._path.rename(self._home.with_name(f"{self._home.name}{self._random.randrange(3)}"))

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)
        self._mapping = SharedMapping(self._fd, self._pages)

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        fd = os.open(self._path, flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def _reopen(self) -> None:
        mapping, fd = self._mapping, self._fd
        is_open_meanwhile = self._random.random() < 0.5
        if is_open_meanwhile:
            self._open()
        mapping.close()
        os.close(fd)
        if not is_open_meanwhile:
            self._open()

    def _fsync(self) -> None:
        self._random.choice([os.fsync, os.fdatasync])(self._fd)
        if self._job.store and Path(self._job.store).read_bytes() != os.pread(self._oracle, self._size, 0):
            raise FsxError("the store has not what fsync confirmed")

    def _msync(self) -> None:
        self._mapping.msync()

    def _drop_cache(self) -> None:
        offset, length = self._whole_pages()
        os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)

    def _zero(self, zero: Hook) -> None:
        offset, length = self._whole_pages()
        if length:
            self._mapping.msync()
            zero(offset, length)
            os.pwrite(self._oracle, bytes(min(length, self._size - offset)), offset)

    def _range(self, hook: Hook) -> None:
        offset, length = self._whole_pages()
        if length:
            hook(offset, length)


def _origin(data: bytes, offset: int, at: int) -> str:
    """Say which operation wrote the byte ``at`` of data that begins at ``offset``."""
    start = at - (offset + at) % 8
    word = data[start : start + 8] if start >= 0 else b""
    if len(word) == 8:
        (value,) = struct.unpack("<Q", word)
        if (value & 0xFFFFFFFF) * 8 == offset + start:
            return f"what operation {value >> 32} wrote"
    return f"the bytes {data[at : at + 8].hex()}"


class Commands:
    """The commands of a mount for one file, whatever it is called at the moment."""

    def __init__(self, fsx: Callable[[], Fsx], mount: Path) -> None:
        self._fsx, self._mount = fsx, mount
        self._files: dict[Path, int] = {}

    def say(self, path: Path, line: str) -> None:
        """Give a command that must succeed; ``FILE`` in it stands for the file."""
        if path not in self._files:
            self._files[path] = os.open(path, os.O_RDWR)
        fd = self._files[path]
        os.write(fd, line.replace("FILE", str(self._fsx().path.relative_to(self._mount))).encode())
        answer = os.read(fd, 1000)
        if not answer.startswith(b"ZX_OK"):
            raise FsxError(f"{line}: {answer.decode()}")


def main() -> None:
    """Do the job that the first argument is; print how often what was done."""
    job = Job(**json.loads(sys.argv[1]))
    mount = next(place for place in Path(job.path).parents if (place / "control" / "version").exists())
    commands = Commands(lambda: fsx, mount)
    whole = mount / "control" / "vmo_op_range"
    hooks: dict[str, Hook] = {}
    if job.pager:
        hooks["evict"] = lambda offset, length: commands.say(Path(job.pager, "evict"), f"FILE {offset} {length}")
    fsx = Fsx(job, hooks, lambda offset, length: commands.say(whole, f"zero FILE {offset} {length}"))
    fsx.run()
    fsx.close()
    print(dict(fsx.counts))  # noqa: T201 - for the test


if __name__ == "__main__":
    main()
