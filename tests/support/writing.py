"""What tests of dirty pages share: Zircon's notation for requests and dirty ranges, writers, and shared mappings."""

from __future__ import annotations

import ctypes
import mmap
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.pager_client import SECONDS, Background, PagerClient, Vmo
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE
from vmofs.wire.results import parse_dirty_ranges, parse_result

KEY = 11 * pattern.KEY_STEP
"""What the pager supplies."""

OTHER = 12 * pattern.KEY_STEP
"""What the pager supplies another time."""

WRITTEN = 13 * pattern.KEY_STEP
"""What is written."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MS_SYNC = 4


def page_bytes(page: int, pages: int = 1, key: int = WRITTEN) -> bytes:
    """Return what belongs to these pages."""
    return pattern.make(key, page * PAGE_SIZE, pages * PAGE_SIZE)


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    """Open a file for a while, without read-ahead: a neighbour that is absent would be waited for too."""
    fd = os.open(path, flags)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    try:
        yield fd
    finally:
        os.close(fd)


def start_write(fd: int, page: int, pages: int = 1) -> Background[int]:
    """Write pages in a thread."""
    return Background(lambda: os.pwrite(fd, page_bytes(page, pages), page * PAGE_SIZE))


def start_read(fd: int, page: int, pages: int = 1) -> Background[bytes]:
    """Read pages in a thread."""
    return Background(lambda: os.pread(fd, pages * PAGE_SIZE, page * PAGE_SIZE))


class SharedMapping:
    """A shared mapping of whole pages, whose faults and msyncs let other threads of this process run."""

    def __init__(self, fd: int, pages: int) -> None:
        self._length = pages * PAGE_SIZE
        prot = mmap.PROT_READ | mmap.PROT_WRITE
        address = _libc.mmap(None, self._length, prot, mmap.MAP_SHARED, fd, 0)
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
        self._address = address

    def load(self, offset: int, length: int = PAGE_SIZE) -> bytes:
        """Read through the mapping."""
        into = ctypes.create_string_buffer(length)
        ctypes.memmove(into, self._address + offset, length)
        return into.raw

    def store(self, offset: int, data: bytes) -> None:
        """Write through the mapping."""
        ctypes.memmove(self._address + offset, data, len(data))

    def msync(self) -> None:
        """Write back what was stored."""
        if _libc.msync(self._address, self._length, _MS_SYNC):
            raise OSError(ctypes.get_errno(), "msync")

    def store_and_sync(self, offset: int, data: bytes) -> bool:
        """Write through the mapping and write it back; return True."""
        self.store(offset, data)
        self.msync()
        return True

    def close(self) -> None:
        """Unmap."""
        _libc.munmap(self._address, self._length)


@contextmanager
def mapped(fd: int, pages: int) -> Iterator[SharedMapping]:
    """Map pages for a while."""
    mapping = SharedMapping(fd, pages)
    try:
        yield mapping
    finally:
        mapping.close()


def take(pager: PagerClient, count: int = 1) -> str:
    """Return the next requests in the contract's notation, ``READ(0,4)``, in pages."""
    return " ".join(
        f"{request.command.value}({request.offset // PAGE_SIZE},{request.length // PAGE_SIZE})"
        for request in pager.requests.take(count)
    )


def op(pager: PagerClient, name: str, vmo: Vmo, page: int = 0, pages: int = 1, data: str = "") -> None:
    """Carry out an ``op_range`` that must succeed."""
    assert pager.command("op_range", op_line(name, vmo, page, pages, data)) == "ZX_OK\n"


def refused_op(pager: PagerClient, name: str, vmo: Vmo, page: int = 0, pages: int = 1, data: str = "") -> int:
    """Carry out an ``op_range`` that must fail, and return its errno. The sentence says more than the status."""
    refused = pager.refused("op_range", op_line(name, vmo, page, pages, data))
    status, _, sentence = refused.result.partition(": ")
    assert status.startswith("ZX_ERR_")
    assert sentence
    return refused.errno


