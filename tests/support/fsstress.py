"""Random operations on the names of a tree, done to an ordinary tree as well: what fsstress does elsewhere.

Each process has a tree of its own, in which every call must end as it does in the ordinary tree, and all of them share
a directory, in which they rename files of each other: there every file must be whole. ``python -m
tests.support.fsstress`` with a ``Job`` as JSON.
"""

# ruff: noqa: S311 - nothing here is a secret

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import random
import stat
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.writing import mapped
from vmofs.units import PAGE_SIZE

NAMES = "abcdef"
MOST_BYTES = 12 * PAGE_SIZE
SHARED_WORDS = 1500  # not whole pages
_NOREPLACE, _EXCHANGE = 1, 2
_AT_FDCWD = -100
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Job:
    """What one process does.

    Attributes:
        tree: its directory in the mount.
        oracle: an empty directory elsewhere.
        shared: the directory in the mount that all use.
        lock: a file that is locked while names change, and by a pager while it acts on names. See ``store_pager``.
        history: where each operation is written to before it is done.
        seed: of the operations.
        operations: how many.
        pager: the control directory of the pager of all this; evicts. Empty: these are aux files.
    """

    tree: str
    oracle: str
    shared: str
    lock: str
    history: str
    seed: int
    operations: int
    pager: str = ""


class FsstressError(AssertionError):
    """The tree is not what the ordinary one is, or a file is not whole."""


def rename_with(flags: int, source: Path, target: Path) -> None:
    """renameat2(2)."""
    if _LIBC.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


