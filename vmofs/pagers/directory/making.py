"""Makes in the real directory what is no file: directories, symbolic links, FIFOs and sockets."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from vmofs.pagers.directory.backing import Backing
from vmofs.pagers.directory.showing import Found


class Making:
    """Makes what is no file.

    Args:
        backing: The real directory.
        shown: Where it is shown.
        expect: Is told of places before anything is there.
    """

    def __init__(self, backing: Backing, shown: str, expect: Callable[[Iterable[str]], None]) -> None:
        self._backing, self._shown, self._expect = backing, shown, expect
        self._others: dict[int, str] = {}  # where links and nodes are, by their inode in the mount

    def make(self, each: Found, there: os.stat_result | None) -> None:
        """Make what is no file; what is there instead goes."""
        place, status = each
        path = self._backing.path(place)
        target = os.readlink(f"{self._shown}/{place}") if stat.S_ISLNK(status.st_mode) else ""
        if there is not None:
            if target and stat.S_ISLNK(there.st_mode) and os.readlink(path) == target:
                return
            self._backing.clear(place)
        self.make_parents(place)
        other = self._others.get(status.st_ino, place)
        self._others[status.st_ino] = place
        if status.st_nlink > 1 and self._is_other_name(other, each, target):
            os.link(self._backing.path(other), path, follow_symlinks=False)
        elif target:
            os.symlink(target, path)
        elif stat.S_ISDIR(status.st_mode):
            os.mkdir(path)
        else:
            os.mknod(path, status.st_mode)

    def _is_other_name(self, other: str, each: Found, target: str) -> bool:
        """Return whether something in the directory is what has another name in the mount now."""
        if other == each.place or not self.is_same_kind(other, each.status):
            return False
        if target and os.readlink(self._backing.path(other)) != target:
            return False
        return os.lstat(f"{self._shown}/{other}").st_ino == each.status.st_ino

    def is_same_kind(self, place: str, status: os.stat_result) -> bool:
        """Return whether a place has something of this kind."""
        there = self._backing.status(place)
        return there is not None and stat.S_IFMT(there.st_mode) == stat.S_IFMT(status.st_mode)

    def make_parents(self, place: str) -> None:
        """Make the directories on the way to a place."""
        for parent in reversed(PurePosixPath(place).parents[:-1]):
            there = self._backing.status(str(parent))
            if there is None or not stat.S_ISDIR(there.st_mode):
                self._backing.clear(str(parent))
                self._expect([str(parent)])
                os.mkdir(self._backing.path(str(parent)))
