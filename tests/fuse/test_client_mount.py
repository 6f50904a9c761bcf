"""A mount as objects: commands and their failures, requests that must be answered, by threads and under trio."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.support.client_pagers import KEY, PAGE, Coroutine, open_below
from tests.support.mounted import Mounted
from tests.support.pager_client import Background
from vmofs.client import Mount, Object, PagerDirectory, aio
from vmofs.status import AlreadyExistsError, BadHandleError, InvalidArgsError, NoSpaceError, NotFoundError, Status
from vmofs.testing import pattern
from vmofs.units import PageRange
from vmofs.vocabulary import AuxKind, ChildKind, DirtyRange, PacketCommand, VmoOp
from vmofs.wire.commands import CreateVmo

_numbers = itertools.count()


@pytest.fixture
def directory(shared_mount: Mounted) -> Iterator[PagerDirectory]:
    """A pager of its own, whose VMOs are removed after the test."""
    mount = Mount(shared_mount.path)
    directory = mount.create_pager(f"typed{next(_numbers)}")
    yield directory
    directory.remove()
    mount.close()
    for path in [*(shared_mount.path / "vmo").iterdir(), *(shared_mount.path / "aux").iterdir()]:
        path.unlink()
    assert open_below(shared_mount.path) == []


def pread(path: Path, offset: int = 0, length: int = PAGE) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def test_there_must_be_a_mount(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no vmofs is mounted there"):
        Mount(tmp_path)


def test_a_mount_says_its_version(shared_mount: Mounted) -> None:
    assert Mount(shared_mount.path).version.startswith("vmofs ")


def test_a_failed_command_is_an_exception_with_status_and_sentence(directory: PagerDirectory) -> None:
    vmo = directory.create_vmo("a b", 3 * PAGE)
    with pytest.raises(AlreadyExistsError, match="exists"):
        directory.create_vmo("a b", PAGE)
    with pytest.raises(InvalidArgsError, match="100") as caught:
        vmo.fail(0, 100)
    assert caught.value.status is Status.INVALID_ARGS
    with pytest.raises(BadHandleError):
        directory.vmo("nothing").evict(0, PAGE)
    with pytest.raises(FileNotFoundError):
        Mount(directory.mount.path).pager("nobody").create_vmo("x", 1)


def test_many_are_made_up_to_the_first_that_fails(directory: PagerDirectory) -> None:
    commands = [CreateVmo(f"vmo/many{n}", n) for n in range(3000)]
    assert directory.create_vmos(commands) == 3000
    assert directory.create_vmos([CreateVmo("vmo/new", 1), commands[5], CreateVmo("vmo/newer", 1)]) == 1
    with pytest.raises(AlreadyExistsError):
        directory.create_vmos(commands[5:])
    assert directory.vmo("many7").size == 7


def test_pages_are_supplied_from_bytes_and_from_an_aux(directory: PagerDirectory) -> None:
    vmo = directory.create_vmo("v", 3 * PAGE, key=7)
    assert vmo.key == 7
    vmo.supply(0, pattern.make(KEY, 0, PAGE))
    aux = directory.mount.aux("stage")
    aux.path.write_bytes(pattern.make(KEY, PAGE, 2 * PAGE))
    vmo.supply_from(PAGE, 2 * PAGE, aux)
    pattern.check(vmo.path.read_bytes(), KEY)
    assert vmo.attribute("state") == "attached"
    with pytest.raises(NotFoundError):
        directory.create_vmo("empty", PAGE, trap_dirty=True).dirty(0, PAGE)


def test_what_is_written_is_written_back(directory: PagerDirectory) -> None:
    vmo = directory.create_vmo("v", 3 * PAGE, resizable=True)
    vmo.supply(0, bytes(3 * PAGE))
    with vmo.path.open("r+b") as file:
        file.write(b"x" * PAGE)
    assert vmo.is_modified(reset=True)
    assert not vmo.is_modified()
    assert vmo.query_dirty_ranges() == [DirtyRange(PageRange(0, 1), is_zero=False)]
    vmo.writeback_begin(0, PAGE)
    vmo.writeback_end(0, PAGE)
    assert vmo.query_dirty_ranges() == []
    vmo.op_range(VmoOp.ZERO, 0, PAGE)
    assert vmo.query_dirty_ranges()[0].is_zero
    vmo.set_stream_size(2 * PAGE)
    assert vmo.size == 2 * PAGE


def test_children_pins_and_other_aux_files(directory: PagerDirectory) -> None:
    vmo = directory.create_vmo("v", 2 * PAGE)
    vmo.supply(0, pattern.make(KEY, 0, 2 * PAGE))
    child = vmo.create_child(ChildKind.SLICE, "child", PAGE)
    pattern.check(child.path.read_bytes(), KEY, PAGE)
    pin = vmo.pin()
    vmo.evict()
    pattern.check(vmo.path.read_bytes(), KEY)
    pin.close()
    aux = directory.mount.create_aux("fixed", PAGE, AuxKind.CONTIGUOUS)
    assert aux.size == PAGE
    vmo.detach()
    assert vmo.attribute("state") == "detached"


def test_a_command_that_waits_for_pages_can_be_waited_for(directory: PagerDirectory) -> None:
    vmo = directory.create_vmo("v", PAGE)
    committing = Background(lambda: vmo.op_range(VmoOp.COMMIT))
    with directory.requests() as requests:
        request = requests.next(10)
        assert request
        with request:
            assert not committing.done
            request.supply(bytes(PAGE))
    committing.result()


# Requests


def test_requests_come_one_after_the_other_and_are_supplied(directory: PagerDirectory) -> None:
    vmo = directory.create_vmo("v", 3 * PAGE)
    readers = [Background(lambda at=at: pread(vmo.path, at)) for at in (0, PAGE, 2 * PAGE)]  # type: ignore[misc]
    with directory.requests() as requests:
        for request in itertools.islice(requests, 3):
            with request:
                request.supply(pattern.make(KEY, request.offset, request.length))
            assert request.is_answered
        with pytest.raises(TimeoutError):
            requests.next(0.01)
        vmo.unlink()
        complete = requests.next(10)
    assert complete
    assert complete.command is PacketCommand.COMPLETE
    assert complete.is_answered
    for at, reader in zip((0, PAGE, 2 * PAGE), readers, strict=True):
        pattern.check(reader.result(), KEY, at)


def test_a_touch_needs_no_answer_and_fails_nobody(directory: PagerDirectory) -> None:
    vmo = directory.create_vmo("v", 3 * PAGE)
    vmo.mark(PAGE, PAGE)
    vmo.supply(0, pattern.make(KEY, 0, 3 * PAGE))
    with directory.requests() as requests:
        pattern.check(pread(vmo.path, PAGE), KEY, PAGE)
        with requests.next(10) as touch:  # type: ignore[union-attr] # None would fail
            assert (touch.command, touch.offset, touch.length) == (PacketCommand.TOUCH, PAGE, PAGE)
        assert touch.is_answered
        with pytest.raises(TimeoutError):
            requests.next(0.01)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        vmo.attribute("last_error")
    assert caught.value.errno == errno.ENODATA


def test_a_reason_is_told(directory: PagerDirectory) -> None:
    reader = asked(directory)
    with directory.requests() as requests:
        request = requests.next(10)
        assert request
        directory.vmo("v").fail(0, PAGE, Status.IO_DATA_INTEGRITY, "it is gone")
        request.done()
    assert reader.errno() == errno.EBADMSG
    assert directory.vmo("v").attribute("last_error") == f"1 ZX_ERR_IO_DATA_INTEGRITY 0 {PAGE} it is gone"


def test_the_end_of_the_pager_is_the_end_of_the_requests(shared_mount: Mounted) -> None:
    directory = Mount(shared_mount.path).create_pager("ending")
    with directory.requests() as requests:
        directory.remove()
        assert list(requests) == []


def asked(directory: PagerDirectory, length: int = PAGE) -> Background[bytes]:
    """Let somebody read the first pages of a new VMO."""
    vmo = directory.create_vmo("v", length)
    return Background(lambda: pread(vmo.path, 0, length))


def test_what_is_not_answered_in_its_block_is_failed(directory: PagerDirectory) -> None:
    reader = asked(directory)
    with directory.requests() as requests:
        request = requests.next(10)
        assert request
        with request:
            pass
    assert reader.errno() == errno.EIO


def test_an_exception_ends_it_with_its_status(directory: PagerDirectory) -> None:
    reader = asked(directory)
    with directory.requests() as requests:
        request = requests.next(10)
        assert request
        with pytest.raises(NoSpaceError), request:
            raise NoSpaceError("full")
    assert reader.errno() == errno.ENOSPC


def test_one_that_is_forgotten_is_failed_with_a_warning(directory: PagerDirectory) -> None:
    reader = asked(directory)
    with directory.requests() as requests:
        taken = [requests.next(10)]
        with pytest.warns(ResourceWarning, match="was forgotten"):
            taken.clear()
    assert reader.errno() == errno.EIO


def test_one_may_be_answered_in_parts_and_only_the_rest_is_failed(directory: PagerDirectory) -> None:
    reader = asked(directory, 3 * PAGE)
    with directory.requests() as requests:
        request = requests.next(10)
        assert request
        with request:
            request.supply(bytes(PAGE))
            assert not request.is_answered
            request.supply(bytes(PAGE), request.offset + request.length - PAGE)
    assert reader.result() == bytes(PAGE)  # what comes before the page that failed
    assert pread(directory.vmo("v").path, 2 * PAGE) == bytes(PAGE)  # nobody is asked


def test_writers_are_let_through_or_refused(directory: PagerDirectory) -> None:
    vmo = directory.create_vmo("v", 2 * PAGE, trap_dirty=True)
    vmo.supply(0, bytes(2 * PAGE))

    def write(page: int) -> int:
        fd = os.open(vmo.path, os.O_RDWR)
        try:
            return os.pwrite(fd, b"x" * PAGE, page * PAGE)
        finally:
            os.close(fd)

    with directory.requests() as requests:
        writer = Background(lambda: write(0))
        request = requests.next(10)
        assert request
        with request:
            assert request.command is PacketCommand.DIRTY
            request.allow()
        assert writer.result() == PAGE
        writer = Background(lambda: write(1))
        request = requests.next(10)
        assert request
        with request:
            request.fail(Status.NO_SPACE)
        assert writer.errno() == errno.ENOSPC


# Under trio


async def test_requests_are_an_asynchronous_iterator(directory: PagerDirectory) -> None:
    vmo = directory.create_vmo("v", 2 * PAGE)
    readers = [Background(lambda at=at: pread(vmo.path, at)) for at in (0, PAGE)]  # type: ignore[misc]
    with trio.fail_after(10):
        async with aio.requests(directory) as incoming:
            count = 0
            async for request in incoming:
                with request:
                    request.supply(pattern.make(KEY, request.offset, request.length))
                count += 1
                if count == 2:
                    break
    for at, reader in zip((0, PAGE), readers, strict=True):
        pattern.check(reader.result(), KEY, at)


async def test_a_pager_is_served_in_a_nursery_and_its_coroutines_run_in_the_loop(shared_mount: Mounted) -> None:
    class Waiting(Coroutine):
        async def read(self, obj: Object, offset: int, length: int) -> bytes:  # type: ignore[override]
            await trio.sleep(0.001)
            return await Coroutine.read(self, obj, offset, length)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(aio.serve, shared_mount.path, Waiting(Object("t", 300_000)))
            data = await trio.to_thread.run_sync((shared_mount.path / "vmo/t").read_bytes)
            pattern.check(data, KEY)
            nursery.cancel_scope.cancel()
    Mount(shared_mount.path).pager("waiting").remove()
    assert open_below(shared_mount.path) == []


async def test_a_coroutine_that_does_not_return_is_cancelled_at_the_deadline(shared_mount: Mounted) -> None:
    class Endless(Coroutine):
        deadline = 0.2

        async def read(self, obj: Object, offset: int, length: int) -> bytes:  # type: ignore[override]
            await trio.sleep(3600)
            return await Coroutine.read(self, obj, offset, length)

    async with trio.open_nursery() as nursery:
        await nursery.start(aio.serve, shared_mount.path, Endless(Object("t", 300_000)))
        with pytest.raises(OSError, match="Input/output"):
            await trio.to_thread.run_sync(pread, shared_mount.path / "vmo/t")
        nursery.cancel_scope.cancel()
    Mount(shared_mount.path).pager("endless").remove()
