"""What is served without libfuse, without a kernel: a socket stands for its end of the device."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio
import trio.testing

from tests.support.assembled import assembled, directory
from tests.support.device import ANSWER, READ, READ_IN, Kernel
from vmofs.core.pager import Pager
from vmofs.core.requests.port import Port
from vmofs.status import BadStateError
from vmofs.units import PAGE_SIZE, Key
from vmofs_mount.files.open_files import Handle, Handles
from vmofs_mount.front.answers_of_libfuse import DIRECT_IO, NOFLUSH, PARALLEL_DIRECT_WRITES
from vmofs_mount.front.requests import Requests
from vmofs_mount.linux.caller import Caller
from vmofs_mount.loop.scheduler import Turns
from vmofs_mount.tree.inodes import AuxFile, Node, VmoFile

OPEN, WRITE, RELEASE, FORGET, INTERRUPT, BATCH_FORGET = 14, 16, 18, 2, 36, 42
OPENED, WRITTEN = struct.Struct("=QIi"), struct.Struct("=II")
KEEP_CACHE = 2


class Mount:
    """A mount that is served, and its kernel."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.kernel = Kernel()
        self.mount = assembled(nursery, self.kernel.device)
        self.turns = Turns(self.kernel.device)
        self.requests = Requests(self.kernel.device, self.turns, self.mount.parts)
        self.kernel.device.serve(self.requests.table)
        self._unique = 0

    def ask(self, node: int, opcode: int, body: bytes) -> tuple[int, bytes]:
        """Make a request that is answered at once; return its errno and what was answered."""
        ((code, data),) = self.ask_for_all(node, opcode, body)
        return code, data

    def ask_for_all(self, node: int, opcode: int, body: bytes) -> list[tuple[int, bytes]]:
        """Make a request, and return the answers that have come."""
        self._unique += 2
        answers = self.kernel.ask_for(node, opcode, self._unique, body)
        assert [ANSWER.unpack_from(answer)[0] for answer in answers] == [len(answer) for answer in answers]
        return [(-ANSWER.unpack_from(answer)[1], answer[ANSWER.size :]) for answer in answers]

    def open(self, node: Node, flags: int) -> tuple[int, int]:
        """Open a file that needs no waiting; return its number and how it is open."""
        code, data = self.ask(node.ino, OPEN, struct.pack("=II", flags, 0))
        assert code == 0
        number, how, _ = OPENED.unpack(data)
        return number, how

    def read(self, number: int, offset: int, size: int) -> list[tuple[int, bytes]]:
        """Read."""
        return self.ask_for_all(1, READ, READ_IN.pack(number, offset, size, 0) + bytes(16))

    def vmo_file(self) -> VmoFile:
        """Make a VMO of 5000 bytes, the first page of which is there."""
        pager = Pager(self.mount.engine.system)
        vmo = pager.create_vmo(Port(self.mount.engine.system), Key(1), 5000)
        pager.supply_bytes(vmo, 0, b"x" * PAGE_SIZE)
        file = VmoFile(0o644, 0, 0, vmo, pager)
        self.mount.parts.tree.add(directory(self.mount, "vmo"), b"disk", file)
        return file

    def aux_file(self) -> AuxFile:
        """Make an aux file."""
        aux = directory(self.mount, "aux")
        made = aux.realm.create(aux, b"f", 0o100644, Caller(0, 0, os.getpid()))
        assert isinstance(made, AuxFile)
        return made


@pytest.fixture
async def mount(nursery: trio.Nursery) -> AsyncIterator[Mount]:
    made = Mount(nursery)
    yield made
    made.kernel.close()


async def test_how_a_file_is_open_depends_on_its_kind_and_on_what_it_is_opened_for(mount: Mount) -> None:
    vmo, aux = mount.vmo_file(), mount.aux_file()
    assert mount.open(vmo, os.O_RDONLY)[1] == KEEP_CACHE | NOFLUSH
    assert mount.open(aux, os.O_RDWR)[1] == KEEP_CACHE
    assert mount.open(aux, os.O_WRONLY)[1] == KEEP_CACHE | DIRECT_IO | NOFLUSH | PARALLEL_DIRECT_WRITES


