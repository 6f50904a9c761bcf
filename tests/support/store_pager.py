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
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from vmofs.wire.names import escape, unescape

IDLE_SECONDS = 0.05
TRIES = 200
TOO_MUCH_NOW = {errno.ENOMEM, errno.ENOSPC, errno.ETIMEDOUT}
NO_SUCH_NAME = (FileNotFoundError, NotADirectoryError)
PAGE = 4096


class StorePager:
    """Answers for the VMOs of one pager."""

    def __init__(self, mount: Path, pager: str, store: Path, seed: int, lock: Path) -> None:
        self.mount, self.store = mount, store
        self.lock = os.open(lock, os.O_RDWR | os.O_CREAT)
        self.control = mount / "control" / pager
        self.stage_name = f"aux/stage-{pager}"
        self.stage = os.open(mount / self.stage_name, os.O_RDWR | os.O_CREAT, 0o600)
        self.random = random.Random(seed)  # noqa: S311 - no secret
        self.vmos: dict[int, int] = {}  # key -> descriptor
        self.unlinked: dict[int, str] = {}
        self.views = mount / "vmo" / f"views-{pager}"
        self.views.mkdir()

    def serve(self) -> None:
        """Answer requests until the FIFO ends."""
        requests = os.open(self.control / "requests", os.O_RDONLY)
        rest = b""
        print("open", flush=True)  # noqa: T201 - who started us waits for it
        while True:
            if self.random.random() < 0.02 or not select.select([requests], [], [], IDLE_SECONDS)[0]:
                with self.names_stay():
                    self.flush_some()
                continue
            piece = os.read(requests, 65536)
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                command, key, offset, length, name = line.decode().split(" ")
                with self.names_stay():
                    self.answer(command, int(key), int(offset), int(length), name)

    @contextlib.contextmanager
    def names_stay(self) -> Iterator[None]:
        """Keep others from changing names."""
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.lock, fcntl.LOCK_UN)

    def answer(self, command: str, key: int, offset: int, length: int, name: str) -> None:
        """Answer one request. What the size has run away from meanwhile is asked for again, if anybody cares.

        What there is no memory for, or what was too slow, is tried again: nobody else answers it.
        """
        if command == "COMPLETE":
            if key in self.vmos:
                os.close(self.vmos.pop(key))
            (self.store / str(key)).unlink(missing_ok=True)
            return
        if key not in self.vmos:
            self.open(key, unescape(name))
        for _ in range(TRIES):
            try:
                self.act(command, key, offset, length)
            except NO_SUCH_NAME:  # renamed meanwhile, or in supply/ its directory is gone
                continue
            except OSError as error:
                if error.errno not in TOO_MUCH_NOW:
                    return
                time.sleep(IDLE_SECONDS)
            else:
                return

    def act(self, command: str, key: int, offset: int, length: int) -> None:
        """Answer one request by the present name."""
        if command == "READ":
            self.supply(key, offset, length)
        elif command == "DIRTY":
            self.say("op_range", f"DIRTY {self.name(key)} {offset} {length}")
        else:
            self.write_back_all(key, offset, length)

    def open(self, key: int, said: str) -> None:
        """Hold a VMO open; the name in its request may be another's by now, then ``pending`` has the present one."""
        for name in (said, *map(unescape, self.names_in_pending(key))):
            self.unlinked[key] = name  # unless it can be opened
            with contextlib.suppress(*NO_SUCH_NAME):
                fd = os.open(self.mount / name, os.O_PATH)
                if int(os.getxattr(f"/proc/self/fd/{fd}", "user.vmofs.key")) == key:
                    self.vmos[key] = fd
                    return
                os.close(fd)

    def names_in_pending(self, key: int) -> list[str]:
        """Return by what names the requests of a VMO call it now."""
        pending = (line.split() for line in (self.control / "pending").read_text().splitlines())
        return [fields[4] for fields in pending if int(fields[1]) == key]

    def name(self, key: int) -> str:
        """Return the present name of a VMO, as commands want it; the last one if it was unlinked.

        The kernel's name of what was unlinked follows the directories above when they are renamed; ours does not.
        """
        if key not in self.vmos:
            return escape(self.unlinked[key])
        if not os.fstat(self.vmos[key]).st_nlink and (names := self.names_in_pending(key)):
            return names[0]
        path = str(Path(f"/proc/self/fd/{self.vmos[key]}").readlink()).removesuffix(" (deleted)")
        return escape(str(Path(path).relative_to(self.mount)))

    def say(self, file: str, command: str) -> str:
        """Give a command and return its answer."""
        fd = os.open(self.control / file, os.O_RDWR)
        try:
            os.write(fd, command.encode())
            answer = b""
            while piece := os.read(fd, 65536):
                answer += piece
            return answer.decode()
        finally:
            os.close(fd)

    def supply(self, key: int, offset: int, length: int) -> None:
        """Supply pages from the file; what is beyond its end is zeros."""
        data = b""
        with contextlib.suppress(FileNotFoundError), (self.store / str(key)).open("rb") as file:
            data = os.pread(file.fileno(), length, offset)
        if self.random.random() < 0.5:
            supplied = os.open(self.control / "supply" / unescape(self.name(key)), os.O_WRONLY)
            try:
                os.pwrite(supplied, data.ljust(length, b"\0"), offset)
            finally:
                os.close(supplied)
            return
        os.ftruncate(self.stage, 0)
        os.ftruncate(self.stage, length)
        os.pwrite(self.stage, data, 0)
        self.say("supply_pages", f"{self.name(key)} {offset} {length} {self.stage_name} 0")

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
            except OSError:
                continue
            return
        self.say("op_range", f"FAIL {self.name(key)} {offset} {length} ZX_ERR_IO")

    def flush_some(self) -> None:
        """Write back a part of what is dirty in some VMO."""
        if self.vmos:
            key = self.random.choice(list(self.vmos))
            with contextlib.suppress(OSError):
                if os.fstat(self.vmos[key]).st_nlink:  # else its name may be another's
                    self.write_back(key, self.random.choice([0.3, 1.0]))

    def write_back(self, key: int, share: float) -> None:
        """Write a share of the dirty ranges back, chosen at random, and the size."""
        name = self.name(key)
        self.say("op_range", f"WRITEBACK_BEGIN {name} 0 0")
        size = os.fstat(self.vmos[key]).st_size
        records = [line.split() for line in self.say("query_dirty_ranges", f"{name} 0 {size}").splitlines()[1:]]
        chosen = [record for record in records if self.random.random() < share]
        target = os.open(self.store / str(key), os.O_RDWR | os.O_CREAT)
        try:
            for offset, length, kind in chosen:
                is_zero = "is_zero" if kind == "zero" else ""
                self.say("op_range", f"WRITEBACK_BEGIN {name} {offset} {length} {is_zero}")
            size = os.fstat(self.vmos[key]).st_size  # after the last BEGIN: that made what it was until then awaiting
            os.ftruncate(target, size)
            with self.view(name) as source:
                for offset, length, kind in chosen:
                    if kind == "zero":  # not read: what is cut off and zero again before END is clean then
                        os.pwrite(target, bytes(max(0, min(int(length), size - int(offset)))), int(offset))
                    else:
                        self.copy(source, target, int(offset), int(length))
        finally:
            os.close(target)
        for offset, length, _ in [["0", "0", ""], *chosen]:
            self.say("op_range", f"WRITEBACK_END {name} {offset} {length}")

    @contextlib.contextmanager
    def view(self, name: str) -> Iterator[int]:
        """Open the same memory as another file, past the page cache."""
        view = self.views / "view"
        self.say("../vmo_create_child", f"reference {name} {view.relative_to(self.mount)} 0 0 no_write")
        fd = os.open(view, os.O_RDONLY | os.O_DIRECT)
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


if __name__ == "__main__":
    StorePager(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])).serve()
