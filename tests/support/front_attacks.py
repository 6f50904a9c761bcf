"""What a hostile user may do with what is served without libfuse, and with what is asked for in large pieces.

Each is carried out by a process of its own, to the first yield before anybody looks.
"""

from __future__ import annotations

import itertools
import mmap
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.support.rights import command
from vmofs.units import PAGE_SIZE

_KIB = 1024


def _make_pager(mount: str, name: str, *vmos: str) -> str:
    control = f"{mount}/control/{name}"
    os.mkdir(control)  # noqa: PTH102
    for number, vmo in enumerate(vmos):
        assert command(f"{control}/create_vmo", f"vmo/{name}{number} {vmo}") == "ZX_OK"
    return control


def writes_nonsense_to_answers(mount: str) -> Iterator[None]:
    """Write counts, records and bytes to ``answers`` that do not belong together, short ones and long ones."""
    control = _make_pager(mount, "nonsense", f"{64 * PAGE_SIZE} key=7")
    record, body = struct.Struct("<3Q"), bytes(PAGE_SIZE)
    heads = [(1 << 64) - 1, 4097, 4096, 0, 1]
    records = [
        record.pack(0, PAGE_SIZE, 7),
        record.pack((1 << 64) - PAGE_SIZE, PAGE_SIZE, 7),
        record.pack(0, (1 << 64) - 1, 7),
        record.pack(1, PAGE_SIZE, 7),
        record.pack(0, PAGE_SIZE, 8),
        record.pack(0, 0, 7),
    ]
    fd = os.open(f"{control}/answers", os.O_RDWR)
    yield
    for head, kind, many in itertools.cycle(itertools.product(heads, records, (1, 100, 4096))):
        data = struct.pack("<Q", head) + kind * many + body * min(many, 130)
        with suppress(OSError):
            os.write(fd, data[: 900 * _KIB])


def _wait_for_ever(path: str, way: str) -> None:
    with suppress(OSError):
        fd = os.open(path, os.O_RDWR)
        if way == "write":
            os.pwrite(fd, b"w", 1)
        elif way == "load":
            mapping = mmap.mmap(fd, PAGE_SIZE, prot=mmap.PROT_READ)
            assert mapping[0]
        else:
            os.pread(fd, 1, 0)


def floods_with_interrupts(mount: str) -> Iterator[None]:
    """Have very many calls wait, send signals to who waits, and kill them."""
    count = 24
    _make_pager(mount, "signals", *[f"{PAGE_SIZE}"] * count)
    yield
    while True:
        pids = []
        for number in range(count):
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGUSR1, lambda *_: None)
                _wait_for_ever(f"{mount}/vmo/signals{number}", ("write", "read", "load")[number % 3])
                os._exit(0)
            pids.append(pid)
        time.sleep(0.02)
        for sent in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGKILL):
            for pid in pids:
                os.kill(pid, sent)
        for pid in pids:
            os.waitpid(pid, 0)


def marks_and_reads(mount: str) -> Iterator[None]:
    """Mark pages and read them, again and again, and read no FIFO."""
    pages = 256
    control = _make_pager(mount, "marks", f"{pages * PAGE_SIZE}")
    with open(f"{control}/supply/marks0", "wb", buffering=0) as into:  # noqa: PTH123
        into.write(bytes(pages * PAGE_SIZE))
    fd = os.open(f"{mount}/vmo/marks0", os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, PAGE_SIZE)
    yield
    while True:
        for page in range(0, pages, 2):
            command(f"{control}/mark", f"vmo/marks0 {page * PAGE_SIZE} {PAGE_SIZE}")
        for page in range(pages):
            os.preadv(fd, [buffer], page * PAGE_SIZE)


def writes_large_pieces(mount: str) -> Iterator[None]:
    """Write as much at a time as the kernel takes, to an aux and into ``supply/``, from a buffer within a page."""
    size = 960 * _KIB
    control = _make_pager(mount, "large", f"{2 * size}")
    buffer = memoryview(bytearray(size + 1))[1:]
    aux = os.open(f"{mount}/aux/large", os.O_CREAT | os.O_WRONLY)
    into = os.open(f"{control}/supply/large0", os.O_WRONLY)
    yield
    while True:
        os.pwrite(aux, buffer, 0)
        with suppress(OSError):
            os.pwrite(into, buffer, 0)
        command(f"{control}/evict", f"vmo/large0 0 {2 * size}")


def keeps_very_many_open(mount: str) -> Iterator[None]:
    """Open a VMO as often as possible, for reading and writing, look at it, and close it."""
    _make_pager(mount, "opens", f"{2**20}")
    path = Path(f"{mount}/vmo/opens0")
    yield
    while True:
        files: list[int] = []
        with suppress(OSError):
            while len(files) < 900:
                files.append(os.open(path, (os.O_RDONLY, os.O_RDWR)[len(files) % 2]))
        for fd in files:
            os.fstat(fd)
            os.close(fd)