class Fsstress:
    """One process at work."""

    def __init__(self, job: Job) -> None:
        self.counts: Counter[str] = Counter()
        self._trees = [Path(job.tree), Path(job.oracle)]
        self._shared = Path(job.shared)
        self._random = random.Random(job.seed)
        self._job = job
        self._number = 0
        self._history = Path(job.history).open("w", encoding="ascii")  # noqa: SIM115 - as long as we live
        self._lock = os.open(job.lock, os.O_RDWR | os.O_CREAT)
        self._open: list[list[int]] = []  # of files that have lost their names: one descriptor in each tree
        self._operations: dict[Callable[[], object], int] = {
            **dict.fromkeys([self._write, self._read], 20),
            **dict.fromkeys([self._create, self._rename], 12),
            **dict.fromkeys([self._store, self._truncate, self._take], 8),
            **dict.fromkeys([self._append, self._unlink, self._mkdir, self._list, self._stat], 5),
            **dict.fromkeys([self._fsync, self._chmod, self._times, self._rmdir, self._use_unlinked], 3),
            **dict.fromkeys([self._share, self._unshare, self._shuffle, self._keep_unlinked], 3),
            self._evict: 6 if job.pager else 0,
        }

    def run(self) -> None:
        """Do all operations, then compare the trees as wholes.

        Raises:
            FsstressError: something is wrong.
        """
        for number in range(1, self._job.operations + 1):
            self._number = number
            (operation,) = self._random.choices(list(self._operations), list(self._operations.values()))
            self.counts[operation.__name__] += 1
            self._note(f"\n{number} {operation.__name__}")
            operation()
        for held in self._open:
            self._compare(*(os.pread(fd, MOST_BYTES, 0) for fd in held))
            for fd in held:
                os.close(fd)
        self._compare(*(dict(self._contents(tree)) for tree in self._trees))

    def _note(self, text: str) -> None:
        self._history.write(text)
        self._history.flush()

    def _contents(self, tree: Path) -> Iterator[tuple[str, bytes | None]]:
        for path in sorted(tree.rglob("*")):
            yield str(path.relative_to(tree)), path.read_bytes() if path.is_file() else None

    # Doing the same in both trees

    def _path(self) -> str:
        return "/".join(self._random.choice(NAMES) for _ in range(self._random.choice([1, 1, 2, 2, 3])))

    def _both(self, what: Callable[[Path], object], *notes: object) -> None:
        """Do something in both trees, which must end alike."""
        path = self._path()
        self._note(f" {path} {' '.join(map(str, notes))}")
        self._compare(*(_outcome(lambda tree=tree: what(tree / path)) for tree in self._trees))  # type: ignore[misc]

    def _compare(self, found: object, expected: object) -> None:
        if found != expected:
            raise FsstressError(f"operation {self._number}: {_difference(found, expected)}")

    @contextmanager
    def _names_change(self) -> Iterator[None]:
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _piece(self) -> tuple[int, bytes]:
        offset = self._random.randrange(MOST_BYTES)
        length = min(self._random.choice([1, 100, PAGE_SIZE, 3 * PAGE_SIZE]), MOST_BYTES - offset)
        return offset, self._random.randbytes(length)

    # Files

    def _create(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | self._random.choice([0, os.O_EXCL, os.O_TRUNC])
        mode = self._random.choice([0o600, 0o644, 0o755])
        self._both(lambda path: os.close(os.open(path, flags, mode)), oct(flags), oct(mode))

    def _write(self) -> None:
        offset, data = self._piece()
        self._both(_with(os.O_WRONLY, lambda fd: os.pwrite(fd, data, offset)), f"{offset}+{len(data)}")

    def _append(self) -> None:
        data = self._piece()[1]

        def append(fd: int) -> int:
            return os.write(fd, data) if os.fstat(fd).st_size + len(data) <= MOST_BYTES else 0

        self._both(_with(os.O_WRONLY | os.O_APPEND, append), len(data))

    def _store(self) -> None:
        offset, data = self._piece()

        def store(fd: int) -> int:
            stored = data[: max(0, os.fstat(fd).st_size - offset)]
            if stored:
                with mapped(fd, MOST_BYTES // PAGE_SIZE) as mapping:
                    mapping.store(offset, stored)
            return len(stored)

        self._both(_with(os.O_RDWR, store), f"{offset}+{len(data)}")

    def _read(self) -> None:
        offset, data = self._piece()
        self._both(_with(os.O_RDONLY, lambda fd: os.pread(fd, len(data), offset)), f"{offset}+{len(data)}")

    def _truncate(self) -> None:
        size = self._random.choice([0, self._random.randrange(MOST_BYTES)])
        self._both(lambda path: os.truncate(path, size), size)

    def _fsync(self) -> None:
        self._both(_with(os.O_RDWR, os.fsync))

    def _chmod(self) -> None:
        mode = self._random.choice([0o600, 0o644, 0o700, 0o755])
        self._both(lambda path: path.chmod(mode), oct(mode))

    def _times(self) -> None:
        time_ns = self._random.randrange(2**60)

        def change(path: Path) -> int:
            os.utime(path, ns=(time_ns, time_ns))
            return path.stat().st_mtime_ns

        self._both(change)

    def _stat(self) -> None:
        def look(path: Path) -> tuple[int, ...]:
            status = path.stat()
            return status.st_mode, status.st_nlink, status.st_size if stat.S_ISREG(status.st_mode) else 0

        self._both(look)

    def _evict(self) -> None:
        path = self._shared_path() if self._random.random() < 0.5 else self._trees[0] / self._path()
        mount = Path(self._job.pager).parents[1]
        with self._names_change(), suppress(OSError), Path(self._job.pager, "evict").open("wb", buffering=0) as command:
            size = -(-path.stat().st_size // PAGE_SIZE) * PAGE_SIZE
            command.write(f"{path.relative_to(mount)} 0 {size}\n".encode())

    # Names

    def _unlink(self) -> None:
        with self._names_change():
            self._both(lambda path: path.unlink())

    def _keep_unlinked(self) -> None:
        """Unlink a file that stays open, under a name that nobody else will have: see SEMANTICS.md on such names."""
        descriptors: list[int] = []
        name = f"unlinked{self._number}"

        def keep(path: Path) -> None:
            fd = os.open(path, os.O_RDWR)
            path.rename(path.with_name(name))
            path.with_name(name).unlink()
            descriptors.append(fd)

        with self._names_change():
            self._both(keep)
        if descriptors:
            self._open.append(descriptors)
        if len(self._open) > 5:
            for fd in self._open.pop(0):
                os.close(fd)

    def _use_unlinked(self) -> None:
        if not self._open:
            return
        held = self._random.choice(self._open)
        offset, data = self._piece()
        self._note(f" {offset}+{len(data)}")
        self._compare(*(os.pread(fd, MOST_BYTES, 0) for fd in held))
        self._compare(*(os.pwrite(fd, data, offset) for fd in held))

    def _mkdir(self) -> None:
        self._both(lambda path: path.mkdir())

    def _rmdir(self) -> None:
        self._both(lambda path: path.rmdir())

    def _rename(self) -> None:
        target, flags = self._path(), self._random.choice([0, 0, 0, _NOREPLACE, _EXCHANGE])
        trees = iter(self._trees)
        with self._names_change():
            self._both(lambda path: rename_with(flags, path, next(trees) / target), "to", target, flags)

    def _list(self) -> None:
        self._both(lambda path: sorted((entry.name, entry.is_dir()) for entry in os.scandir(path)))

    # What all share. No name is used twice: a reader of an unlinked file may still wait for its pages.

    def _shared_path(self) -> Path:
        """Return a file that exists, or did a moment ago."""
        return self._shared / self._random.choice(["none", *os.listdir(self._shared)])  # noqa: PTH208 - only names

    def _share(self) -> None:
        """Make a file whose every word says whose it is and where it belongs, and give it to all."""
        word = (os.getpid() << 16 | self._number & 0xFFFF) << 16
        made = self._trees[0].with_name(f"{self._trees[0].name}-made")
        made.write_bytes(struct.pack(f"<{SHARED_WORDS}Q", *range(word, word + SHARED_WORDS)))
        if self._random.random() < 0.3:
            with made.open("rb+") as file:
                os.fsync(file.fileno())
        with self._names_change():
            made.rename(self._shared / str(word))

    def _take(self) -> None:
        with suppress(FileNotFoundError), self._shared_path().open("rb") as file:
            words = struct.unpack(f"<{SHARED_WORDS}Q", file.read())
            if words != tuple(range(words[0], words[0] + SHARED_WORDS)) or words[0] & 0xFFFF:
                raise FsstressError(f"a shared file is not whole: {words[:4]}")

    def _shuffle(self) -> None:
        new = self._random.random() < 0.5
        target = self._shared / f"{os.getpid()}-{self._number}" if new else self._shared_path()
        with self._names_change(), suppress(FileNotFoundError):
            rename_with(_NOREPLACE if new else _EXCHANGE, self._shared_path(), target)

    def _unshare(self) -> None:
        with self._names_change(), suppress(FileNotFoundError):
            self._shared_path().unlink()


def _with(flags: int, what: Callable[[int], object]) -> Callable[[Path], object]:
    def opened(path: Path) -> object:
        fd = os.open(path, flags)
        try:
            return what(fd)
        finally:
            os.close(fd)

    return opened


def _outcome(what: Callable[[], object]) -> object:
    try:
        return what()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def _difference(found: object, expected: object) -> str:
    """Say what differs; of bytes, where they begin to."""
    if isinstance(found, bytes) and isinstance(expected, bytes):
        pairs = enumerate(zip(found, expected, strict=False))
        same = next((at for at, (one, other) in pairs if one != other), min(len(found), len(expected)))
        there = slice(same, same + 64)
        sizes = f"{len(found)} bytes, {len(expected)} expected"
        return f"{sizes}, from {same} on {found[there]!r} instead of {expected[there]!r}"
    return f"{repr(found)[:1000]} instead of {repr(expected)[:1000]}"


def main() -> None:
    """Do the job that the first argument is; print how often what was done."""
    fsstress = Fsstress(Job(**json.loads(sys.argv[1])))
    fsstress.run()
    print(dict(fsstress.counts))  # noqa: T201 - for the test


if __name__ == "__main__":
    main()