def op_line(name: str, vmo: Vmo, page: int, pages: int, data: str) -> str:
    """Return the command line of an ``op_range``."""
    return f"{name} {vmo.name} {page * PAGE_SIZE} {pages * PAGE_SIZE} {data}"


def supply(pager: PagerClient, vmo: Vmo, page: int = 0, pages: int = 1, key: int = KEY) -> None:
    """Supply pages with what belongs there."""
    pager.supply(vmo, page * PAGE_SIZE, pages * PAGE_SIZE, key)


def supply_zeros(pager: PagerClient, vmo: Vmo, page: int = 0, pages: int = 1) -> None:
    """Supply markers: from an aux that holds nothing."""
    aux = pager.stage(b"", "hole")
    os.truncate(aux.path, pages * PAGE_SIZE)
    line = f"{vmo.name} {page * PAGE_SIZE} {pages * PAGE_SIZE} {aux.name} 0"
    assert pager.command("supply_pages", line) == "ZX_OK\n"
    aux.path.unlink()


def evict(pager: PagerClient, vmo: Vmo, page: int = 0, pages: int = 1) -> int:
    """Evict, and return how many pages went."""
    result = pager.command("evict", f"{vmo.name} {page * PAGE_SIZE} {pages * PAGE_SIZE}")
    assert result.startswith("ZX_OK pages=")
    return int(result.rpartition("=")[2])


def query(pager: PagerClient, vmo: Vmo, offset: int, length: int) -> str:
    """Return the dirty ranges of bytes in the contract's notation: ``{0,2}{5,1,Z}``, in pages."""
    result = parse_result(pager.command("query_dirty_ranges", f"{vmo.name} {offset} {length}"))
    return "".join(
        f"{{{found.offset // PAGE_SIZE},{found.length // PAGE_SIZE}{',Z' if found.is_zero else ''}}}"
        for found in parse_dirty_ranges(result)
    )


def dirty(pager: PagerClient, vmo: Vmo) -> str:
    """Return the dirty ranges of the whole VMO."""
    return query(pager, vmo, 0, vmo.path.stat().st_size)


def modified(pager: PagerClient, vmo: Vmo, *, reset: bool = False) -> bool:
    """Return what ``query_vmo_stats`` says."""
    result = pager.command("query_vmo_stats", f"{vmo.name} reset" if reset else vmo.name)
    assert result in {"ZX_OK modified=0\n", "ZX_OK modified=1\n"}
    return result.endswith("1\n")


def clean(pager: PagerClient, vmo: Vmo, page: int, pages: int = 1) -> None:
    """Write back, as far as the VMO is concerned."""
    op(pager, "WRITEBACK_BEGIN", vmo, page, pages)
    op(pager, "WRITEBACK_END", vmo, page, pages)


def fails_with(call: Callable[[], object]) -> int:
    """Return the errno that a call fails with."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the caller looks at the errno
        call()
    return caught.value.errno or 0


class CommandFile:
    """One open command file of ``control/``, which does not wait for its results."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR)

    def write(self, line: str) -> int:
        """Give a command; raises OSError if it fails at once."""
        return os.write(self.fd, f"{line}\n".encode())

    def read(self) -> str:
        """Return the result; raises BlockingIOError while there is none."""
        return os.read(self.fd, 2**16).decode()

    def wait(self, seconds: float = SECONDS) -> str:
        """Wait for the result, as a program does that polls, and return it."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        assert poll.poll(seconds * 1000), f"no result within {seconds} s"
        return self.read()

    def say(self, line: str) -> str:
        """Give a command and return its result, however it ends."""
        try:
            self.write(line)
        except OSError as error:
            return f"{error.errno} {self.read()}"
        return self.read()

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


@contextmanager
def command_file(pager: PagerClient, name: str) -> Iterator[CommandFile]:
    """Open a command file of the mount for a while."""
    file = CommandFile(pager.mount / "control" / name)
    try:
        yield file
    finally:
        file.close()
