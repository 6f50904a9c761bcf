"""``serve``: a pager, served through a mount until the pager's directory is closed."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from vmofs.client.fifo_inlet import FifoInlet
from vmofs.client.files import Files
from vmofs.client.mount import Mount
from vmofs.client.pager import Data, Object, Pager
from vmofs.client.policy.statistics import Statistics
from vmofs.client.service import Awaiter, Entry, Service, log, terms_of
from vmofs.client.writing_back import FLUSH_SECONDS, WriteBack
from vmofs.status import VmoError

_GRACE_SECONDS = 5.0
"""What the mount's own deadline is longer than the pager's, which is to come first."""


class Server:
    """A pager that is being served. A context: ``start`` and ``stop``.

    Args:
        mount: Where a vmofs is mounted.
        pager: Who says what there is, and reads it.
        name: Of the directory in ``control/``; that of the pager's class if it is not given.
        hard: What is unavailable is tried again until the deadline; only what is wrong fails at once.
        awaiter: Runs coroutines of the pager; an asyncio loop of its own if it is not given.
    """

    def __init__(
        self,
        mount: str | os.PathLike[str],
        pager: Pager,
        *,
        name: str | None = None,
        hard: bool = False,
        awaiter: Awaiter | None = None,
    ) -> None:
        self.pager = pager
        self.terms = terms_of(pager, hard=hard)
        self.directory = Mount(mount).pager(name or type(pager).__name__.lower())
        self._awaiter = awaiter
        self._may_write = type(pager).write_back is not Pager.write_back
        self._files = Files(self.directory, may_write=self._may_write)
        self._objects: dict[int, Object] = {}
        self._inlet: FifoInlet | None = None
        self._service: Service | None = None
        self._write_back = WriteBack(self._store, self._set_size)
        self._flusher: threading.Thread | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Make the files, and begin to answer for them.

        Raises:
            VmoError: A file could not be made; the sentence says which.
            OSError: The mount or its directories cannot be used.
        """
        is_new = not self.directory.is_there
        if is_new:
            self.directory.path.mkdir()
        try:
            self._set_deadline()
            self._objects.update(self._files.make(self.pager.objects(), is_new=is_new))
        except BaseException:
            self._files.unmake()
            self.directory.close()
            if is_new:
                self.directory.remove()
            raise
        self._inlet = FifoInlet(
            self.directory, self._objects, self._write_back if self._may_write else None, self._closed
        )
        self._service = Service(self.pager, self._inlet, self.terms, self._awaiter)
        self._inlet.serve(self._service)
        self._service.start()
        if self._may_write:
            self._flusher = threading.Thread(target=self._flush_for_ever, name="vmofs.client flush", daemon=True)
            self._flusher.start()

    def wait(self) -> None:
        """Wait until the pager's directory is closed, the mount is gone, or ``stop`` is called."""
        if self._service:
            self._service.wait()

    def stop(self) -> None:
        """End. The files stay; who waits for them is answered by who serves them next, or fails by the deadline."""
        self._ended.set()
        if self._service and self._inlet:
            if self._flusher:
                self._flusher.join()
                self._flush()
            self._service.stop()
            self._inlet.close()
            self._service = None
        self.directory.close()
        self.directory.mount.close()

    def remove(self) -> None:
        """End, and remove the files and the pager: who waits gets an error, who has a file open keeps what is there."""
        self.stop()
        self.directory.remove()  # first: with a pager each name that goes costs three times as much
        for obj in self._objects.values():
            with contextlib.suppress(FileNotFoundError):
                self.directory.vmo(obj.name).unlink()

    def prefetch(self, name: str, offset: int = 0, length: int | None = None) -> None:
        """Read a range of an object while nobody waits for others.

        Raises:
            KeyError: There is no object of that name.
        """
        obj = next((obj for obj in self._objects.values() if obj.name == name), None)
        if obj is None:
            raise KeyError(f"no object is called {name!r}")
        entry = self._entry(obj)
        if entry and self._service:
            self._service.prefetch(entry, [(offset, obj.size - offset if length is None else length)])

    @property
    def statistics(self) -> Statistics:
        """What was done so far."""
        return self._service.statistics if self._service else Statistics()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _entry(self, obj: Object) -> Entry | None:
        return self._inlet.entry(self._files.key(obj), obj.name) if self._inlet else None

    def _set_deadline(self) -> None:
        """Let the mount's own deadline come after the pager's, as far as the mount permits it."""
        seconds = 0.0 if math.isinf(self.terms.deadline) else self.terms.deadline + _GRACE_SECONDS
        try:
            self.directory.deadline = seconds
        except OSError as error:
            log.warning("%s keeps its deadline of %g s: %s", self.directory.path, self.directory.deadline, error)

    # Objects that are written to

    def _store(self, obj: Object, offset: int, data: Data) -> None:
        self._result(self.pager.write_back(obj, offset, data))

    def _set_size(self, obj: Object, size: int) -> None:
        self._result(self.pager.set_size(obj, size))

    def _result(self, result: Any) -> None:  # noqa: ANN401 - what methods of a pager return
        if self._service:
            self._service.result(result)

    def _closed(self, obj: Object) -> None:
        self.pager.close(obj)

    def _flush_for_ever(self) -> None:
        while not self._ended.wait(FLUSH_SECONDS):
            self._flush()

    def _flush(self) -> None:
        """Write back what is behind. What cannot be stays dirty for the next time."""
        for obj in list(self._objects.values()):
            entry = self._entry(obj) if self._files.is_written(obj) else None
            if entry is None:
                continue
            try:
                self._write_back.flush(entry)
            except (OSError, VmoError) as error:
                log.info("vmo/%s is not written back yet: %s", obj.name, error)
            except Exception:  # noqa: BLE001 - the author's
                log.exception("vmo/%s could not be written back", obj.name)


def serve(
    mount: str | os.PathLike[str],
    pager: Pager,
    *,
    name: str | None = None,
    hard: bool = False,
    ready: Callable[[], object] | None = None,
) -> None:
    """Serve a pager until its directory in ``control/`` is closed, or the mount is gone, or SIGTERM or Ctrl-C comes.

    Args:
        mount: Where a vmofs is mounted.
        pager: Who says what there is, and reads it.
        name: Of the directory in ``control/``; that of the pager's class if it is not given.
        hard: What is unavailable is tried again until the deadline; only what is wrong fails at once.
        ready: Is called when the files are there.

    Raises:
        VmoError: A file could not be made; the sentence says which.
        OSError: The mount or its directories cannot be used.
    """
    with _termination_raises(), Server(mount, pager, name=name, hard=hard) as server:
        if ready:
            ready()
        server.wait()


@contextlib.contextmanager
def _termination_raises() -> Iterator[None]:
    """Let SIGTERM end the process in order, if nobody else has a plan for it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
