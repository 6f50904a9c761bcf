"""A mount as objects: ``Mount``, its pagers, VMOs and aux files. Each call is one command, and blocks as that does.

::

    with Mount("/mnt").create_pager("p") as pager:
        vmo = pager.create_vmo("disk", 1 << 30)
        with pager.requests() as requests:
            for request in requests:
                with request:  # what is not supplied when the block ends is failed
                    request.supply(read(request.offset, request.length))

A failed command raises the ``VmoError`` of its status, with the sentence of the mount. ``OSError`` is for the files
themselves: no such pager, no permission, no mount.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from vmofs.client.command_file import CommandFile
from vmofs.client.open_files import AnswersFile, SupplyFile
from vmofs.client.pager import Data
from vmofs.client.requests import Requests
from vmofs.status import Status
from vmofs.vocabulary import AuxKind, ChildKind, DirtyRange, PagerOp, VmoOp
from vmofs.wire.commands import (
    Command,
    CommandKind,
    CreateVmo,
    DetachVmo,
    Evict,
    Mark,
    OpRange,
    QueryDirtyRanges,
    QueryVmoStats,
    ServeDirectory,
    SupplyPages,
    VmoCreate,
    VmoCreateChild,
    VmoOpRange,
    VmoPin,
    VmoSetStreamSize,
    command_kind,
)
from vmofs.wire.results import Result, parse_dirty_ranges, parse_vmo_stats


class Commands:
    """The command files of one directory, opened when they are first used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[CommandKind, CommandFile] = {}
        self._lock = threading.Lock()

    def file(self, kind: CommandKind) -> CommandFile:
        """Return one of them."""
        with self._lock:
            return self._files.setdefault(kind, CommandFile(self.path / kind))

    def run(self, command: Command, seconds: float | None = None) -> Result:
        """Carry out a command; see ``CommandFile.run``."""
        return self.file(command_kind(command)).run(command, seconds)

    def close(self) -> None:
        """Close those that are open."""
        for file in self._files.values():
            file.close()


class _File:
    """A file of a mount, by its path below the mount point."""

    top = ""

    def __init__(self, mount: Mount, name: str) -> None:
        self.mount = mount
        self.name = name
        """Below ``vmo/`` or ``aux/``."""

    @property
    def field(self) -> str:
        """Its path relative to the mount point, as commands name it."""
        return f"{self.top}/{self.name}"

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.mount.path / self.top / self.name

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.path.stat().st_size

    def attribute(self, name: str) -> str:
        """Return an attribute ``user.vmofs.NAME``.

        Raises:
            OSError: ENODATA, there is none; ENOENT, there is no such file.
        """
        return os.getxattr(self.path, f"user.vmofs.{name}").decode()

    def unlink(self) -> None:
        """Remove its name; it lives while somebody has it open."""
        self.path.unlink()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.field!r})"


class Aux(_File):
    """An aux file. Its content is that of any file: ``path.write_bytes(...)``."""

    top = "aux"


