"""The files of a pager in a mount: made of its objects, taken up again after a restart.

A VMO is told from others by its key, a hash of the name, size and version of its object. So a process that is started
again knows the VMOs of the one before, whatever they are called by now, and goes on with what is there. One that has
another size or version than its object has now is removed, and a new one made: who has the old one open keeps it, with
the pages that are there, and gets EBADMSG for others. Not so one that is written to, which may be ahead of its pager.

A file is only read unless the pager has ``write_back`` and the object has write permission. Who tries to write to it
gets an error. That cannot be left to permission bits, since to supply pages of a VMO needs the right to write to it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import PurePosixPath

from vmofs.client.fifo_inlet import cut_text
from vmofs.client.mount import PagerDirectory
from vmofs.client.pager import Object
from vmofs.status import AlreadyExistsError, InvalidArgsError
from vmofs.wire.commands import CreateVmo, QueryVmoStats
from vmofs.wire.names import escape, parse_path

_log = logging.getLogger("vmofs.client")

_BATCH = 256
_KEY_BYTES = 8
_TEXT_BYTES = 4000
"""What ``source=`` and ``version=`` may have."""
_WRITE_BITS = 0o222


def key_of(obj: Object, *, is_written: bool = False) -> int:
    """Return the key of the VMO of an object. One that is written to stays the same whatever becomes of its content."""
    text = obj.name if is_written else f"{obj.name}\0{obj.size}\0{obj.version or ''}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES).digest())


class Files:
    """The files of a pager in a mount."""

    def __init__(self, directory: PagerDirectory, *, may_write: bool) -> None:
        self._directory = directory
        self._may_write = may_write
        self._directories: set[PurePosixPath] = set()
        self._made: list[str] = []

    def make(self, objects: Iterable[Object], *, is_new: bool) -> Iterator[tuple[int, Object]]:
        """Make the files of objects, as far as they are not there; yield each object with its key.

        Args:
            objects: What the pager has.
            is_new: The pager was just made, so that it has no VMO yet.

        Raises:
            InvalidArgsError: A name cannot be one; two objects have the same.
            AlreadyExistsError: A name is that of a file that is not this pager's.
        """
        seen: set[int] = set()
        left = iter(objects)
        while batch := list(islice(left, _BATCH)):
            wanted = []
            for obj in batch:
                key = self.key(obj)
                parse_path(escape(f"vmo/{obj.name}"))
                if obj.size < 0 or key in seen:
                    raise InvalidArgsError(f"object {obj.name!r} of {obj.size} bytes: a size below 0, or there twice")
                seen.add(key)
                self._make_parents(PurePosixPath(obj.name))
                if is_new or not self._is_there(obj, key):
                    wanted.append((obj, self._command(obj, key)))
            while wanted:
                wanted = wanted[self._create(wanted) :]
            yield from ((self.key(obj), obj) for obj in batch)

    def key(self, obj: Object) -> int:
        """Return the key of the VMO of an object."""
        return key_of(obj, is_written=self.is_written(obj))

    def is_written(self, obj: Object) -> bool:
        """Return whether what is written to an object is written back."""
        return self._may_write and bool(obj.mode & _WRITE_BITS)

    def _create(self, wanted: list[tuple[Object, CreateVmo]]) -> int:
        """Make VMOs; return how many of them are there now."""
        try:
            done = self._directory.create_vmos([command for _, command in wanted])
        except AlreadyExistsError:
            self._make_room(wanted[0][0])
            return 0
        self._made += (obj.name for obj, _ in wanted[:done])
        return done

    def unmake(self) -> None:
        """Remove the files that were made, since others could not be."""
        for name in self._made:
            self._directory.vmo(name).unlink()
        self._made.clear()

    def _command(self, obj: Object, key: int) -> CreateVmo:
        is_written = self.is_written(obj)
        mode = obj.mode & 0o777 if os.geteuid() == 0 else obj.mode & 0o777 | 0o200  # else it could not supply
        return CreateVmo(
            f"vmo/{obj.name}",
            obj.size,
            key,
            resizable=is_written,
            trap_dirty=not is_written,
            writeback=is_written,
            mode=mode,
            source=cut_text(obj.source or "", _TEXT_BYTES) or None,
            version=cut_text(obj.version or "", _TEXT_BYTES) or None,
        )

    def _is_there(self, obj: Object, key: int) -> bool:
        vmo = self._directory.vmo(obj.name)
        try:
            return vmo.key == key and vmo.attribute("state") == "attached"
        except OSError:
            return False

    def _make_room(self, obj: Object) -> None:
        """Remove the file of a name, if it is of this pager or of one that was closed.

        Raises:
            AlreadyExistsError: It is not.
        """
        vmo = self._directory.vmo(obj.name)
        if not vmo.path.is_file():
            raise AlreadyExistsError(f"vmo/{obj.name} is there, and is no file")
        if vmo.attribute("state") == "attached":
            try:
                self._directory.run(QueryVmoStats(vmo.field))
            except InvalidArgsError:
                raise AlreadyExistsError(f"vmo/{obj.name} is there, and is another pager's") from None
        _log.info("vmo/%s is another one now", obj.name)
        # Who has the old one open may ask for pages of it. A VMO that was unlinked is called by the name that it had
        # last, which must not be that of the new one.
        old = vmo.path.with_name(f".old-{vmo.key:x}")
        vmo.path.rename(old)
        old.unlink()

    def _make_parents(self, name: PurePosixPath) -> None:
        for parent in reversed(name.parents[:-1]):
            if parent not in self._directories:
                (self._directory.mount.path / "vmo" / parent).mkdir(exist_ok=True)
                self._directories.add(parent)
