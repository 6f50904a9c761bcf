"""Children of a private file, with their oracle: views of its memory, and clones, which keep the pages they wrote."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.soak.plan import Op
from tests.soak.ways import READS, read
from tests.soak.world import SETTLE_SECONDS, WrongError, check_bytes, content, describe, within
from tests.support.opening import opened
from vmofs.units import PAGE_SIZE, page_count

if TYPE_CHECKING:
    from tests.soak.files import PrivateFile

_CLONES = ("snapshot_at_least_on_write", "snapshot_modified")
"""Of a pager VMO both see what is written to it until they write themselves."""


def make_child(parent: PrivateFile, op: Op) -> Child:
    """Make a child of a kind that the parent can have."""
    kinds = ["reference", *_CLONES, *([] if parent.resizable else ["slice"])]
    kind = kinds[op.way % len(kinds)]
    offset, length = parent.cut(op)
    offset -= offset % PAGE_SIZE
    length = min(op.length, len(parent.bytes) - offset) or 1
    if kind == "reference":
        offset, length = 0, 0
    child = Child(parent, kind, offset, length or len(parent.bytes), op.number)
    parent.world.command("vmo_create_child", f"{kind} {parent.name} {child.name} {offset} {length}")
    return child


class Child:
    """A child of a private file; ``forks`` are the pages that a clone has of its own."""

    def __init__(self, parent: PrivateFile, kind: str, offset: int, size: int, number: int) -> None:
        self._parent, self._kind, self._offset, self._size = parent, kind, offset, size
        self._forks: dict[int, bytes] = {}
        self.name = f"{parent.name}-{kind}{number}"

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._parent.world.mount / self.name

    def _page(self, page: int) -> bytes:
        start = self._offset + page * PAGE_SIZE
        end = min(start + PAGE_SIZE, self._offset + self._size)
        return self._forks.get(page, bytes(self._parent.bytes[start:end]))

    def _content(self, offset: int, length: int) -> bytes:
        pages = range(offset // PAGE_SIZE, page_count(offset + length))
        whole = b"".join(map(self._page, pages))
        return whole[offset % PAGE_SIZE : offset % PAGE_SIZE + length]

    def _cut(self, op: Op) -> tuple[int, int]:
        offset = op.offset % self._size
        return offset, min(op.length, self._size - offset)

    def read(self, op: Op) -> None:
        """Read. What the parent was changed to is seen at once past the page cache, and soon by others."""
        offset, length = self._cut(op)
        way = list(READS)[op.way % len(READS)]

        def check() -> None:
            found = self._parent.insist(lambda: read(self.path, way, offset, length))
            where = f"{way} of the {self._kind} at {self._offset:#x}"
            check_bytes(found, self._content(offset, length), offset, where)

        if way == "O_DIRECT":
            check()
        else:
            within(SETTLE_SECONDS, check)

    def write(self, op: Op) -> None:
        """Write: to a view is to the parent, to a clone is to its own pages."""
        offset, length = self._cut(op)
        data = content(self._parent.key, op.number, self._offset + offset, length)
        if self._kind not in _CLONES:
            self._parent.write(self._offset + offset, data, "pwrite", self.path, self._offset)
            return
        pages = range(offset // PAGE_SIZE, page_count(offset + length))
        start = pages[0] * PAGE_SIZE
        after = bytearray(b"".join(map(self._page, pages)))
        after[offset - start : offset - start + length] = data

        def attempt() -> None:
            with opened(self.path, os.O_RDWR) as fd:
                done = 0
                while done < length:
                    done += os.pwrite(fd, data[done:], offset + done)

        self._change(attempt, {page: bytes(after[page * PAGE_SIZE - start :][:PAGE_SIZE]) for page in pages})

    def _change(self, attempt: Callable[[], None], forks: dict[int, bytes]) -> None:
        def try_it() -> None:
            try:
                attempt()
            except OSError:
                self._settle(forks)
                raise

        self._parent.insist(try_it)
        self._forks.update(forks)

    def _settle(self, forks: dict[int, bytes]) -> None:
        """Find out which pages a refused write has written."""
        for page, after in forks.items():
            at = page * PAGE_SIZE
            found = self._parent.insist(partial(read, self.path, "O_DIRECT", at, PAGE_SIZE))
            if found == after:
                self._forks[page] = after
            elif found != self._page(page):
                raise WrongError(
                    f"after a refused write a page of the {self._kind} is neither old nor new: {describe(found, at)}",
                    self._offset + at,
                    PAGE_SIZE,
                )