class Vmo(_File):
    """A VMO, as who reads or writes it has it; ``PagerVmo`` is one as its pager has it."""

    top = "vmo"

    @property
    def key(self) -> int:
        """The number by which its pager knows it."""
        return int(self.attribute("key"))

    def op_range(self, op: VmoOp, offset: int = 0, length: int | None = None) -> None:
        """Commit, decommit, zero, prefetch or hint at a range; no length: to the end. Zircon: zx_vmo_op_range."""
        self.mount.commands.run(VmoOpRange(op, self.field, offset, self._length(offset, length)))

    def create_child(
        self, kind: ChildKind, child: str, offset: int = 0, size: int | None = None, *, no_write: bool = False
    ) -> Vmo:
        """Make a snapshot, slice or reference, a VMO of its own. Zircon: zx_vmo_create_child."""
        whole = 0 if kind is ChildKind.REFERENCE else self._length(offset, None)
        size = whole if size is None else size
        self.mount.commands.run(VmoCreateChild(kind, self.field, f"{self.top}/{child}", offset, size, no_write))
        return Vmo(self.mount, child)

    def set_stream_size(self, size: int) -> None:
        """Move the byte-exact size. Zircon: zx_vmo_set_stream_size."""
        self.mount.commands.run(VmoSetStreamSize(self.field, size))

    def pin(self, offset: int = 0, length: int | None = None) -> CommandFile:
        """Page in and pin a range until what is returned is closed. Zircon: zx_bti_pin."""
        file = CommandFile(self.mount.commands.path / CommandKind.VMO_PIN)
        file.run(VmoPin(self.field, offset, self._length(offset, length)))
        return file

    def _length(self, offset: int, length: int | None) -> int:
        """Return a length, or the pages to the end."""
        return max(0, -(-self.size // 4096) * 4096 - offset) if length is None else length


class PagerVmo(Vmo):
    """A VMO as its pager has it."""

    def __init__(self, pager: PagerDirectory, name: str) -> None:
        super().__init__(pager.mount, name)
        self.pager = pager
        self._supply: SupplyFile | None = None
        self._lock = threading.Lock()

    def supply(self, offset: int, data: Data) -> None:
        """Supply whole pages; the last page of the file may be short. Zircon: zx_pager_supply_pages.

        Raises:
            OSError: As the errno of README's table; ENOENT, the file is gone.
        """
        self.open_supply().write(offset, data)

    def supply_from(self, offset: int, length: int, aux: Aux, aux_offset: int = 0, xxh3: int | None = None) -> None:
        """Move pages from an aux file. Zircon: zx_pager_supply_pages."""
        self.pager.run(SupplyPages(self.field, offset, length, aux.field, aux_offset, xxh3))

    def fail(self, offset: int, length: int, status: Status = Status.IO, reason: str | None = None) -> None:
        """End the requests in a range with a status. Zircon: zx_pager_op_range, ZX_PAGER_OP_FAIL.

        ``reason`` is a sentence for people who look for why; it may be 500 bytes long.
        """
        self.pager.run(OpRange(PagerOp.FAIL, self.field, offset, length, status, reason=reason))

    def dirty(self, offset: int, length: int) -> None:
        """Let those write who wait for that. Zircon: ZX_PAGER_OP_DIRTY."""
        self.pager.run(OpRange(PagerOp.DIRTY, self.field, offset, length))

    def writeback_begin(self, offset: int, length: int, *, is_zero: bool = False) -> None:
        """Say that a range is about to be read and written back. Zircon: ZX_PAGER_OP_WRITEBACK_BEGIN."""
        self.pager.run(OpRange(PagerOp.WRITEBACK_BEGIN, self.field, offset, length, int(is_zero)))

    def writeback_end(self, offset: int, length: int) -> None:
        """Say that it is written back. Zircon: ZX_PAGER_OP_WRITEBACK_END."""
        self.pager.run(OpRange(PagerOp.WRITEBACK_END, self.field, offset, length))

    def evict(self, offset: int = 0, length: int | None = None) -> None:
        """Drop clean, unpinned pages, as the kernel does when memory is short."""
        self.pager.run(Evict(self.field, offset, self._length(offset, length)))

    def mark(self, offset: int, length: int) -> None:
        """Be told, by TOUCH, when a program first reads a page of a range that is there."""
        self.pager.run(Mark(self.field, offset, length))

    def detach(self) -> None:
        """Detach it from its pager. Zircon: zx_pager_detach_vmo."""
        self.pager.run(DetachVmo(self.field))

    def query_dirty_ranges(self, offset: int = 0, length: int | None = None) -> list[DirtyRange]:
        """Return what is dirty. Zircon: zx_pager_query_dirty_ranges."""
        command = QueryDirtyRanges(self.field, offset, self._length(offset, length))
        return parse_dirty_ranges(self.pager.run(command))

    def is_modified(self, *, reset: bool = False) -> bool:
        """Return whether it was written to since the last ``reset``. Zircon: zx_pager_query_vmo_stats."""
        return parse_vmo_stats(self.pager.run(QueryVmoStats(self.field, reset)))

    def close(self) -> None:
        """Close what is open of it in ``supply/``."""
        with self._lock:
            if self._supply:
                self._supply.close()
                self._supply = None

    def open_supply(self) -> SupplyFile:
        """Return its file in ``supply/``, held open until ``close``.

        Raises:
            FileNotFoundError: No VMO of the pager has this name.
        """
        with self._lock:
            if self._supply is None:
                self._supply = SupplyFile(self.pager.path / "supply" / self.field)
                self.pager.opened.add(self._supply)
            return self._supply


class PagerDirectory:
    """A pager: a directory of ``control/``, and the way to all that a pager may do."""

    def __init__(self, mount: Mount, name: str) -> None:
        self.mount = mount
        self.name = name
        self.path = mount.path / "control" / name
        self.commands = Commands(self.path)
        self.opened: weakref.WeakSet[SupplyFile] = weakref.WeakSet()
        """What is open in ``supply/``."""
        self._answers: AnswersFile | None = None
        self._lock = threading.Lock()

    def run(self, command: Command, seconds: float | None = None) -> Result:
        """Carry out a command of a pager; see ``CommandFile.run``."""
        return self.commands.run(command, seconds)

    def create_vmo(
        self,
        name: str,
        size: int,
        *,
        key: int | None = None,
        mode: int | None = None,
        resizable: bool = False,
        trap_dirty: bool = False,
        writeback: bool = False,
    ) -> PagerVmo:
        """Make a VMO ``vmo/NAME``; its directories must be there. Zircon: zx_pager_create_vmo."""
        self.run(CreateVmo(f"vmo/{name}", size, key, resizable, trap_dirty, mode=mode, writeback=writeback))
        return PagerVmo(self, name)

    def create_vmos(self, commands: Sequence[CreateVmo]) -> int:
        """Make many VMOs, hundreds in each write; return how many were made before one could not be.

        Raises:
            VmoError: The first one could not be made.
        """
        return self.commands.file(CommandKind.CREATE_VMO).run_many(commands)

    def serve_directory(self, directory: str, *, trap_dirty: bool = False, writeback: bool = False) -> None:
        """Let files that are made in ``vmo/DIRECTORY`` be VMOs of this pager."""
        self.run(ServeDirectory(f"vmo/{directory}", trap_dirty, writeback))

    def vmo(self, name: str) -> PagerVmo:
        """Return a VMO that there is: ``vmo/NAME``."""
        return PagerVmo(self, name)

    def requests(self, port: str = "requests") -> Requests:
        """Open the FIFO of a port: from now on this process answers for the pager."""
        return Requests(self.path / port, self.vmo)

    def answers(self) -> AnswersFile:
        """Return its file ``answers``, held open until ``close``: many supplies in one write."""
        with self._lock:
            if self._answers is None:
                self._answers = AnswersFile(self.path / "answers")
            return self._answers

    @property
    def deadline(self) -> float:
        """Seconds after which an unanswered request fails with TIMED_OUT; 0: never."""
        return float((self.path / "deadline").read_text())

    @deadline.setter
    def deadline(self, seconds: float) -> None:
        (self.path / "deadline").write_text(f"{seconds:g}\n")

    def pending(self) -> list[str]:
        """Return a line for each request that is not answered."""
        return (self.path / "pending").read_text().splitlines()

    @property
    def is_there(self) -> bool:
        """Whether it was not closed."""
        return self.path.exists()

    def close(self) -> None:
        """Close the files that are open, those of its VMOs too; the pager stays, for another process or for later."""
        self.commands.close()
        for file in list(self.opened):
            file.close()
        with self._lock:
            if self._answers:
                self._answers.close()
                self._answers = None

    def remove(self) -> None:
        """Close the pager itself: who waits gets BAD_STATE, present pages stay readable. Zircon: zx_handle_close."""
        self.close()
        self.path.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Mount:
    """A vmofs that is mounted.

    Raises:
        FileNotFoundError: There is none at that path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        if not (self.path / "control" / "version").exists():
            raise FileNotFoundError(errno.ENOENT, "no vmofs is mounted there", str(path))
        self.commands = Commands(self.path / "control")

    @property
    def version(self) -> str:
        """``vmofs 0.1.0 interface 1``."""
        return (self.path / "control" / "version").read_text().strip()

    def create_pager(self, name: str) -> PagerDirectory:
        """Make a pager, or take up the one of that name that there is. Zircon: zx_pager_create."""
        pager = PagerDirectory(self, name)
        pager.path.mkdir(exist_ok=True)
        return pager

    def pager(self, name: str) -> PagerDirectory:
        """Return a pager that there is."""
        return PagerDirectory(self, name)

    def vmo(self, name: str) -> Vmo:
        """Return a VMO that there is: ``vmo/NAME``."""
        return Vmo(self, name)

    def aux(self, name: str) -> Aux:
        """Return an aux file, which need not be there yet: ``aux/NAME``."""
        return Aux(self, name)

    def create_aux(self, name: str, size: int, kind: AuxKind = AuxKind.PLAIN, *, resizable: bool = False) -> Aux:
        """Make an aux that is no ordinary file: of fixed size, contiguous or physical. Zircon: zx_vmo_create."""
        self.commands.run(VmoCreate(f"aux/{name}", size, resizable, kind))
        return Aux(self, name)

    def close(self) -> None:
        """Close the files that are open."""
        self.commands.close()
