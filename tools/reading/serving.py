"""A pager that serves files exactly or by clusters, notes what it was asked for, and fails one page if told to."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from vmofs.client import Mount
from vmofs.client.requests import Request
from vmofs.status import Status
from vmofs.units import PAGE_SIZE, page_count
from vmofs.wire.commands import CreateVmo


class Page(NamedTuple):
    """A page of one of the files."""

    name: str
    number: int


@dataclass
class Asked:
    """What a run has asked for. ``pages``: in the order in which they were asked for first."""

    requests: int = 0
    pages: dict[Page, None] = field(default_factory=dict)
    supplied: int = 0


class Serving:
    """Serves the files of a directory at ``path``, from when the block is entered until it is left.

    Args:
        mount: Where.
        source: The directory.
        cluster: Answer with the aligned piece of so many bytes around a request.
        blksize: ``st_blksize`` of the files.
        failing: The page that cannot be had: EIO, each time.
    """

    _count = 0

    def __init__(self, mount: Mount, source: Path, cluster: int, blksize: int, failing: Page | None = None) -> None:
        Serving._count += 1
        name = f"readers{Serving._count}"
        self._source = source
        self._cluster = cluster
        self._blksize = blksize
        self._failing = failing
        self._pager = mount.create_pager(name)
        self._top = f"vmo/{name}"
        self.asked = Asked()
        self.path = mount.path / self._top
        self._answered: set[Page] = set()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self.path.mkdir()
        files = sorted(self._source.iterdir())
        self._pager.create_vmos(
            [CreateVmo(f"{self._top}/{file.name}", file.stat().st_size, blksize=self._blksize) for file in files]
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pager.remove()  # ends the FIFO, and so the thread
        self._thread.join()
        for file in self.path.iterdir():
            file.unlink()
        self.path.rmdir()

    def _serve(self) -> None:
        with self._pager.requests() as requests:
            for request in requests:
                with request:
                    self._answer(request)

    def _answer(self, request: Request) -> None:
        if not request.length:
            return
        name = request.path.rpartition("/")[2]
        first, end_page = request.offset // PAGE_SIZE, page_count(request.offset + request.length)
        pages = [Page(name, number) for number in range(first, end_page)]
        self.asked.requests += 1
        self.asked.pages.update(dict.fromkeys(pages))
        if self._failing is not None and self._failing in pages:
            self._answer_around(request, self._failing)
            return
        start = request.offset // self._cluster * self._cluster
        end = -(-(request.offset + request.length) // self._cluster) * self._cluster
        if self._failing is not None and self._failing.name == name:
            start, end = request.offset, request.offset + request.length  # nothing but what was asked for
        self._supply(request, start, end)

    def _answer_around(self, request: Request, failing: Page) -> None:
        """Supply what is before the page that fails, and fail the rest: the reader gets what it can have."""
        at = failing.number * PAGE_SIZE
        if at > request.offset:
            self._supply(request, request.offset, at)
        request.fail(Status.IO)

    def _supply(self, request: Request, start: int, end: int) -> None:
        name = request.path.rpartition("/")[2]
        with (self._source / name).open("rb") as file:
            data = os.pread(file.fileno(), end - start, start)
        fresh = {Page(name, start // PAGE_SIZE + n) for n in range(page_count(len(data)))} - self._answered
        self._answered |= fresh
        self.asked.supplied += len(fresh)
        request.supply(data, start)
