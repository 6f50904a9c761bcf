"""Requests of a FIFO, and answers by the files of a mount, for who serves objects."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial

from vmofs.client.fifo import Fifo
from vmofs.client.mount import PagerDirectory, PagerVmo
from vmofs.client.open_files import SupplyFile
from vmofs.client.pager import Data, Object
from vmofs.client.service import Entry, Piece, Read, Service, Task
from vmofs.status import BadHandleError, Status, VmoError
from vmofs.units import Key
from vmofs.vocabulary import PacketCommand
from vmofs.wire.answers import Answer
from vmofs.wire.packets import RequestLine, parse_packet

_log = logging.getLogger("vmofs.client")
_TOP = "vmo/"
_REASON_BYTES = 500
"""What ``reason=`` may have."""


def _nothing() -> None:
    """Answer what needs no answer."""


class Answers:
    """Where answers for one object go: to its VMO, by whatever name that has at the moment."""

    def __init__(self, vmo: PagerVmo, key: int) -> None:
        self.vmo, self.key = vmo, key
        self._lock = threading.Lock()
        self._file: SupplyFile | None = None
        self._is_closed = False

    def supply(self, offset: int, data: Data) -> None:
        """Supply whole pages.

        Raises:
            OSError: They were not taken; ENOENT, nobody has the VMO any more.
        """
        (self._file or self._open()).write(offset, data)

    def supply_many(self, pieces: Sequence[Piece]) -> int:
        """Supply several pieces in one write; return how many were taken before one was not.

        Raises:
            OSError: The first one was not.
        """
        if self._is_closed:
            raise FileNotFoundError(errno.ENOENT, "nobody has it any more", self.vmo.field)
        return self.vmo.pager.answers().supply([Answer(offset, Key(self.key), data) for offset, data in pieces])

    def fail(self, offset: int, length: int, status: Status, sentence: str) -> None:
        """Fail a range, and say why."""
        reason = cut_text(sentence, _REASON_BYTES) or None
        try:
            self.vmo.fail(offset, length, status, reason)
        except BadHandleError:
            self._follow()
            self.vmo.fail(offset, length, status, reason)

    def close(self) -> None:
        """Take no more answers."""
        with self._lock:
            self._is_closed = True
            self.vmo.close()
            self._file = None

    def _open(self) -> SupplyFile:
        """Hold open what pages are supplied by, and see to it that this is the VMO, since names may be exchanged."""
        with self._lock:
            if self._is_closed:
                raise FileNotFoundError(errno.ENOENT, "nobody has it any more", self.vmo.field)
            if self._file:
                return self._file
            try:
                file = self.vmo.open_supply()
                is_it = self._is_it()
            except FileNotFoundError:
                is_it = False
            if not is_it:
                self._follow()
                self.vmo.close()
                file = self.vmo.open_supply()
            self._file = file  # what is open stays this VMO's, whatever is renamed
            return file

    def _is_it(self) -> bool:
        try:
            return self.vmo.key == self.key
        except FileNotFoundError:
            return True  # removed, and open: ``supply/`` still has it

    def _follow(self) -> None:
        """Take the name that the VMO has now, if somebody waits for it.

        Raises:
            FileNotFoundError: Nobody does.
        """
        for line in self.vmo.pager.pending():
            request = parse_packet(" ".join(line.split(" ")[:5]))
            if request.key == self.key:
                self.vmo.name = request.path.removeprefix(_TOP)
                return
        raise FileNotFoundError(errno.ENOENT, "nobody waits for it any more", self.vmo.field)


class FifoInlet:
    """Requests for the objects of a pager.

    Args:
        directory: The pager's.
        objects: What it serves, by key.
        write_back: Writes back what is dirty of an object; None if it cannot.
        closed: Is told of objects that nobody has any more.
    """

    def __init__(
        self,
        directory: PagerDirectory,
        objects: dict[int, Object],
        write_back: Callable[[Entry], None] | None,
        closed: Callable[[Object], None],
    ) -> None:
        self._directory, self._objects = directory, objects
        self._write_back, self._closed = write_back, closed
        self._entries: dict[int, Entry] = {}
        self._fifo = Fifo(directory.path / "requests")
        self._service: Service | None = None

    def serve(self, service: Service) -> None:
        """Learn who takes the requests."""
        self._service = service

    def wait(self, seconds: float | None) -> list[Read | Task] | None:
        """Return what came; see ``Inlet``."""
        try:
            lines = self._fifo.wait(seconds)
        except OSError as error:
            _log.warning("the FIFO of %s ends: %s", self._directory.path, error)
            return None
        return None if lines is None else [self._event(line) for line in lines]

    def wake(self) -> None:
        """Let ``wait`` return."""
        self._fifo.wake()

    def close(self) -> None:
        """Close the FIFO, and all files of VMOs."""
        self._fifo.close()
        for entry in self._entries.values():
            entry.outlet.close()

    def entry(self, key: int, name: str) -> Entry | None:
        """Return the object with a key, whose VMO has this name now; None if it is of an object of before."""
        entry = self._entries.get(key)
        if entry is None:
            obj = self._objects.get(key)
            if obj is None or self._service is None:
                return None
            entry = self._entries[key] = self._service.entry(obj, Answers(self._directory.vmo(name), key))
        elif vmo_of(entry).name != name:
            vmo_of(entry).name = name
        return entry

    def _event(self, line: RequestLine) -> Read | Task:
        entry = self.entry(line.key, line.path.removeprefix(_TOP))
        if line.command is PacketCommand.COMPLETE:
            return partial(self._complete, line, entry)
        if line.command is PacketCommand.TOUCH:
            return _nothing  # of a mark that another process has made
        if entry is None:
            return partial(self._refuse, line, Status.IO_DATA_INTEGRITY, "the object has another size or version now")
        if line.command is PacketCommand.READ:
            return Read(entry, line.offset, line.offset + line.length)
        if line.command is PacketCommand.WRITEBACK and self._write_back:
            return partial(self._bring_back, line, entry, self._write_back)
        return partial(self._refuse, line, Status.BAD_STATE, "this file is only read")

    def _complete(self, line: RequestLine, entry: Entry | None) -> None:
        """Let an object go, unless its VMO is there still: a request line of a view that was closed says the same."""
        if entry is None or self._service is None:
            return
        with contextlib.suppress(OSError):
            if self._directory.vmo(line.path.removeprefix(_TOP)).key == line.key:
                return
        self._service.forget(entry)
        self._entries.pop(line.key, None)
        entry.outlet.close()
        self._closed(entry.obj)

    def _bring_back(self, line: RequestLine, entry: Entry, write_back: Callable[[Entry], None]) -> None:
        """Write back what somebody waits for in fsync; what goes wrong is the result of that."""
        try:
            write_back(entry)
        except Exception:  # noqa: BLE001 - the author's
            _log.exception("vmo/%s could not be written back", entry.obj.name)
            self._refuse(line, Status.IO, "it could not be written back")

    def _refuse(self, line: RequestLine, status: Status, reason: str) -> None:
        try:
            self._directory.vmo(line.path.removeprefix(_TOP)).fail(line.offset, line.length, status, reason)
        except (OSError, VmoError) as error:
            _log.info("%s: nobody could be told that it is refused: %s", line.path, error)


def cut_text(text: str, most: int) -> str:
    """Return as much of a text as has at most so many bytes."""
    return text.encode(errors="replace")[:most].decode(errors="ignore").replace("\0", "")


def vmo_of(entry: Entry) -> PagerVmo:
    """Return the VMO of an object that is served through a FIFO."""
    assert isinstance(entry.outlet, Answers)
    return entry.outlet.vmo
