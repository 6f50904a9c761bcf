"""The handlers without FUSE: nothing but FUSEError comes out of one, so that nothing ends the mount."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING

import pyfuse3
import pytest
import trio

from vmofs.core.requests.system import System
from vmofs.status import BadStateError, Status, VmoError
from vmofs_mount.assembly.layout import Layout, build_layout
from vmofs_mount.files.open_files import Handles
from vmofs_mount.front.errno_map import errno_of
from vmofs_mount.front.handlers import Operations, handler
from vmofs_mount.tree.inodes import Fifo, Node, VmoFile

if TYPE_CHECKING:
    from vmofs_mount.linux.caller import Caller

NOT_WRAPPED = {"forget", "init", "stacktrace", "flush", "fsync", "fsyncdir", "access", "poll"}
CTX = pyfuse3.RequestContext()


class Vmo:
    """As much of a VMO as attributes need."""

    stream_size = 5000
    committed_pages = 1


class Mount:
    """A layout with handlers, not mounted."""

    def __init__(self) -> None:
        self.layout: Layout = build_layout(System(), uid=0, gid=0, open_to_all=True)
        self.handles = Handles(self.layout.tree, self.layout.seams.openers, self.layout.limits)
        self.ops = Operations(self.layout, self.handles)


@pytest.fixture
def mount() -> Mount:
    return Mount()


async def code_of(awaitable: object) -> int:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value.errno


def test_every_handler_that_can_raise_is_wrapped() -> None:
    names = {name for name in vars(pyfuse3.Operations) if not name.startswith("_")}
    handlers = {name for name in names if callable(getattr(Operations, name))} - NOT_WRAPPED
    assert len(handlers) > 20
    for name in handlers:
        assert hasattr(getattr(Operations, name), "__wrapped__"), name


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
async def test_a_status_becomes_its_errno(status: Status) -> None:
    @handler
    async def fails() -> None:
        raise VmoError.of(status, "no")

    assert await code_of(fails()) == errno_of(status)


async def test_errnos_pass_and_lack_of_memory_is_told() -> None:
    @handler
    async def fails(error: Exception) -> None:
        raise error

    assert await code_of(fails(OSError(errno.EXDEV, "x"))) == errno.EXDEV
    assert await code_of(fails(pyfuse3.FUSEError(errno.ENOSYS))) == errno.ENOSYS
    assert await code_of(fails(MemoryError())) == errno.ENOMEM


async def test_what_nobody_foresaw_is_logged_and_is_eio(caplog: pytest.LogCaptureFixture) -> None:
    @handler
    async def fails(error: Exception) -> None:
        raise error

    for error in (ZeroDivisionError(), OSError("without a number"), ExceptionGroup("two", [KeyError(1)])):
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert await code_of(fails(error)) == errno.EIO
        assert caplog.records[0].exc_info


async def test_cancellation_passes() -> None:
    @handler
    async def waits() -> None:
        await trio.sleep_forever()

    with trio.move_on_after(0) as scope:
        await waits()
    assert scope.cancelled_caught


async def test_an_open_that_is_refused_leaves_nothing_behind(mount: Mount) -> None:
    def refuse(_node: Node, _flags: int, _caller: Caller) -> None:
        raise BadStateError("no")

    file = VmoFile(0o644, 0, 0, Vmo())
    mount.layout.tree.add(mount.layout.vmo, b"disk", file)
    mount.layout.seams.openers[VmoFile] = refuse  # type: ignore[assignment]
    assert await code_of(mount.ops.open(file.ino, os.O_RDONLY, CTX)) == errno.EBADFD
    mount.handles.check()
    mount.layout.tree.unlink(mount.layout.vmo, b"disk")
    mount.layout.tree.check()


async def test_attributes_of_a_vmo_show_stream_size_and_committed_pages(mount: Mount) -> None:
    file = VmoFile(0o640, 7, 8, Vmo())
    mount.layout.tree.add(mount.layout.vmo, b"disk", file)
    entry = await mount.ops.lookup(mount.layout.vmo.ino, b"disk", CTX)
    assert (entry.st_size, entry.st_blocks, entry.st_uid, entry.st_gid) == (5000, 8, 7, 8)
    assert entry.entry_timeout == 0, "every open asks, and brings new attributes"
    assert entry.attr_timeout > 60
    assert file.lookup_count == 1


async def test_the_name_of_a_fifo_is_never_cached(mount: Mount) -> None:
    fifo = Fifo(0o600, 0, 0)
    mount.layout.tree.add(mount.layout.control, b"requests", fifo)
    seen: list[Node] = []

    async def on_lookup(node: Fifo, thread: int) -> None:
        del thread
        seen.append(node)

    mount.layout.seams.on_fifo_lookup = on_lookup
    entry = await mount.ops.lookup(mount.layout.control.ino, b"requests", CTX)
    assert entry.entry_timeout == 0
    assert seen == [fifo]


async def test_files_are_made_written_and_read(mount: Mount) -> None:
    info, entry = await mount.ops.create(mount.layout.aux.ino, b"f", 0o100644, os.O_RDWR, CTX)
    assert await mount.ops.write(info.fh, 4096, b"data") == 4
    assert bytes(await mount.ops.read(info.fh, 4094, 100)) == b"\0\0data"
    await mount.ops.unlink(mount.layout.aux.ino, b"f", CTX)
    mount.handles.check()
    assert mount.handles.statistics().open_files == 1
    assert (await mount.ops.getattr(entry.st_ino, CTX)).st_nlink == 0
    await mount.ops.release(info.fh)
    await mount.ops.forget([(entry.st_ino, 1)])
    assert await code_of(mount.ops.getattr(entry.st_ino, CTX)) == errno.ESTALE
    assert await code_of(mount.ops.read(info.fh, 0, 1)) == errno.EBADF
    mount.layout.tree.check()


async def test_a_pager_that_cannot_be_made_leaves_no_directory(mount: Mount) -> None:
    def fail(*_arguments: object) -> None:
        raise BadStateError("no")

    mount.layout.seams.open_pager = fail
    assert await code_of(mount.ops.mkdir(mount.layout.control.ino, b"p", 0o40755, CTX)) == errno.EBADFD
    assert b"p" not in mount.layout.control.children
    mount.layout.tree.check()


async def test_a_pager_is_closed_with_all_its_files(mount: Mount) -> None:
    closed: list[Node] = []
    mount.layout.seams.close_pager = closed.append
    await mount.ops.mkdir(mount.layout.control.ino, b"p", 0o40755, CTX)
    pager = mount.layout.control.children[b"p"]
    await mount.ops.mknod(pager.ino, b"worker", 0o10600, 0, CTX)
    builtin = Fifo(0o600, 0, 0, builtin=True)
    mount.layout.tree.add(pager, b"requests", builtin)  # type: ignore[arg-type] # it is a directory
    assert await code_of(mount.ops.unlink(pager.ino, b"requests", CTX)) == errno.EPERM
    await mount.ops.unlink(pager.ino, b"worker", CTX)
    await mount.ops.rmdir(mount.layout.control.ino, b"p", CTX)
    assert closed == [pager]
    assert builtin.nlink == 0
    mount.layout.tree.check()
