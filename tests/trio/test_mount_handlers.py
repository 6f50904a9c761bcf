"""The handlers without FUSE: nothing but FUSEError comes out of one, so that nothing ends the mount."""

from __future__ import annotations

import errno
import logging

import pyfuse3
import pytest
import trio

from tests.support.assembled import assembled, directory
from vmofs.core.pager import Pager
from vmofs.core.requests.port import Port
from vmofs.status import BadStateError, Status, VmoError
from vmofs.units import PAGE_SIZE, Key
from vmofs_mount.front.errno_map import errno_of
from vmofs_mount.front.handlers import Operations, handler
from vmofs_mount.front.parts import Parts
from vmofs_mount.tree.inodes import Fifo, VmoFile

WITHOUT_LIBFUSE = {"forget", "open", "read", "release", "write"}
NOT_WRAPPED = {"init", "stacktrace", "flush", "fsync", "fsyncdir", "access", "poll"}
CTX = pyfuse3.RequestContext()


class Mount:
    """A mount with handlers, not mounted."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.mount = assembled(nursery)
        self.tree, self.pagers = self.mount.parts.tree, self.mount.parts.pagers
        self.vmo, self.aux, self.control = (directory(self.mount, name) for name in ("vmo", "aux", "control"))
        self.ops = handlers_of(self.mount.parts)

    def vmo_file(self, permissions: int, uid: int, gid: int) -> VmoFile:
        """Make a VMO of 5000 bytes, one page of which is there."""
        system = self.mount.engine.system
        pager = Pager(system)
        vmo = pager.create_vmo(Port(system), Key(1), 5000)
        pager.supply_bytes(vmo, 0, bytes(PAGE_SIZE))
        file = VmoFile(permissions, uid, gid, vmo, pager)
        self.tree.add(self.vmo, b"disk", file)
        return file


def handlers_of(parts: Parts) -> Operations:
    ops = Operations()
    ops.attach(parts, answer_directly=lambda: None)
    return ops


@pytest.fixture
async def mount(nursery: trio.Nursery) -> Mount:
    return Mount(nursery)


class Failing(Operations):
    """Handlers that fail."""

    def __init__(self) -> None:
        super().__init__()
        self.answer_directly = lambda: None

    @handler
    async def fail(self, error: Exception) -> None:
        """Fail."""
        raise error

    @handler
    async def wait(self) -> None:
        """Never answer."""
        await trio.sleep_forever()


async def code_of(awaitable: object) -> int:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value.errno


def test_every_handler_that_can_raise_is_wrapped() -> None:
    names = {name for name in vars(pyfuse3.Operations) if not name.startswith("_")}
    handlers = {name for name in names if callable(getattr(Operations, name))} - NOT_WRAPPED - WITHOUT_LIBFUSE
    assert len(handlers) > 18
    for name in handlers:
        assert hasattr(getattr(Operations, name), "__wrapped__"), name


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
async def test_a_status_becomes_its_errno(status: Status) -> None:
    assert await code_of(Failing().fail(VmoError.of(status, "no"))) == errno_of(status)


async def test_errnos_pass_and_lack_of_memory_is_told() -> None:
    fails = Failing().fail
    assert await code_of(fails(OSError(errno.EXDEV, "x"))) == errno.EXDEV
    assert await code_of(fails(pyfuse3.FUSEError(errno.ENOSYS))) == errno.ENOSYS
    assert await code_of(fails(MemoryError())) == errno.ENOMEM


async def test_what_nobody_foresaw_is_logged_and_is_eio(caplog: pytest.LogCaptureFixture) -> None:
    fails = Failing().fail
    for error in (ZeroDivisionError(), OSError("without a number"), ExceptionGroup("two", [KeyError(1)])):
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert await code_of(fails(error)) == errno.EIO
        assert caplog.records[0].exc_info


async def test_cancellation_passes() -> None:
    with trio.move_on_after(0) as scope:
        await Failing().wait()
    assert scope.cancelled_caught


async def test_attributes_of_a_vmo_show_stream_size_and_committed_pages(mount: Mount) -> None:
    file = mount.vmo_file(0o640, 7, 8)
    entry = await mount.ops.lookup(mount.vmo.ino, b"disk", CTX)
    assert (entry.st_size, entry.st_blocks, entry.st_uid, entry.st_gid) == (5000, 8, 7, 8)
    assert entry.entry_timeout == 0, "every open asks, and brings new attributes"
    assert entry.attr_timeout > 60
    assert file.lookup_count == 1


async def test_the_name_of_a_fifo_is_never_cached(mount: Mount) -> None:
    await mount.ops.mkdir(mount.control.ino, b"p", 0o40755, CTX)
    fifo = mount.tree.resolve("control/p/requests")
    assert isinstance(fifo, Fifo)
    lane = mount.pagers.fifos._lanes[fifo]
    assert not lane._was_looked_up
    assert fifo.parent is not None
    entry = await mount.ops.lookup(fifo.parent.ino, b"requests", CTX)
    assert entry.entry_timeout == 0
    assert lane._was_looked_up


async def test_a_pager_that_cannot_be_made_leaves_no_directory(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise BadStateError("no")

    monkeypatch.setattr(mount.pagers, "open", fail)
    assert await code_of(mount.ops.mkdir(mount.control.ino, b"p", 0o40755, CTX)) == errno.EBADFD
    assert b"p" not in mount.control.children
    mount.mount.check()


async def test_a_pager_is_closed_with_all_its_files(mount: Mount) -> None:
    await mount.ops.mkdir(mount.control.ino, b"p", 0o40755, CTX)
    pager = directory(mount.mount, "control/p")
    await mount.ops.mknod(pager.ino, b"worker", 0o10600, 0, CTX)
    builtin = pager.children[b"requests"]
    assert await code_of(mount.ops.unlink(pager.ino, b"requests", CTX)) == errno.EPERM
    await mount.ops.unlink(pager.ino, b"worker", CTX)
    assert [known.directory for known in mount.mount.known] == [pager]
    await mount.ops.rmdir(mount.control.ino, b"p", CTX)
    assert list(mount.mount.known) == []
    assert builtin.nlink == 0
    mount.mount.check()
