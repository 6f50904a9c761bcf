"""What is written to the files of a pager that can write back is brought to it: by fsync, by itself, and at the end."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator

import pytest

from tests.support.client_pagers import PAGE, Serving
from tests.support.mounted import Mounted, wait_for
from vmofs.client import Data, Object, Pager

SIZE = 100_000


class Store(Pager):
    """Objects that are byte strings."""

    def __init__(self, **content: bytes) -> None:
        self.content = {name: bytearray(data) for name, data in content.items()}
        self.lock = threading.Lock()
        self.error: Exception | None = None
        self.stored: list[tuple[int, int]] = []

    def objects(self) -> list[Object]:
        return [Object(name, len(data), mode=0o644) for name, data in self.content.items()]

    def read(self, obj: Object, offset: int, length: int) -> Data:
        with self.lock:
            return bytes(self.content[obj.name][offset : offset + length])

    def write_back(self, obj: Object, offset: int, data: Data) -> None:
        if self.error:
            raise self.error
        with self.lock:
            self.stored.append((offset, len(data)))
            self.content[obj.name][offset : offset + len(data)] = data

    def set_size(self, obj: Object, size: int) -> None:
        with self.lock:
            content = self.content[obj.name]
            content[size:] = bytes(max(0, size - len(content)))


@pytest.fixture
def serving(shared_mount: Mounted) -> Iterator[Serving]:
    """A function that serves a pager in this process."""
    serving = Serving(shared_mount.path, "store")
    yield serving
    serving.close()


def test_fsync_brings_what_was_written_to_the_pager(serving: Serving) -> None:
    store = Store(x=bytes(SIZE))
    serving(store)
    with (serving.mount / "vmo/x").open("r+b") as file:
        file.seek(5000)
        file.write(b"hello")
        file.flush()
        os.fsync(file.fileno())
        assert store.content["x"][4998:5007] == b"\0\0hello\0\0"
        file.seek(0, os.SEEK_END)
        file.write(b"y" * 10_000)
        file.flush()
        os.fsync(file.fileno())
        assert len(store.content["x"]) == SIZE + 10_000
        assert store.content["x"].endswith(b"y" * 10_000)
        file.truncate(10)
        os.fsync(file.fileno())
        assert store.content["x"] == bytes(10)


def test_without_fsync_it_comes_by_itself(serving: Serving) -> None:
    store = Store(x=bytes(SIZE))
    serving(store)
    with (serving.mount / "vmo/x").open("r+b") as file:
        file.write(b"hello")
    wait_for(lambda: store.content["x"].startswith(b"hello"), "it is written back")


def test_at_the_end_everything_is_written_back(serving: Serving) -> None:
    store = Store(x=bytes(SIZE), y=b"")
    server = serving(store)
    (serving.mount / "vmo/x").write_bytes(b"new")
    (serving.mount / "vmo/y").write_bytes(b"z" * 20_000)
    server.stop()
    assert store.content == {"x": b"new", "y": b"z" * 20_000}


def test_what_was_evicted_after_it_was_written_back_is_read_as_it_was_written(serving: Serving) -> None:
    store = Store(x=bytes(SIZE))
    server = serving(store)
    path = serving.mount / "vmo/x"
    with path.open("r+b") as file:
        file.write(b"a" * (SIZE + 3000))
        file.flush()
        os.fsync(file.fileno())
    server.directory.vmo("x").evict()
    assert path.read_bytes() == b"a" * (SIZE + 3000)


def test_if_the_pager_refuses_fsync_fails_and_nothing_is_lost(serving: Serving) -> None:
    store = Store(x=bytes(SIZE))
    store.error = OSError(errno.ENOSPC, "full")
    serving(store)
    fd = os.open(serving.mount / "vmo/x", os.O_RDWR)
    try:
        os.pwrite(fd, b"hello", 0)
        with pytest.raises(OSError, match="Input/output"):
            os.fsync(fd)
        assert os.pread(fd, 5, 0) == b"hello"
        store.error = None
        os.fsync(fd)
    finally:
        os.close(fd)
    assert store.content["x"].startswith(b"hello")


def test_only_what_is_dirty_is_written_back(serving: Serving) -> None:
    store = Store(x=bytes(SIZE))
    serving(store)
    fd = os.open(serving.mount / "vmo/x", os.O_RDWR)
    try:
        for page in (2, 9):
            os.pwrite(fd, b"1", page * PAGE)
        os.fsync(fd)
    finally:
        os.close(fd)
    assert {offset for offset, _ in store.stored} == {2 * PAGE, 9 * PAGE}


def test_started_again_it_writes_back_what_the_one_before_did_not(serving: Serving) -> None:
    store = Store(x=bytes(SIZE))
    server = serving(store, name="again")
    store.error = OSError(errno.EIO, "away")
    (serving.mount / "vmo/x").write_bytes(b"kept")
    server.stop()
    assert b"kept" not in store.content["x"]
    store.error = None
    serving(store, name="again")
    wait_for(lambda: store.content["x"] == b"kept", "it is written back")


def test_an_object_without_write_permission_is_only_read(serving: Serving) -> None:
    class Mixed(Store):
        def objects(self) -> list[Object]:
            return [Object("x", SIZE, mode=0o444)]

    serving(Mixed(x=bytes(SIZE)))
    fd = os.open(serving.mount / "vmo/x", os.O_RDWR)  # root may
    try:
        with pytest.raises(OSError, match="bad state"):
            os.pwrite(fd, b"x", 0)
    finally:
        os.close(fd)