async def test_an_open_that_is_refused_leaves_nothing_behind(mount: Mount) -> None:
    def refuse(_node: Node, _flags: int, _caller: Caller) -> Handle:
        raise BadStateError("no")

    file, parts = mount.vmo_file(), mount.mount.parts
    handles = Handles(parts.tree, refuse)
    mount.kernel.device.serve(Requests(mount.kernel.device, mount.turns, replace(parts, handles=handles)).table)
    assert mount.ask(file.ino, OPEN, struct.pack("=II", os.O_RDONLY, 0)) == (errno.EBADFD, b"")
    handles.check()
    parts.tree.unlink(directory(mount.mount, "vmo"), b"disk")
    mount.mount.check()


async def test_how_far_is_read_ahead_is_set_when_the_open_is_about_to_be_answered(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open for writing waits, for a second perhaps; the setting is held for less, and others open meanwhile."""
    file, parts = mount.vmo_file(), mount.mount.parts
    told: list[VmoFile] = []
    may_be_written = trio.Event()

    async def wait_writable(_file: VmoFile) -> None:
        await may_be_written.wait()

    monkeypatch.setattr(parts.vmos, "about_to_answer", told.append)
    monkeypatch.setattr(parts.vmos, "wait_writable", wait_writable)
    assert mount.open(file, os.O_RDONLY)
    assert told == [file]
    async with trio.open_nursery() as nursery:
        number = parts.handles.open(file, os.O_RDWR, Caller(0, 0, os.getpid()))
        nursery.start_soon(mount.requests._open_for_writing, 100, number, file)
        await trio.testing.wait_all_tasks_blocked()
        assert told == [file]
        may_be_written.set()
    assert told == [file, file]


async def test_a_file_is_read_as_long_as_it_is_open(mount: Mount) -> None:
    file, parts = mount.vmo_file(), mount.mount.parts
    number, _ = mount.open(file, os.O_RDONLY)
    assert mount.read(number, 4000, 96) == [(0, b"x" * 96)]
    assert mount.read(number, 5000, 100) == [(0, b"")]
    parts.tree.unlink(directory(mount.mount, "vmo"), b"disk")
    assert parts.handles.statistics().open_files == 1
    parts.handles.check()
    assert mount.ask(1, RELEASE, struct.pack("=QIIQ", number, 0, 0, 0)) == (0, b"")
    assert mount.read(number, 0, 1) == [(errno.EBADF, b"")]
    mount.mount.check()


async def test_a_read_that_lacks_pages_is_answered_when_they_come_or_the_pager_is_gone(mount: Mount) -> None:
    file = mount.vmo_file()
    number, _ = mount.open(file, os.O_RDONLY)
    assert mount.read(number, 0, 5000) == []
    assert mount.mount.unanswered == 1
    mount.mount.check()
    with mount.mount.engine.change():
        assert file.pager is not None
        file.pager.supply_bytes(file.vmo, PAGE_SIZE, b"y" * (5000 - PAGE_SIZE))
    assert [answer[ANSWER.size :] for answer in mount.kernel.answers()] == [b"x" * PAGE_SIZE + b"y" * 904]
    assert mount.mount.unanswered == 0
    mount.mount.check()


async def test_what_the_kernel_forgets_is_gone_singly_and_in_a_batch(mount: Mount) -> None:
    tree, aux = mount.mount.parts.tree, directory(mount.mount, "aux")
    nodes = [aux.realm.create(aux, name, 0o100644, Caller(0, 0, os.getpid())) for name in (b"a", b"b", b"c")]
    for node in nodes:
        tree.remember(node)
        tree.unlink(aux, node.name)
    assert mount.ask_for_all(nodes[0].ino, FORGET, struct.pack("=Q", 1)) == []
    pairs = b"".join(struct.pack("=QQ", node.ino, 1) for node in nodes[1:])
    assert mount.ask_for_all(0, BATCH_FORGET, struct.pack("=II", 2, 0) + pairs) == []
    for node in nodes:
        with pytest.raises(OSError, match=r"gone|none|no "):
            tree.get(node.ino)
    mount.mount.check()


async def test_an_interrupt_of_what_nobody_knows_is_no_error(mount: Mount) -> None:
    assert mount.ask_for_all(0, INTERRUPT, struct.pack("=Q", 77)) == []


async def test_requests_for_a_file_that_is_not_open_are_refused(mount: Mount) -> None:
    body = READ_IN.pack(99, 0, 4, 0) + bytes(16) + b"data"
    assert mount.ask(1, WRITE, body) == (errno.EBADF, b"")
    assert mount.ask(1, RELEASE, struct.pack("=QIIQ", 99, 0, 0, 0)) == (errno.EBADF, b"")
