"""READs on the short path of a miss, without a kernel: who is told of them, and when they stop being on it."""

from __future__ import annotations

import os

import pytest
import trio

from tests.support.assembled import NoDevice, assembled, directory
from vmofs.core.pager import Pager
from vmofs.core.requests.page_source import PageSource
from vmofs.core.requests.port import Port
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import IoError, NoMemoryError, OutOfRangeError, Status
from vmofs.units import PAGE_SIZE, Key, PageRange
from vmofs.vocabulary import PagerOp
from vmofs_mount.assembly.mount import AssembledMount
from vmofs_mount.files.vmo_file import VmoHandle
from vmofs_mount.linux.caller import Caller
from vmofs_mount.pagers.answers import Answers
from vmofs_mount.tree.inodes import VmoFile
from vmofs_mount.tree.limits import Resource
from vmofs_mount.waits.read_watch import LetGoError

P = PAGE_SIZE
PAGES = 4
UID = 1000


class Lane:
    """A FIFO that somebody reads."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def send_miss(self, source: PageSource, page: int) -> None:
        """Note a page."""
        del source
        self.asked.append(page)


class Mount:
    """A mount with a VMO, whose requests a lane takes."""

    def __init__(self, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device = NoDevice()
        self.mount: AssembledMount = assembled(nursery, self.device)
        self.system, parts = self.mount.engine.system, self.mount.parts
        self.port, self.pager, self.lane = Port(self.system), Pager(self.system), Lane()
        monkeypatch.setattr(self.mount.known, "lane_for_miss", lambda port: self.lane if port is self.port else None)
        self.limits, self.vmos, self.book = parts.tree.limits, parts.vmos, self.mount.cache.reads
        vmo = self.pager.create_vmo(self.port, Key(1), PAGES * P + 7, VmoOptions(resizable=True))
        self.file = VmoFile(0o666, UID, 0, vmo, self.pager)
        parts.tree.add(directory(self.mount, "vmo"), b"disk", self.file)
        self.answers = Answers(self.mount.engine, parts.vmos, self.mount.cache)
        self._numbers = iter(range(100, 1000))

    def open(self, flags: int = os.O_RDONLY) -> VmoHandle:
        """Open it."""
        self.file.open_count += 1
        return VmoHandle(self.file, flags, Caller(UID, 0, os.getpid(), 0), self.vmos)

    def read(self, handle: VmoHandle, page: int, size: int = P) -> int:
        """Have a READ come; return its number."""
        number = next(self._numbers)
        self.vmos.reads.serve(handle, number, 0, page * P, size)
        return number

    def check(self) -> None:
        """Assert the invariants of what is used here."""
        self.system.check()
        self.book.check()
        self.port.check()

    async def answer_to(self, number: int) -> bytes | Exception:
        """Wait for the answer to a READ."""
        with trio.fail_after(10):
            while number not in self.device.answers:  # noqa: ASYNC110 - threads look into /proc first
                await trio.sleep(0.001)
        return self.device.answers.pop(number)

    @property
    def missed(self) -> list[int]:
        """The pages of READs that are on the short path."""
        return [page for _, page in self.port.misses]

    @property
    def counted(self) -> int:
        """The requests of the user who reads."""
        return self.limits.of_users(0)["user_requests"].get(UID, 0)


@pytest.fixture
async def mount(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Mount:
    return Mount(nursery, monkeypatch)


async def test_reads_of_a_page_are_asked_for_once_and_answered_with_what_is_written(mount: Mount) -> None:
    handle = mount.open()
    numbers = [mount.read(handle, 2), mount.read(handle, 2)]
    assert (mount.lane.asked, mount.missed, mount.counted) == ([2], [2], 2)
    mount.answers.supply_bytes(mount.pager, mount.file, 2 * P, memoryview(b"2" * P))
    assert mount.device.answers == dict.fromkeys(numbers, b"2" * P)
    assert mount.counted == 0
    assert len(mount.book) == 0
    assert mount.file.vmo.read_nowait(2 * P, P) == b"2" * P
    mount.check()


@pytest.mark.parametrize(
    "look",
    [
        lambda book, _, number: book.find(number),
        lambda book, file, _: book.waits(file),
        lambda book, file, _: book.of(file),
        lambda book, file, _: book.over(file, PageRange(1, 3)),
        lambda book, *_: book.count_of(os.getpid()),
        lambda book, *_: len(book),
    ],
    ids=["by number", "whether", "by file", "by pages", "by process", "how many"],
)
async def test_who_looks_for_reads_finds_them(mount: Mount, look: object) -> None:
    assert callable(look)
    number = mount.read(mount.open(), 2)
    assert mount.missed == [2]
    assert look(mount.book, mount.file, number)
    assert mount.missed == []
    read = mount.book.find(number)
    assert read is not None
    assert (read.pages, read.access.origin, mount.counted) == (PageRange(2, 3), read, 1)
    mount.check()
    mount.answers.supply_bytes(mount.pager, mount.file, 0, b"s" * PAGES * P)
    assert mount.device.answers == {number: b"s" * P}
    assert mount.counted == 0


async def test_other_pages_are_looked_at_without_ending_the_short_path(mount: Mount) -> None:
    mount.read(mount.open(), 2)
    assert mount.book.over(mount.file, PageRange(3, 4)) == []
    mount.answers.supply_bytes(mount.pager, mount.file, 0, b"0" * P)
    assert mount.missed == [2]


async def test_a_failure_a_kill_and_a_write_meanwhile_are_what_they_are_for_any_read(mount: Mount) -> None:
    handle = mount.open()
    failed, killed, written = (mount.read(handle, page) for page in range(3))
    assert mount.missed == [0, 1, 2]
    await mount.answers.op_range(mount.pager, mount.file, PagerOp.FAIL, 0, P, Status.IO)
    assert isinstance(await mount.answer_to(failed), IoError)
    read = mount.book.find(killed)
    assert read is not None
    mount.mount.engine.abort(read.access, LetGoError("killed"))
    assert isinstance(mount.device.answers.pop(killed), LetGoError)
    assert mount.book.written(mount.file, PageRange(2, 3)) == [PageRange(2, 3)]
    mount.answers.supply_bytes(mount.pager, mount.file, 2 * P, b"2" * P)
    assert await mount.answer_to(written) == b"2" * P  # it looks again
    assert mount.counted == 0


async def test_a_read_that_is_cut_off_while_it_waits_ends(mount: Mount) -> None:
    number = mount.read(mount.open(), 2)
    with mount.mount.engine.change():
        mount.file.vmo.set_size(P).start(trio.current_time())
    assert mount.missed == []
    assert isinstance(await mount.answer_to(number), OutOfRangeError)  # no kernel learns the new size
    assert mount.counted == 0


async def test_a_user_has_no_more_requests_by_the_short_path(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mount.limits, "_limits", {Resource.REQUESTS: 2})
    handle = mount.open()
    mount.read(handle, 0)
    mount.read(handle, 1)
    with pytest.raises(NoMemoryError):
        mount.read(handle, 2)
    mount.answers.supply_bytes(mount.pager, mount.file, 0, b"0" * P)
    mount.read(handle, 2)
    assert mount.lane.asked == [0, 1, 2]


@pytest.mark.parametrize("case", ["several pages", "the last page", "direct", "a writer", "no lane"])
async def test_other_reads_are_in_the_book_from_the_beginning(mount: Mount, case: str) -> None:
    handle = mount.open(os.O_RDONLY | os.O_DIRECT) if case == "direct" else mount.open()
    if case == "a writer":
        mount.open(os.O_RDWR)
    if case == "no lane":
        mount.port = Port(mount.system)  # the lane is another one's
    number = mount.read(handle, PAGES if case == "the last page" else 0, 2 * P if case == "several pages" else P)
    assert mount.lane.asked == []
    assert number in {read.unique for read in mount.book.of(mount.file)} or case == "direct"
    assert mount.counted == 1
    assert not mount.missed
    mount.answers.supply_bytes(mount.pager, mount.file, 0, b"s" * (PAGES * P + 7))
    assert mount.counted == 0


async def test_a_file_of_which_a_read_has_failed_has_no_short_path_for_a_while(mount: Mount) -> None:
    handle = mount.open()
    number = mount.read(handle, 0)
    await mount.answers.op_range(mount.pager, mount.file, PagerOp.FAIL, 0, P, Status.IO)
    assert isinstance(await mount.answer_to(number), IoError)
    mount.read(handle, 1)
    assert (mount.lane.asked, mount.missed) == ([0], [])
