"""Shows a real directory in a mount: makes directories, VMOs, links and nodes there, with their attributes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from vmofs.client.mount import PagerDirectory
from vmofs.pagers.directory.attributes import bring
from vmofs.pagers.directory.backing import ASIDE, Backing, File, Identity, identity_of
from vmofs.pagers.directory.notes import Note, Notes
from vmofs.status import VmoError
from vmofs.wire.commands import CreateVmo
from vmofs.wire.names import escape, parse_path

_BATCH = 256
_MODE_BITS = 0o777
_KINDS = {
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Found(NamedTuple):
    """Something in a directory, by its path in it."""

    place: str
    status: os.stat_result


def walk(top: str, tell: Callable[[str], None], *, device: int | None = None) -> Iterator[Found]:
    """Yield all that is below a directory, each directory before what is in it.

    Args:
        top: The directory.
        tell: Is told what cannot be looked at, or is on another filesystem.
        device: The filesystem, if others are to be left out.
    """
    left = [""]
    while left:
        folder = left.pop()
        try:
            with os.scandir(f"{top}/{folder}" if folder else top) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            tell(f"{folder or top} is left out: {error.strerror}")
            continue
        for entry in entries:
            place = f"{folder}/{entry.name}" if folder else entry.name
            if place == ASIDE:
                continue
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if device is not None and status.st_dev != device:
                    tell(f"{place!r} is left out: it is another filesystem's")
                    continue
                if stat.S_ISDIR(status.st_mode):
                    left.append(place)
                yield Found(place, status)


def key_for(identity: Identity) -> int:
    """Return the key of a file that was there before: no number that the mount chooses by itself."""
    digest = hashlib.blake2b(b"%d %d" % identity, digest_size=8).digest()
    return int.from_bytes(digest) | 1 << 63


class Show:
    """Shows one directory.

    Args:
        backing: The directory.
        pager: Who is asked for its files.
        top: Its path below ``vmo/``.
        notes: What is noted of it.
        tell: Is told what is left out.
    """

    def __init__(
        self, backing: Backing, pager: PagerDirectory, top: str, notes: Notes, tell: Callable[[str], None]
    ) -> None:
        self._backing, self._pager, self._top, self._notes, self._tell = backing, pager, top, notes, tell
        self._shown = str(pager.mount.path / "vmo" / top)
        self._first: dict[Identity, str] = {}  # of several names of one inode
        self.files: dict[int, File] = {}

    def show(self, *, read_only: bool) -> None:
        """Show what is not there yet.

        Raises:
            VmoError, OSError: The mount does not take it.
        """
        top = os.stat(self._backing.top)
        found = [each for each in walk(self._backing.top, self._tell, device=top.st_dev) if self._may_be(each)]
        files: list[Found] = []
        others: list[Found] = []
        for each in found:
            if stat.S_ISDIR(each.status.st_mode):
                with suppress(FileExistsError):
                    os.mkdir(self._path(each.place))
            elif stat.S_ISREG(each.status.st_mode) and key_for(identity_of(each.status)) not in self.files:
                files.append(each)
                self._file(each, read_only=read_only)
            else:
                others.append(each)
        self._make_vmos(files, read_only=read_only)
        left_out = {each for each in others if not self._make_other(each)}
        self._notes.add(*(self._note(each) for each in found if each not in left_out))
        for each in reversed([*found, Found("", top)]):
            if each not in left_out:
                self._bring(each, read_only=read_only)
        self._notes.shown()

    def _path(self, place: str) -> str:
        return f"{self._shown}/{place}" if place else self._shown

    def _may_be(self, each: Found) -> bool:
        """Return whether this can be in a mount; what is left out is told, below a directory with it."""
        try:
            each.place.encode()
        except UnicodeEncodeError:
            self._tell(f"{each.place!r} is left out: its name is not UTF-8")
            return False
        kind = _KINDS.get(stat.S_IFMT(each.status.st_mode))
        if kind:
            self._tell(f"{each.place!r} is left out: it is {kind}")
            return False
        try:
            parse_path(escape(f"vmo/{self._top}/{each.place}"))
        except VmoError as error:
            self._tell(f"{each.place[:40]!r}... is left out: {error}")
            return False
        return True

    def _file(self, each: Found, *, read_only: bool) -> None:
        identity = identity_of(each.status)
        file = self.files[key_for(identity)] = File(key_for(identity), identity)
        self._first[identity] = each.place
        if read_only:
            file.version = each.status.st_size, each.status.st_mtime_ns
        self._backing.know(file, each.place, identity)

    def _make_vmos(self, files: list[Found], *, read_only: bool) -> None:
        if not self._notes.is_new:
            files = [each for each in files if not os.path.lexists(self._path(each.place))]
        for start in range(0, len(files), _BATCH):
            batch = [self._command(each, read_only=read_only) for each in files[start : start + _BATCH]]
            while batch:
                batch = batch[self._pager.create_vmos(batch) :]

    def _command(self, each: Found, *, read_only: bool) -> CreateVmo:
        mode = each.status.st_mode & _MODE_BITS
        return CreateVmo(
            f"vmo/{self._top}/{each.place}",
            each.status.st_size,
            key_for(identity_of(each.status)),
            resizable=not read_only,
            trap_dirty=read_only,
            writeback=not read_only,
            mode=mode if os.geteuid() == 0 else mode | stat.S_IWUSR,  # else it could not be supplied
        )

    def _make_other(self, each: Found) -> bool:
        """Make another name of a file, a symbolic link or a node; return whether there is one."""
        path = self._path(each.place)
        if os.path.lexists(path):
            return True
        try:
            identity = identity_of(each.status)
            first = self._first.setdefault(identity, each.place)
            if first != each.place:
                os.link(self._path(first), path, follow_symlinks=False)
                if stat.S_ISREG(each.status.st_mode):
                    self._backing.know(self.files[key_for(identity)], each.place, identity)
            elif stat.S_ISLNK(each.status.st_mode):
                os.symlink(os.readlink(self._backing.path(each.place)), path)
            else:
                os.mknod(path, each.status.st_mode)
        except OSError as error:
            self._tell(f"{each.place!r} is left out: {error.strerror}")
            return False
        return True

    def _note(self, each: Found) -> Note:
        identity = identity_of(each.status)
        return Note(key_for(identity) if stat.S_ISREG(each.status.st_mode) else 0, identity, each.place)

    def _bring(self, each: Found, *, read_only: bool) -> None:
        """Bring the attributes; of a file that others may change meanwhile not, if it cannot be."""
        status = each.status
        if read_only and os.geteuid() and stat.S_ISREG(status.st_mode):
            return
        try:
            bring(self._backing.path(each.place), status, self._path(each.place), self._tell, is_new=True)
        except OSError as error:
            self._tell(f"attributes of {each.place!r} are left out: {error.strerror}")
