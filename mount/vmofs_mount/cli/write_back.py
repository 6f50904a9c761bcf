"""Before an unmount: pagers are asked for what they have not written back, and it is waited for.

``fsync`` of a VMO made with ``writeback`` asks its pager. Others are written back when their pager likes; so it is
waited as long as there are fewer dirty pages now and then. Where nobody does it, that is said, by name.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from vmofs.wire.names import escape, unescape
from vmofs_mount.front.unmounting import UnmountError, dirty_in

_IDLE_SECONDS = 5.0
"""How long a pager that was not asked may take to write the next page back."""

_PAUSE_SECONDS = 0.1
_SYNCS = 16
_MOST_NAMED = 5
_DIRTY = ("dirty_pages", "awaiting_clean_pages", "dirty_zero_pages")


class DirtyFile(NamedTuple):
    """A VMO that is dirty: its name as commands write it, how many pages, whether and by which pager it is served."""

    path: Path
    name: str
    pages: int
    pager: str
    is_attached: bool


def write_back(mountpoint: str, tell: Callable[[str], None]) -> None:
    """Have everything written back that is dirty; ``tell`` is given sentences about the progress.

    Raises:
        UnmountError: something is dirty that nobody writes back.
    """
    least, since = dirty_in(mountpoint).pages, time.monotonic()
    if not least:
        return
    files = list(dirty_files(mountpoint))
    syncs = _Syncs(files)
    while pages := dirty_in(mountpoint).pages:
        tell(f"waiting until pagers have written {pages} dirty pages back (Ctrl-C ends it, --discard drops them)")
        if pages < least:
            least, since = pages, time.monotonic()
        why = _why_nobody_would(mountpoint, files)
        if why:
            raise UnmountError(_refusal(mountpoint, why))
        if syncs.failure:
            raise UnmountError(_refusal(mountpoint, syncs.failure))
        if not syncs.are_busy and time.monotonic() - since > _IDLE_SECONDS:
            raise UnmountError(_refusal(mountpoint, f"no page was written back for {_IDLE_SECONDS:.0f} s"))
        time.sleep(_PAUSE_SECONDS)


def dirty_files(mountpoint: str) -> Iterator[DirtyFile]:
    """Yield the VMOs that are dirty, as far as the caller may look."""
    wanted = dirty_in(mountpoint).vmos
    for directory, _, names in os.walk(Path(mountpoint, "vmo")):
        for name in names:
            file = _examined(Path(directory, name), Path(mountpoint))
            if file is not None:
                yield file
                wanted -= 1
            if wanted <= 0:  # to look at each costs 0.1 ms
                return


def _examined(path: Path, mountpoint: Path) -> DirtyFile | None:
    try:
        lines = os.getxattr(path, "user.vmofs.all").decode().splitlines()
    except OSError:  # removed, or a file of another kind
        return None
    values = dict(line.partition("=")[::2] for line in lines)
    pages = sum(int(values.get(state, 0)) for state in _DIRTY)
    name = escape(str(path.relative_to(mountpoint)))
    if not pages or values["kind"] != "root":  # a view counts the pages of another VMO
        return None
    return DirtyFile(path, name, pages, values.get("pager", ""), values.get("state") == "attached")


def _why_nobody_would(mountpoint: str, files: list[DirtyFile]) -> str:
    """Return why something that is dirty will not be written back; empty if it may be."""
    for file in files:
        if not file.is_attached:
            return f"{file.name} was detached from its pager"
    for pager in {file.pager for file in files}:
        # One that has written back all that is its own may go while others are at work.
        if _reads_nothing(mountpoint, pager) and any(
            _examined(file.path, Path(mountpoint)) for file in files if file.pager == pager
        ):
            return f"nobody reads the requests of pager {pager}"
    return ""


def _reads_nothing(mountpoint: str, pager: str) -> bool:
    try:
        stats = Path(mountpoint, "control", unescape(pager), "stats").read_text(encoding="utf-8")
    except OSError:
        return False  # it is not to be seen, so it is waited
    found = re.search(r"^vmofs_pager_fifos_attached\{.*\} (\d+)$", stats, re.MULTILINE)
    return found is not None and found[1] == "0"


def _refusal(mountpoint: str, why: str) -> str:
    files = list(dirty_files(mountpoint))
    named = [f"{file.name} ({file.pages})" for file in files[:_MOST_NAMED]]
    nameless = dirty_in(mountpoint).pages - sum(file.pages for file in files)
    if len(files) > _MOST_NAMED:
        named.append(f"{len(files) - _MOST_NAMED} more files")
    if nameless > 0:
        named.append(f"what has no name any more, or cannot be seen ({nameless})")
    return (
        f"{mountpoint} was not unmounted, since pages are dirty: {', '.join(named)}; {why}; "
        "'vmofs umount --discard' drops them"
    )


class _Syncs:
    """Calls ``fsync`` for files, some at a time, in threads that may be abandoned: they end with the process."""

    def __init__(self, files: Iterable[DirtyFile]) -> None:
        self.failure = ""
        self._files: SimpleQueue[DirtyFile] = SimpleQueue()
        for file in files:
            self._files.put(file)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(_SYNCS)]
        for thread in self._threads:
            thread.start()

    @property
    def are_busy(self) -> bool:
        """Whether some are still to end."""
        return any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        with suppress(Empty):
            while not self.failure:
                file = self._files.get_nowait()
                try:
                    fd = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
                    try:
                        os.fsync(fd)
                    finally:
                        os.close(fd)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self.failure = f"fsync of {file.name}: {error.strerror}"
