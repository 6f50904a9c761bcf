"""A pager that keeps the content of its VMOs in real files, one for each key; a script for a process of its own.

``store_pager.py MOUNT PAGER STORE SEED LOCK`` supplies what is asked for from ``STORE/KEY``, by either way of
supplying, acknowledges DIRTY requests, writes back when it is asked to, and, at random, when it is not. Names may
change at any time, so it holds its VMOs open, and asks the kernel what they are called now; while it acts on a name it
has the file LOCK locked, so that who changes names can wait. It reads what is dirty through a view of its own: a reader
of the VMO may have pages locked that it waits for, and a writer the file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from vmofs.client import Mount, PagerVmo, Request
from vmofs.status import BadHandleError, NoMemoryError, TimedOutError, VmoError
from vmofs.vocabulary import ChildKind, PacketCommand
from vmofs.wire.packets import parse_packet

IDLE_SECONDS = 0.05
TRIES = 200
NO_SUCH_NAME = (FileNotFoundError, NotADirectoryError, BadHandleError)
PAGE = 4096


class StorePager:
    """Answers for the VMOs of one pager."""

    def __init__(self, mount: Path, pager: str, store: Path, seed: int, lock: Path) -> None:
        self.store = store
        self.lock = os.open(lock, os.O_RDWR | os.O_CREAT)
        self.pager = Mount(mount).pager(pager)
        self.mount = self.pager.mount
        self.stage = self.mount.aux(f"stage-{pager}")
        self.random = random.Random(seed)  # noqa: S311 - no secret
        self.vmos: dict[int, int] = {}  # key -> descriptor
        self.unlinked: dict[int, str] = {}
        self.views = f"views-{pager}"
        (mount / "vmo" / self.views).mkdir()

    def serve(self) -> None:
        """Answer requests until the FIFO ends."""
        with self.pager.requests() as requests:
            print("open", flush=True)  # noqa: T201 - who started us waits for it
            while True:
                try:
                    request = requests.next(0 if self.random.random() < 0.02 else IDLE_SECONDS)
                except TimeoutError:
                    with self.names_stay():
                        self.flush_some()
                    continue
                if request is None:
                    return
                request.done()  # what is not answered here is answered by nobody
                with self.names_stay():
                    self.answer(request)

    @contextlib.contextmanager
    def names_stay(self) -> Iterator[None]:
        """Keep others from changing names."""
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.lock, fcntl.LOCK_UN)

    def answer(self, request: Request) -> None:
        """Answer one request. What the size has run away from meanwhile is asked for again, if anybody cares.

        What there is no memory for, or what was too slow, is tried again: nobody else answers it.
        """
        key = request.key
        if request.command is PacketCommand.COMPLETE:
            if key in self.vmos:
                os.close(self.vmos.pop(key))
            (self.store / str(key)).unlink(missing_ok=True)
            return
        if key not in self.vmos:
            self.open(key, request.path)
        for _ in range(TRIES):
            try:
                self.act(request)
            except NO_SUCH_NAME:  # renamed meanwhile, or in supply/ its directory is gone
                continue
            except (OSError, VmoError) as error:
                if not is_too_much_now(error):
                    return
                time.sleep(IDLE_SECONDS)
            else:
                return

    def act(self, request: Request) -> None:
        """Answer one request by the present name."""
        if request.command is PacketCommand.READ:
            self.supply(request.key, request.offset, request.length)
        elif request.command is PacketCommand.DIRTY:
            self.vmo(request.key).dirty(request.offset, request.length)
        else:
            self.write_back_all(request.key, request.offset, request.length)

    def open(self, key: int, said: str) -> None:
        """Hold a VMO open; the name in its request may be another's by now, then ``pending`` has the present one."""
        for name in (said, *self.names_in_pending(key)):
            self.unlinked[key] = name  # unless it can be opened
            with contextlib.suppress(*NO_SUCH_NAME):
                fd = os.open(self.mount.path / name, os.O_PATH)
                if int(os.getxattr(f"/proc/self/fd/{fd}", "user.vmofs.key")) == key:
                    self.vmos[key] = fd
                    return
                os.close(fd)

    def names_in_pending(self, key: int) -> list[str]:
        """Return by what names the requests of a VMO call it now."""
        pending = (parse_packet(" ".join(line.split()[:5])) for line in self.pager.pending())
        return [request.path for request in pending if request.key == key]

    def vmo(self, key: int) -> PagerVmo:
        """Return a VMO by its present name; by the last one if it was unlinked.

        The kernel's name of what was unlinked follows the directories above when they are renamed; ours does not.
        """
        return self.pager.vmo(self.name(key).removeprefix("vmo/"))

    def name(self, key: int) -> str:
        """Return the name that ``vmo`` goes by."""
        if key not in self.vmos:
            return self.unlinked[key]
        if not os.fstat(self.vmos[key]).st_nlink and (names := self.names_in_pending(key)):
            return names[0]
        path = str(Path(f"/proc/self/fd/{self.vmos[key]}").readlink()).removesuffix(" (deleted)")
        return str(Path(path).relative_to(self.mount.path))

    def supply(self, key: int, offset: int, length: int) -> None:
        """Supply pages from the file, by either way; what is beyond its end is zeros."""
        data = b""
        with contextlib.suppress(FileNotFoundError), (self.store / str(key)).open("rb") as file:
            data = os.pread(file.fileno(), length, offset)
        vmo = self.vmo(key)
        if self.random.random() < 0.5:
            vmo.supply(offset, data.ljust(length, b"\0"))
            return
        self.stage.path.write_bytes(data)
        os.truncate(self.stage.path, length)
        vmo.supply_from(offset, length, self.stage)

    def write_back_all(self, key: int, offset: int, length: int) -> None:
        """Write everything back, for fsync: again if the size changed under our hands.

        Raises:
            FileNotFoundError: its name changed, or the pager is closed.
        """
        for _ in range(TRIES):
            try:
                self.write_back(key, 1.0)
            except NO_SUCH_NAME:
                raise
            except (OSError, VmoError):
                continue
            return
        self.vmo(key).fail(offset, length)

    def flush_some(self) -> None:
        """Write back a part of what is dirty in some VMO."""
        if self.vmos:
            key = self.random.choice(list(self.vmos))
            with contextlib.suppress(OSError, VmoError):
                if os.fstat(self.vmos[key]).st_nlink:  # else its name may be another's
                    self.write_back(key, self.random.choice([0.3, 1.0]))

    def write_back(self, key: int, share: float) -> None:
        """Write a share of the dirty ranges back, chosen at random, and the size."""
        vmo = self.vmo(key)
        vmo.writeback_begin(0, 0)
        ranges = vmo.query_dirty_ranges(0, os.fstat(self.vmos[key]).st_size)
        chosen = [each for each in ranges if self.random.random() < share]
        target = os.open(self.store / str(key), os.O_RDWR | os.O_CREAT)
        try:
            for each in chosen:
                vmo.writeback_begin(each.offset, each.length, is_zero=each.is_zero)
            size = os.fstat(self.vmos[key]).st_size  # after the last BEGIN: that made what it was until then awaiting
            os.ftruncate(target, size)
            with self.view(vmo) as source:
                for each in chosen:
                    if each.is_zero:  # not read: what is cut off and zero again before END is clean then
                        os.pwrite(target, bytes(max(0, min(each.length, size - each.offset))), each.offset)
                    else:
                        self.copy(source, target, each.offset, each.length)
        finally:
            os.close(target)
        vmo.writeback_end(0, 0)
        for each in chosen:
            vmo.writeback_end(each.offset, each.length)

    @contextlib.contextmanager
    def view(self, vmo: PagerVmo) -> Iterator[int]:
        """Open the same memory as another file, past the page cache."""
        view = self.mount.vmo(f"{self.views}/view")
        vmo.create_child(ChildKind.REFERENCE, view.name, no_write=True)
        fd = os.open(view.path, os.O_RDONLY | os.O_DIRECT)
        view.unlink()
        try:
            yield fd
        finally:
            os.close(fd)

    def copy(self, source: int, target: int, offset: int, length: int) -> None:
        """Copy bytes, as far as the source goes."""
        end = offset + length
        while offset < end and (data := os.pread(source, min(end - offset, 1 << 20), offset)):
            os.pwrite(target, data, offset)
            offset += len(data)


def is_too_much_now(error: OSError | VmoError) -> bool:
    """Return whether an error passes."""
    return isinstance(error, (NoMemoryError, TimedOutError)) or getattr(error, "errno", 0) in {
        errno.ENOMEM,
        errno.ETIMEDOUT,
    }


if __name__ == "__main__":
    StorePager(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])).serve()
