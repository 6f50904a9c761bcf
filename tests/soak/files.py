"""A file that one worker of a soak has for itself, with an oracle that knows every byte of it.

Whatever pagers, evictions and other workers do meanwhile must not show: the oracle is a string of bytes. A call that
is refused for cause may have been carried out in part; then what it touched is read again, and each page must be
either what it was or what it should have become.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from tests.soak.children import Child, make_child
from tests.soak.plan import MOST_PAGES, Op, Options
from tests.soak.ways import READS, WRITES, Held, read, tail_of_last_page, with_open
from tests.soak.world import SETTLE_SECONDS, World, WrongError, check_bytes, command_in, content, describe, within
from tests.support.opening import opened
from vmofs.units import PAGE_SIZE, page_count
from vmofs.wire.results import Result, parse_dirty_ranges

T = TypeVar("T")

KILL_SECONDS = 10.0
"""How long a process that was killed may take to die on a busy machine."""

CROWD = 6
"""Threads that read at once."""

OLD_AGE = 60
"""Steps after which a file may lose its pager."""


class PrivateFile:
    """A VMO, its oracle, and what was done with it so far.

    Attributes:
        history: its steps, the last one unfinished if it failed.
        bytes: what it holds.
        dirty: pages that were written and that nobody has written back.
    """

    def __init__(self, world: World, directory: str, key: int, pager: int, options: Options) -> None:
        self.world, self.key, self.pager, self.options = world, key, pager, options
        self.history: list[Op] = []
        self.bytes = bytearray(content(key, 0, 0, options.size))
        self.dirty: set[int] = set()
        self.child: Child | None = None
        self.detached = False
        self._held: Held | None = None
        self._directory, self._renamed = directory, 0
        self._vmo_size = page_count(options.size) * PAGE_SIZE
        self._refused_fsync = False
        self._written_elsewhere = False
        (world.store / str(key)).write_bytes(self.bytes)
        self.control("create_vmo", f"{self.name} {options.size} key={key} {options.words}")

    @property
    def name(self) -> str:
        """The name that commands know it by."""
        return f"{self._directory}/f{self.key}" + (f"-{self._renamed}" if self._renamed else "")

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.world.mount / self.name

    @property
    def resizable(self) -> bool:
        """Whether ftruncate works."""
        return "resizable" in self.options.words

    @property
    def grows(self) -> bool:
        """Whether a write beyond the end makes it longer. While it has a child it is left as long as it is."""
        return self.child is None and (self.resizable or "unbounded" in self.options.words)

    def control(self, file: str, line: str) -> Result:
        """Give a command of the pager."""
        return self.world.command(f"p{self.pager}/{file}", line)

    def insist(self, call: Callable[[], T]) -> T:
        """Make a call until it succeeds; each error must have a cause."""
        return self.world.insist(call, self.key, self.pager)

    def do(self, op: Op) -> None:
        """Carry out one step.

        Raises:
            WrongError: something is not as it must be.
        """
        self.history.append(op)
        self.world.counts[op.kind] += 1
        getattr(self, f"_do_{op.kind}")(op)

    def cut(self, op: Op) -> tuple[int, int]:
        """Return offset and length of a step as they are inside the file; the length may be 0."""
        size = len(self.bytes)
        offset = op.offset % size if size else 0
        return offset, min(op.length, size - offset)

    def remove(self) -> None:
        """Remove all of it."""
        self._let_go()
        if self.child is not None:
            self.child.path.unlink()
        self.path.unlink()
        (self.world.store / str(self.key)).unlink()

    # Reading

    def _do_read(self, op: Op) -> None:
        offset, _ = self.cut(op)
        self.verify(offset, op.length, list(READS)[op.way % len(READS)])
        if op.way % 16 == 0 and self.bytes:
            tail = self.insist(lambda: with_open(self.path, tail_of_last_page))
            if any(tail):
                found = describe(tail, len(self.bytes))
                raise WrongError(f"a mapping has no zeros behind the end, but {found}", len(self.bytes), len(tail))
        size = self.path.stat().st_size
        if size != len(self.bytes):
            raise WrongError(f"its size is {size} instead of {len(self.bytes)}")

    def verify(self, offset: int, length: int, way: str) -> None:
        """Check that a range reads as it should. What was written through another view shows soon."""
        if self._written_elsewhere and way != "O_DIRECT":
            within(SETTLE_SECONDS, lambda: self._verify_now(offset, length, way))
        else:
            self._verify_now(offset, length, way)

    def _verify_now(self, offset: int, length: int, way: str) -> None:
        found = self.insist(lambda: read(self.path, way, offset, length))
        check_bytes(found, bytes(self.bytes[offset : offset + length]), offset, way)

    def _do_crowd(self, op: Op) -> None:
        """Read in several threads at once, here and there, in different ways."""
        offset, length = self.cut(op)
        if not length:
            return
        errors: list[BaseException] = []

        def look(number: int) -> None:
            try:
                self.verify(offset + number * length // CROWD, length, list(READS)[(op.way + number) % len(READS)])
            except BaseException as error:  # noqa: BLE001 - raised again below
                errors.append(error)

        threads = [threading.Thread(target=look, args=(number,)) for number in range(CROWD)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def _do_hold(self, op: Op) -> None:
        """Keep it open and mapped from now on."""
        self._let_go()
        self._held = Held(self.path, os.O_RDWR if op.way % 2 else os.O_RDONLY, 2 * MOST_PAGES * PAGE_SIZE)

    def _let_go(self) -> None:
        if self._held is not None:
            with suppress(OSError):  # some store in a mapping was refused since it was opened
                self._held.close()
            self._held = None

    def _do_held_read(self, op: Op) -> None:
        offset, length = self.cut(op)
        held, by_mapping = self._held, op.way % 2 == 0
        if held is None or not length:
            return

        def check() -> None:
            found = self.insist(lambda: held.read(offset, length, by_mapping=by_mapping))
            where = "an old mapping" if by_mapping else "pread of a file that is long open"
            check_bytes(found, bytes(self.bytes[offset : offset + length]), offset, where)

        if self._written_elsewhere:
            within(SETTLE_SECONDS, check)
        else:
            check()

    def _do_killed_reader(self, op: Op) -> None:
        offset, length = self.cut(op)
        pid = os.fork()
        if not pid:
            try:
                read(self.path, "mmap" if op.way % 2 else "pread", offset, length)
            finally:
                os._exit(0)
        time.sleep(op.way % 8 / 1000)  # it may have got anywhere by then
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + KILL_SECONDS
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                raise WrongError(f"process {pid}, which reads it, cannot be killed", offset, length)
            time.sleep(0.001)

    # Writing

    def _do_write(self, op: Op) -> None:
        offset, length = self.cut(op)
        if op.way % 4 == 0:
            offset, length = op.offset % (len(self.bytes) + 2 * PAGE_SIZE), op.length
        if not self.grows:
            length = min(length, len(self.bytes) - offset)
        if length > 0:
            self.write(offset, content(self.key, op.number, offset, length), "pwritev" if op.way % 3 else "pwrite")

    def _do_store(self, op: Op) -> None:
        """Store through a shared mapping, where it cannot meet what else shows the memory, or a late WRITEBACK."""
        offset, length = self.cut(op)
        if length and self.child is None and not self._refused_fsync:
            self.write(offset, content(self.key, op.number, offset, length), "mmap")

    def write(self, offset: int, data: bytes, way: str, path: Path | None = None, shift: int = 0) -> None:
        """Write until all is written; what was refused must be gone, or be there, each page as a whole.

        Args:
            offset: in this file.
            data: the bytes.
            way: one of ``WRITES``.
            path: another view of the same memory to write to.
            shift: which byte of this file is the first of that view.
        """

        def attempt() -> None:
            with opened(path or self.path, os.O_RDWR) as fd:
                done = 0
                while done < len(data):
                    done += WRITES[way](fd, offset - shift + done, data[done:])

        self._written_elsewhere |= path is not None
        end = offset + len(data)
        after = self.bytes.ljust(offset, b"\0")
        after[offset:end] = data
        self.change(attempt, min(offset, len(self.bytes)), end, after)
        self.dirty.update(range(offset // PAGE_SIZE, page_count(end)))

    def change(self, attempt: Callable[[], None], first: int, end: int, after: bytearray) -> None:
        """Change a range until it succeeds; in between each page of it is as before or as afterwards."""

        def try_it() -> None:
            try:
                attempt()
            except OSError:
                self.settle(first, end, after)
                raise

        self.insist(try_it)
        self._set(after)

    def _set(self, after: bytearray) -> None:
        rounded = page_count(len(after)) * PAGE_SIZE
        # A write beyond the end of what can be resized is as ftruncate.
        is_set = self.resizable and len(after) > len(self.bytes)
        self._vmo_size = rounded if is_set else max(self._vmo_size, rounded)
        self.bytes = after
        self.dirty = {page for page in self.dirty if page < page_count(len(after))}

    def settle(self, first: int, end: int, after: bytearray) -> None:
        """Find out what a call that was refused has done. What is seen past the page cache is what is."""
        size, sizes = self.path.stat().st_size, (len(self.bytes), len(after))
        if not min(sizes) <= size <= max(sizes):
            raise WrongError(f"after a refused call its size is {size}, not one of {sizes}")
        start, stop = first - first % PAGE_SIZE, page_count(end) * PAGE_SIZE
        found = self.insist(lambda: read(self.path, "O_DIRECT", start, stop - start))
        now = self.bytes[:size].ljust(size, b"\0")
        for at in range(start, start + len(found), PAGE_SIZE):
            page = found[at - start : at - start + PAGE_SIZE]
            before = bytes(now[at : at + PAGE_SIZE])
            if page == before:
                continue
            new = bytes(after[at : at + len(page)]).ljust(len(page), b"\0")
            if page != new:
                seen = f"{describe(page, at)}; {_mixture(page, before, new)}"
                raise WrongError(f"after a refused call a page is neither old nor new: {seen}", at, len(page))
            now[at : at + len(page)] = page
            self.dirty.add(at // PAGE_SIZE)
        self._set(now)
        within(SETTLE_SECONDS, lambda: self._verify_now(start, stop - start, "pread"))

    def _do_truncate(self, op: Op) -> None:
        if self.child is not None:
            return
        size = op.offset if op.way % 2 else min(op.offset, len(self.bytes))
        if not self.resizable:
            self._refused_truncate(size)
            return
        while True:
            since = time.monotonic()
            os.truncate(self.path, size)
            # The rest of the last page is zeroed by a write, whose failure is no failure: then once more.
            if not self.world.had_trouble(self.key, self.pager, since):
                break
        self._set(self.bytes[:size].ljust(size, b"\0"))
        self._vmo_size = page_count(size) * PAGE_SIZE

    def _refused_truncate(self, size: int) -> None:
        try:
            os.truncate(self.path, size)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            return
        raise WrongError("a file that was not made resizable was resized")

    def _do_stream_size(self, op: Op) -> None:
        """Move the end of the content within the VMO. If that is refused nothing has changed."""
        if self.child is not None or not self._vmo_size:
            return
        limit = 2 * self._vmo_size if "unbounded" in self.options.words else self._vmo_size
        size = op.offset % (limit + 1)
        low = min(size, len(self.bytes))

        def attempt() -> None:
            try:
                self.world.command("vmo_set_stream_size", f"{self.name} {size}")
            except OSError:
                self.settle(low, low, self.bytes)
                raise

        self.insist(attempt)
        vmo_size = self._vmo_size
        self._set(self.bytes[:size].ljust(size, b"\0"))
        self._vmo_size = max(vmo_size, page_count(size) * PAGE_SIZE)
        self.path.stat()  # old mappings reach as far as the kernel knows the file to

    def _do_zero(self, op: Op) -> None:
        offset, length = self.cut(op)
        if not length or self.child is not None:
            return
        after = bytearray(self.bytes)
        after[offset : offset + length] = bytes(length)
        self.change(lambda: self._op("zero", offset, length), offset, offset + length, after)
        self.dirty -= set(range(offset // PAGE_SIZE, page_count(offset + length)))  # or a zero marker, which is clean

    def _op(self, name: str, offset: int, length: int) -> None:
        self.world.command("vmo_op_range", f"{name} {self.name} {offset} {length}")

    def _do_commit(self, op: Op) -> None:
        self.insist(lambda: self._op("commit", *self.cut(op)))

    def _do_prefetch(self, op: Op) -> None:
        self.insist(lambda: self._op("prefetch", *self.cut(op)))

    def _do_hint(self, op: Op) -> None:
        self._op("always_need" if op.way % 2 else "dont_need", *self.cut(op))

    def _do_pin(self, op: Op) -> None:
        """Pin pages: they stay, whatever is evicted, and can be read whatever becomes of the pager."""
        offset, length = self.cut(op)
        if not length:
            return
        fd = os.open(self.world.mount / "control" / "vmo_pin", os.O_RDWR)
        try:
            self.insist(lambda: command_in(fd, f"{self.name} {offset} {length}"))
            self._evict(0, self._vmo_size)
            found = read(self.path, "O_DIRECT", offset, length)
            check_bytes(found, bytes(self.bytes[offset : offset + length]), offset, "O_DIRECT of pinned pages")
        finally:
            os.close(fd)

    def _do_rename(self, op: Op) -> None:
        del op
        old = self.path
        self._renamed += 1
        old.rename(self.path)

    # What its pager does

    def _do_evict(self, op: Op) -> None:
        if op.way % 2:
            self._evict(0, self._vmo_size)
        else:
            offset, length = self.cut(op)
            self._evict(offset - offset % PAGE_SIZE, page_count(offset % PAGE_SIZE + length) * PAGE_SIZE)

    def _evict(self, offset: int, length: int) -> None:
        self.control("evict", f"{self.name} {offset} {length}")

    def _do_supply(self, op: Op) -> None:
        """Supply what nobody has asked for, as a second pager."""
        offset, length = self.cut(op)
        offset -= offset % PAGE_SIZE
        length = min(page_count(length) * PAGE_SIZE, self._vmo_size - offset)
        stage = f"aux/stage-{self.key}"
        if length <= 0:
            return
        with opened(self.world.store / str(self.key)) as store:
            fcntl.flock(store, fcntl.LOCK_SH)  # nobody cleans a page between our reading and supplying
            data = os.pread(store, length, offset)
            path = self.world.mount / stage
            path.write_bytes(data)
            os.truncate(path, length)
            self.control("supply_pages", f"{self.name} {offset} {length} {stage} 0")
            if any(path.read_bytes()):
                raise WrongError(f"{stage} still has what was moved out of it", offset, length)
            path.unlink()

    def _do_fsync(self, op: Op) -> None:
        def attempt() -> None:
            try:
                with opened(self.path, os.O_RDWR) as fd:
                    (os.fdatasync if op.way % 2 else os.fsync)(fd)
            except OSError:
                self._refused_fsync = True  # the pager may still write back, at any time
                raise

        self.insist(attempt)

    @property
    def _pager_writes_back(self) -> bool:
        return "writeback" in self.options.words

    def _do_cycle(self, op: Op) -> None:
        """Write back as a pager does, perhaps with a write in between."""
        if self._pager_writes_back:
            return
        store = os.open(self.world.store / str(self.key), os.O_RDWR)
        try:
            fcntl.flock(store, fcntl.LOCK_EX)  # nobody brings back what he has read before
            records = self._verify_dirty()
            for first, length, flag in records:
                self.control("op_range", f"WRITEBACK_BEGIN {self.name} {first} {length} {flag}")
            written = bytes(self.bytes)
            again = self._write_between(op, *records[op.way % len(records)][:2]) if records and op.way % 2 else set()
            for first, length, _ in records:
                os.pwrite(store, written[first : first + length].ljust(length, b"\0"), first)
            for first, length, _ in records:
                self.control("op_range", f"WRITEBACK_END {self.name} {first} {length}")
            self.dirty = again
        finally:
            os.close(store)
        self._verify_dirty()

    def _write_between(self, op: Op, first: int, length: int) -> set[int]:
        """Write into pages that are awaiting clean; return them: they are dirty still, or again."""
        offset = first + op.offset % length
        length = min(op.length, first + length - offset, len(self.bytes) - offset)
        if length <= 0:
            return set()
        self.write(offset, content(self.key, op.number, offset, length), "pwrite")
        return set(range(offset // PAGE_SIZE, page_count(offset + length)))

    def _verify_dirty(self) -> list[tuple[int, int, str]]:
        """Check that what was written and not written back is dirty; return offset, length, and option to clean it."""
        found = parse_dirty_ranges(self.control("query_dirty_ranges", f"{self.name} 0 {self._vmo_size}"))
        known = {page for record in found for page in _pages(record.offset, record.length)}
        lost = sorted(self.dirty - known)
        if lost:
            raise WrongError(f"pages {lost} were written and are not dirty", lost[0] * PAGE_SIZE, PAGE_SIZE)
        return [(record.offset, record.length, "is_zero" if record.is_zero else "") for record in found]

    def _do_detach(self, op: Op) -> None:
        """Take it from its pager, late in its life: what was written stays, the rest may be gone."""
        if self.child is not None or op.number < OLD_AGE:
            return
        since = time.monotonic()
        self.control("detach_vmo", self.name)
        self.detached = True
        certain = set() if self._pager_writes_back else self.dirty
        with opened(self.path) as fd:
            for page in range(page_count(len(self.bytes))):
                at = page * PAGE_SIZE
                try:
                    found = os.pread(fd, PAGE_SIZE, at)
                except OSError as error:
                    told = error.errno == errno.EBADFD or self.world.has_cause(error, self.key, self.pager, since)
                    if not told or page in certain:
                        raise WrongError(f"after detach page {page} fails with {error}", at, PAGE_SIZE) from error
                else:
                    check_bytes(found, bytes(self.bytes[at : at + PAGE_SIZE]), at, "pread after detach")

    # Its child

    def _do_child(self, op: Op) -> None:
        if self.child is None and self.bytes:
            self.child = make_child(self, op)

    def _do_child_read(self, op: Op) -> None:
        if self.child is not None:
            self.child.read(op)

    def _do_child_write(self, op: Op) -> None:
        if self.child is not None:
            self.child.write(op)

    def _do_child_drop(self, op: Op) -> None:
        del op
        if self.child is not None:
            self.child.path.unlink()
            self.child = None


def _pages(offset: int, length: int) -> range:
    return range(offset // PAGE_SIZE, page_count(offset + length))


def _mixture(page: bytes, old: bytes, new: bytes) -> str:
    """Say where a page has something else than what was there before, and than what was to be there."""
    places = {
        "the old": [at for at, (seen, byte) in enumerate(zip(page, old, strict=True)) if seen != byte],
        "the new": [at for at, (seen, byte) in enumerate(zip(page, new, strict=True)) if seen != byte],
        "both": [at for at, (seen, *both) in enumerate(zip(page, old, new, strict=True)) if seen not in both],
    }
    return ", ".join(
        f"{len(at)} bytes differ from {what}" + (f", at {at[0]:#x} to {at[-1]:#x}" if at else "")
        for what, at in places.items()
    )
