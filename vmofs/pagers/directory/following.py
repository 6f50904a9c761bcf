"""Does to the real directory what was done in the mount: new files and names, removals, content, attributes.

The tree in the mount is the truth. It is looked through again and again; what has another status than the last time is
looked at. So nothing has to be told, and a server that was killed has missed nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeAlias

from vmofs.client.mount import PagerDirectory
from vmofs.pagers.directory.attributes import bring
from vmofs.pagers.directory.backing import ASIDE, Backing, File, identity_of
from vmofs.pagers.directory.lookups import Lookups
from vmofs.pagers.directory.making import Making
from vmofs.pagers.directory.notes import Note, Notes
from vmofs.pagers.directory.showing import Found, walk
from vmofs.pagers.directory.storing import WORKERS, Item, Store
from vmofs.status import BadHandleError, VmoError
from vmofs.units import PAGE_SIZE, PageRange
from vmofs.vocabulary import DirtyRange
from vmofs.wire.names import escape
from vmofs.wire.packets import RequestLine

_BATCH = 256
_REWRITE_BYTES = 1 << 20
_DIRTY = ("dirty_pages", "awaiting_clean_pages", "dirty_zero_pages")

_Signature: TypeAlias = tuple[int, ...]


class Follow:
    """Follows one directory.

    Args:
        backing: The real directory.
        pager: Who is asked for the files of the mount.
        top: Its path below ``vmo/``.
        notes: What is noted of it.
        files: What was shown, by key; grows.
        tell: Is told what cannot be done.
    """

    def __init__(
        self,
        backing: Backing,
        pager: PagerDirectory,
        top: str,
        notes: Notes,
        files: dict[int, File],
        tell: Callable[[str], None],
    ) -> None:
        self._backing, self._pager, self._notes, self.files, self._tell = backing, pager, notes, files, tell
        self._top = top
        self._prefix = f"vmo/{top}/"
        self._shown = str(pager.mount.path / "vmo" / top)
        self._store = Store(pager, backing)
        self._known: set[str] = set()
        self._seen: dict[str, _Signature] = {}
        self._bound: list[Note] = []
        self._lookups = Lookups(pager)
        self._making = Making(backing, self._shown, self._expect)
        self._threads = ThreadPoolExecutor(WORKERS, "vmofs look")
        self._away: set[str] = set()  # in the mount, when it was last looked at
        self._unscanned: list[str] = []
        self.failed: dict[str, str] = {}
        """What is not in the directory as it is in the mount, and why, after the last pass."""

    def close(self) -> None:
        """End."""
        self._store.close()
        self._threads.shutdown()

    def recall(self, notes: Iterable[Note]) -> None:
        """Learn what the servers before this one have noted. A file is where its inode is."""
        files: dict[tuple[int, int], File] = {}
        for note in notes:
            if note.place:
                self._known.add(note.place)
            if note.key:
                file = self.files.setdefault(note.key, File(note.key))
                if file.identity is not None:
                    files.pop(file.identity, None)
                file.identity = note.identity
                files[note.identity] = file
        aside = walk(self._backing.path(ASIDE), lambda _: None)
        places = [*walk(self._backing.top, lambda _: None), *(Found(f"{ASIDE}/{at}", is_) for at, is_ in aside)]
        for place, status in places:
            its_file = files.get(identity_of(status))
            if its_file is not None:
                self._backing.know(its_file, place, identity_of(status))

    def know(self, places: Iterable[str]) -> None:
        """Learn which places are ours."""
        self._known.update(places)

    # One pass

    def follow(self, between: Callable[[], None]) -> bool:
        """Do what was done since the last pass; return whether there was anything.

        ``between`` is called now and then, for what cannot wait.
        """
        self.failed.clear()
        found = {each.place: each.status for each in walk(self._shown, self._not_scanned)}
        changed = [Found(place, status) for place, status in found.items() if self._is_changed(place, status)]
        items: dict[File, tuple[Found, Item]] = {}
        touched = {_parent(each.place) for each in changed}
        for start in range(0, len(changed), _BATCH):
            batch = changed[start : start + _BATCH]
            self._expect([each.place for each in batch])
            for each, values in zip(batch, self._threads.map(self._values_of, batch), strict=True):
                item = self._try(each.place, partial(self._take_up, each, values))
                if item is not None:
                    items[item.file] = each, item  # once, if it has several names
            self._note_bound()
            between()
        gone = {place for place in self._known if place not in found and not self._is_unscanned(place)}
        # What was renamed from a directory that is looked at late to one that was looked at early is in neither. So
        # nothing goes before it was away twice.
        ripe, self._away = gone & self._away, gone
        for place in sorted(ripe, reverse=True):
            between()
            self._try(place, partial(self._remove, place))
            touched.add(_parent(place))
        dirty = list(items.values())
        for start in range(0, len(dirty), _BATCH):
            self._write_back(dirty[start : start + _BATCH])
            between()
        self.sweep()
        self._bring(changed, touched)
        self._unscanned.clear()
        if self._notes.size > _REWRITE_BYTES:
            self._rewrite_notes()
        return bool(changed or gone)

    def _is_changed(self, place: str, status: os.stat_result) -> bool:
        return self._seen.get(place) != _signature(status)

    def _not_scanned(self, sentence: str) -> None:
        self._unscanned.append(sentence.partition(" is left out")[0])
        self._tell(sentence)

    def _is_unscanned(self, place: str) -> bool:
        """Return whether nothing is known of a place, as its directory may not be read."""
        return any(place.startswith(f"{folder}/") for folder in self._unscanned)

    def _try(self, place: str, step: Callable[[], Item | None]) -> Item | None:
        try:
            return step()
        except (OSError, VmoError) as error:
            self._fail(place, error)
        return None

    def _fail(self, place: str, error: OSError | VmoError) -> None:
        """Take it that something could not be done. If it was removed or renamed meanwhile the next pass does that."""
        sentence = getattr(error, "strerror", None) or str(error)
        self.failed[place] = sentence
        if has_moved(error):
            return
        self._tell(f"{place!r} is not in the directory as it is in the mount: {sentence}")

    def _values_of(self, each: Found) -> dict[str, str] | None:
        """Return what the mount knows of a file of this pager; None of anything else."""
        if not stat.S_ISREG(each.status.st_mode):
            return None
        try:
            text = os.getxattr(f"{self._shown}/{each.place}", "user.vmofs.all", follow_symlinks=False).decode()
        except OSError:  # it is gone: so is its place in the next pass
            return None
        values = dict(line.partition("=")[::2] for line in text.splitlines())
        if values.get("kind") == "root" and values.get("pager") == escape(self._pager.name):
            return values
        self._tell(f"{each.place!r} is left out: it is a view, or another pager's")
        return None

    def _take_up(self, each: Found, values: dict[str, str] | None) -> Item | None:
        """Let something be in the directory; return what is to be written back of it."""
        place, status = each
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            return self._take_up_file(each, values) if values else None
        there = self._backing.status(place)
        if kind == stat.S_IFLNK or not self._making.is_same_kind(place, status):
            self._making.make(each, there)
        return None

    def _take_up_file(self, each: Found, values: dict[str, str]) -> Item | None:
        place, status = each
        file = self._place(int(values["key"]), place)
        there = self._backing.status(place)
        if there is not None and there.st_size == status.st_size and not any(int(values[name]) for name in _DIRTY):
            return None
        pages = -(-status.st_size // PAGE_SIZE)
        is_all_dirty = int(values["dirty_pages"]) == pages == int(values["size_pages"])
        ranges = [DirtyRange(PageRange(0, pages), is_zero=False)] if is_all_dirty and pages else None
        return Item(file, self._pager.vmo(f"{self._top}/{place}"), status.st_ino, ranges)

    def _place(self, key: int, place: str) -> File:
        """Let a file have a name in the directory."""
        file = self.files.setdefault(key, File(key))
        self._making.make_parents(place)
        if file.identity is None:
            self._backing.create(file, place)
        elif place not in file.places or not self._backing.is_at(file, place):
            self._backing.give_name(file, place)
        else:
            return file
        assert file.identity is not None
        self._bound.append(Note(key, file.identity, place))
        return file

    def _remove(self, place: str) -> None:
        if os.path.lexists(f"{self._shown}/{place}"):
            return  # it has come back
        self._backing.take_name(place)
        self._known.discard(place)
        self._away.discard(place)
        self._seen.pop(place, None)

    def _expect(self, places: Iterable[str]) -> None:
        """Note that places are ours from now on, before anything is there."""
        new = [place for place in places if place not in self._known]
        if new:
            self._notes.add(*(Note(0, (0, 0), place) for place in new))
            self._known.update(new)

    def _note_bound(self) -> None:
        """Note where files have their content by now, before anything of it counts as written back."""
        if self._bound:
            self._notes.add(*self._bound)
            self._bound.clear()

    def _rewrite_notes(self) -> None:
        notes = [Note(0, (0, 0), place) for place in self._known]
        self._notes.rewrite(
            notes + [Note(each.key, each.identity, "") for each in self.files.values() if each.identity]
        )

    def _write_back(self, items: list[tuple[Found, Item]]) -> None:
        self._store.write_back([item for _, item in items])
        for each, item in items:
            if item.error is not None:
                self._fail(each.place, item.error)

    def _bring(self, changed: list[Found], touched: set[str]) -> None:
        """Bring the attributes, and of directories last, since their times change with what is in them."""
        folders = {each.place for each in changed if stat.S_ISDIR(each.status.st_mode)} | touched
        for each in changed:
            if each.place not in folders and each.place not in self.failed:
                self._bring_one(each)
        for place in sorted(folders, reverse=True):
            with suppress(FileNotFoundError):
                self._bring_one(Found(place, os.lstat(f"{self._shown}/{place}" if place else self._shown)))

    def _bring_one(self, each: Found) -> None:
        try:
            bring(f"{self._shown}/{each.place}", each.status, self._backing.path(each.place), self._tell)
        except OSError as error:
            self._fail(each.place, error)
        else:
            self._seen[each.place] = _signature(each.status)

    # What cannot wait

    def sync(self, lines: list[RequestLine]) -> list[tuple[RequestLine, OSError | VmoError]]:
        """Write back files for whose ``fsync`` somebody waits; return those that could not be, and why."""
        items: dict[int, Item] = {}
        failed = []
        for line in lines:
            try:
                if line.key not in items:
                    items[line.key] = self._item_of(line)
            except (OSError, VmoError) as error:
                failed.append((line, error))
        self._note_bound()
        self._store.write_back(list(items.values()))
        for line in lines:
            item = items.get(line.key)
            if item is not None and item.error is not None:
                failed.append((line, item.error))
        return failed

    def _item_of(self, line: RequestLine) -> Item:
        path = self._lookups.path_now(line)
        name = path.removeprefix("vmo/")
        inode = self._lookups.inode(path, line.key)
        if path.startswith(self._prefix) and inode:
            self._expect([path.removeprefix(self._prefix)])
            return Item(self._place(line.key, path.removeprefix(self._prefix)), self._pager.vmo(name), inode)
        file = self.files.setdefault(line.key, File(line.key))  # it has no name here any more, and is open
        aside = self._backing.set_aside(file)
        assert file.identity is not None
        self._bound.append(Note(file.key, file.identity, aside))
        return Item(file, self._pager.vmo(name), inode)

    def sweep(self) -> bool:
        """Let go what nobody has any more, of what is set aside; return whether something is left."""
        aside = [file for file in list(self.files.values()) if any(at.startswith(f"{ASIDE}/") for at in file.places)]
        for file in aside:
            self.completed(file.key)
        self._backing.tidy()
        return any(file.key in self.files for file in aside)

    def completed(self, key: int) -> None:
        """Learn that nobody may have a file any more."""
        file = self.files.get(key)
        if file is not None and not self._lookups.lives(key):
            self._backing.forget(file)
            del self.files[key]


def has_moved(error: OSError | VmoError) -> bool:
    """Return whether something failed since a name is not, or not any more, that of the file."""
    return isinstance(error, (FileNotFoundError, BadHandleError)) or getattr(error, "errno", 0) == errno.ESTALE


def _signature(status: os.stat_result) -> _Signature:
    return (
        status.st_ino,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _parent(place: str) -> str:
    return place.rpartition("/")[0]
