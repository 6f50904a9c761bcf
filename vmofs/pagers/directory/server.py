"""Serves a directory: answers for its files in a mount, and, read-write, does to it what is done there.

One thread takes the requests. Some read the real files. One follows the tree, and writes back what ``fsync`` waits for,
all that came meanwhile together.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from vmofs.client.fifo import Fifo
from vmofs.client.mount import Mount
from vmofs.pagers.directory.backing import ASIDE, Backing, File
from vmofs.pagers.directory.following import Follow, has_moved
from vmofs.pagers.directory.lookups import Lookups
from vmofs.pagers.directory.notes import Notes
from vmofs.pagers.directory.showing import Show
from vmofs.status import Status, VmoError
from vmofs.units import PAGE_SIZE, Key
from vmofs.vocabulary import PacketCommand
from vmofs.wire.answers import Answer
from vmofs.wire.packets import RequestLine

_log = logging.getLogger("vmofs.client")

_PASS_SECONDS = 1.0
"""Between two looks at the tree; longer if a look takes long, so that it is a tenth of the time."""

_LONGEST_PASS_SECONDS = 60.0
_CLUSTER = 16 * PAGE_SIZE
"""Bytes that are read for a page that somebody waits for."""

_READERS = 8
_LAST_PASSES = 5
_COMPLETE_SECONDS = 1.0
"""How long a file that was removed at the end is waited for, which somebody may still have open."""

_STATUS = {
    errno.ENOSPC: Status.NO_SPACE,
    errno.EDQUOT: Status.NO_SPACE,
    errno.EBADMSG: Status.IO_DATA_INTEGRITY,
}
_STOP = None


class DirectoryServer:
    """Serves one directory.

    Args:
        mount: Where a vmofs is mounted.
        top: Where the directory is shown, below ``vmo/``.
        directory: The real one.
        pager: The name of the directory in ``control/``.
        read_only: Whether nothing can be changed in the mount.
        tell: Is given sentences for people, each once.
    """

    def __init__(
        self,
        mount: Path,
        top: str,
        directory: Path,
        *,
        pager: str,
        read_only: bool = False,
        tell: Callable[[str], None],
    ) -> None:
        self._read_only = read_only
        self._say = tell
        self._said: set[str] = set()
        self._backing = Backing(str(directory))
        self._top = top
        self._pager = Mount(mount).pager(pager)
        self._lock_fd = _lock(directory)
        self._files: dict[int, File] = {}
        self._follow: Follow | None = None
        self._notes: Notes | None = None
        self._fifo: Fifo | None = None
        self._work: SimpleQueue[RequestLine | None] = SimpleQueue()
        self._readers = ThreadPoolExecutor(_READERS, "vmofs read")
        self._is_stopped = threading.Event()
        self._has_ended = threading.Event()

    def start(self) -> None:
        """Show the directory, or take up what the server before has shown.

        Raises:
            VmoError, OSError: It cannot be shown.
        """
        is_new = not self._pager.is_there
        if is_new:
            self._pager.path.mkdir()
            if self._backing.status(ASIDE) is not None:
                self._tell(f"{self._backing.path(ASIDE)} has files that were open in a mount that was lost; they stay")
        shown = self._pager.mount.path / "vmo" / self._top
        shown.mkdir(exist_ok=True)
        if not self._read_only:
            self._pager.serve_directory(self._top, writeback=True)
        for view in (self._pager.mount.path / "vmo").glob(f".view-{self._pager.name}-*"):
            view.unlink(missing_ok=True)  # of a server that was killed
        self._notes = Notes(self._pager.mount.aux(f"served-{self._pager.name}"), is_new=is_new)
        self._follow = Follow(self._backing, self._pager, self._top, self._notes, self._files, self._tell)
        noted = list(self._notes.read())
        if self._notes.is_shown and not self._read_only:
            self._follow.recall(noted)
        else:
            show = Show(self._backing, self._pager, self._top, self._notes, self._tell)
            show.show(read_only=self._read_only)
            self._files.update(show.files)
            self._follow.recall(self._notes.read())
        self._fifo = Fifo(self._pager.path / "requests")

    def serve(self) -> dict[str, str]:
        """Serve until ``stop`` is called, or the pager is closed, or the mount is gone.

        Returns:
            What is not in the directory as it is in the mount, and why.
        """
        assert self._follow
        assert self._fifo
        assert self._notes
        taker = threading.Thread(target=self._take, name="vmofs requests")
        taker.start()
        try:
            self._serve_tree(self._follow)
        finally:
            self._has_ended.set()
            self._fifo.wake()
            taker.join()
            self._readers.shutdown()
            self._fifo.close()
            self._follow.close()
            self._notes.close()
            self._pager.close()
            self._pager.mount.close()
            self._backing.tidy()
            os.close(self._lock_fd)
        return dict(self._follow.failed)

    def stop(self) -> None:
        """Let ``serve`` write everything back, and return."""
        self._is_stopped.set()
        self._work.put(_STOP)

    def _tell(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self._say(sentence)

    # Requests

    def _take(self) -> None:
        assert self._fifo
        while not self._has_ended.is_set():
            lines = self._fifo.wait(None)
            if lines is None:
                break
            for line in lines:
                if line.command is PacketCommand.READ:
                    self._readers.submit(self._read, line)
                else:
                    self._work.put(line)
        self._has_ended.set()
        self._work.put(_STOP)

    def _read(self, line: RequestLine) -> None:
        """Answer a READ; what goes wrong with the file is the error of who waits."""
        file = self._files.get(line.key)
        if file is None:
            self._fail(line, FileNotFoundError(errno.ENOENT, "it has no content in the directory"))
            return
        try:
            start = line.offset // _CLUSTER * _CLUSTER
            end = -(-(line.offset + line.length) // _CLUSTER) * _CLUSTER
            size = -(-self._backing.size(file) // PAGE_SIZE) * PAGE_SIZE
            end = max(line.offset + line.length, min(end, size))
            try:
                self._supply(file, start, end - start)
            except OSError:  # it was cut off behind what was asked for
                self._supply(file, line.offset, line.length)
        except (OSError, VmoError) as error:
            self._fail(line, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits is to be told
            self._tell(f"{line.path} could not be read: {error!r}")
            self._fail(line, OSError(errno.EIO, "an error of the server"))

    def _supply(self, file: File, offset: int, length: int) -> None:
        """Supply pages. If the file was written back while they were read they may be old, and are read again."""
        while True:
            changes = file.changes
            data = self._backing.read(file, offset, length)
            with file.lock:
                if file.changes == changes:
                    self._pager.answers().supply([Answer(offset, Key(file.key), data)])
                    return

    def _fail(self, line: RequestLine, error: OSError | VmoError) -> None:
        number = error.errno if isinstance(error, OSError) else None
        status = _STATUS.get(number or 0, Status.IO)
        with suppress(OSError, VmoError):  # it is gone, and so is everybody who waited
            vmo = self._pager.vmo(line.path.removeprefix("vmo/"))
            with suppress(FileNotFoundError):
                if vmo.key != line.key:
                    return
            vmo.fail(line.offset, line.length, status, getattr(error, "strerror", None) or str(error))

    # The tree

    def _serve_tree(self, follow: Follow) -> None:
        next_pass = time.monotonic()
        while not self._is_stopped.is_set() and not self._has_ended.is_set():
            self._between(follow, max(0.0, next_pass - time.monotonic()))
            if time.monotonic() >= next_pass and not self._read_only and not self._has_ended.is_set():
                began = time.monotonic()
                self._pass(follow)
                took = time.monotonic() - began
                next_pass = began + took + min(max(_PASS_SECONDS, 9 * took), _LONGEST_PASS_SECONDS)
        if not self._read_only and not self._has_ended.is_set():
            self._finish(follow)

    def _finish(self, follow: Follow) -> None:
        """Write back everything; then let go what was removed, as far as nobody has it open."""
        for _ in range(_LAST_PASSES):
            if not self._pass(follow) and not follow.failed:
                break
        end = time.monotonic() + _COMPLETE_SECONDS
        while follow.sweep() and time.monotonic() < end and not self._has_ended.is_set():
            self._between(follow, 0.05)

    def _pass(self, follow: Follow) -> bool:
        try:
            return follow.follow(lambda: self._between(follow, 0.0))
        except (OSError, VmoError) as error:
            if self._pager.is_there:
                raise
            self._tell(f"the pager or the mount has gone: {error}")
            self._has_ended.set()
            return False

    def _between(self, follow: Follow, seconds: float) -> None:
        """Do what cannot wait; wait for it for some seconds at most."""
        lines: list[RequestLine] = []
        with suppress(Empty):
            line = self._work.get(timeout=seconds) if seconds else self._work.get_nowait()
            while True:
                if line is not None:
                    lines.append(line)
                line = self._work.get_nowait()
        wanted = [line for line in lines if line.command is PacketCommand.WRITEBACK]
        for line, error in follow.sync(wanted) if wanted else ():
            if has_moved(error):  # renamed, or answered, before this line was looked at
                if Lookups(self._pager).waiting(line.key):
                    self._work.put(line)
                continue
            self._tell(f"{line.path} could not be written back: {getattr(error, 'strerror', None) or error}")
            self._fail(line, error)
        for line in lines:
            if line.command is PacketCommand.COMPLETE:
                follow.completed(line.key)
            elif line.command is PacketCommand.DIRTY:  # of a file that is served read-only
                self._fail(line, OSError(errno.EROFS, "this file is only read"))


def _lock(directory: Path) -> int:
    """Keep others from serving the same directory.

    Raises:
        OSError: Somebody does.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise OSError(errno.EBUSY, "it is being served by another process", str(directory)) from None
    return fd
