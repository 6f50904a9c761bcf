"""What the next server must know if this one is killed: an aux file of the mount, which lives as long as the keys do.

Lines ``KEY DEVICE INODE PLACE``: that a file of the mount has its content in that inode, and that a place is ours.
``KEY`` is 0 for what is no VMO. The line ``shown`` says that all that was there in the beginning is in the mount: from
then on what is not there was removed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from vmofs.client.mount import Aux
from vmofs.pagers.directory.backing import Identity
from vmofs.wire.names import escape, unescape

_SHOWN = "shown"


class Note(NamedTuple):
    """That a place is ours, and which file of the mount it is the content of; key 0: of none."""

    key: int
    identity: Identity
    place: str


class Notes:
    """The notes about one served directory."""

    def __init__(self, aux: Aux, *, is_new: bool) -> None:
        self.path = aux.path
        self.is_shown = False
        self.is_new = is_new
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if is_new else 0)
        self._fd = os.open(self.path, flags, 0o600)

    def read(self) -> Iterator[Note]:
        """Yield what was noted before."""
        text = os.pread(self._fd, os.fstat(self._fd).st_size, 0).decode()
        for line in text.split("\n")[:-1]:
            if line == _SHOWN:
                self.is_shown = True
            else:
                key, device, inode, place = line.split(" ", 3)
                yield Note(int(key), (int(device), int(inode)), unescape(place))

    def add(self, *notes: Note) -> None:
        """Note something, before it is done."""
        lines = [f"{note.key} {note.identity[0]} {note.identity[1]} {escape(note.place)}\n" for note in notes]
        self._write("".join(lines))

    def shown(self) -> None:
        """Note that all is shown."""
        self._write(f"{_SHOWN}\n")
        self.is_shown = True

    def rewrite(self, notes: list[Note]) -> None:
        """Keep only these."""
        other = self.path.with_name(f"{self.path.name}.new")
        fd = os.open(other, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.close(self._fd)
        self._fd = fd
        self.add(*notes)
        if self.is_shown:
            self._write(f"{_SHOWN}\n")
        other.rename(self.path)

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        """Close it; it stays."""
        os.close(self._fd)

    def _write(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(self._fd, data) :]
