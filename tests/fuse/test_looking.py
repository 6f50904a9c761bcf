"""Looking at a file (stat, by whatever way) waits for nobody: not for pages that are locked, nor for its pager."""

from __future__ import annotations

import os

import pytest

from tests.support.pager_client import Background, PagerClient
from tests.support.writing import KEY, command_file, dirty, mapped, op, opened, page_bytes, start_read, supply, take
from vmofs.units import PAGE_SIZE


@pytest.mark.parametrize("waiting", ["READ", "WRITE"])
def test_looking_at_a_file_waits_for_no_call_that_came_before_the_look_or_after_it(
    pager: PagerClient, waiting: str
) -> None:
    """The kernel must not drop pages because the mtime is new: it would wait for those that are locked."""
    vmo = pager.create(size=4 * PAGE_SIZE)
    supply(pager, vmo)
    with opened(vmo.path) as fd:
        os.pread(fd, 1, 0)
        os.pwrite(fd, b"x", 0)  # a new mtime, of which the kernel does not know
        waiter = Background(lambda: os.pwrite(fd, b"y", 9000) if waiting == "WRITE" else os.pread(fd, 1, 9000))
        pager.take_read(vmo, 2 * PAGE_SIZE)
        for look in (Background(vmo.path.stat), Background(lambda: os.fstat(fd))):
            look.result()
        assert not waiter.done
        supply(pager, vmo, 2)
        waiter.result()


@pytest.mark.parametrize("look", ["lookup", "fstat"])
def test_a_pager_that_looks_at_a_file_that_grows_does_not_wait_for_itself(pager: PagerClient, look: str) -> None:
    """The kernel must not drop pages because the size is new: it would write back what was stored, and wait for that.

    It takes no notice of a new size while an ordinary write makes the file grow, but it does under O_DIRECT.
    """
    vmo = pager.create(size=4 * PAGE_SIZE, options="resizable trap_dirty")
    supply(pager, vmo, 0, 4)
    with opened(vmo.path) as fd, mapped(fd, 4) as mapping, opened(vmo.path, os.O_RDWR | os.O_DIRECT) as direct:
        mapping.store(0, b"stored")
        grower = Background(lambda: os.pwrite(direct, bytes(2 * PAGE_SIZE), 3 * PAGE_SIZE))
        assert take(pager) == "DIRTY(3,2)"
        looker = Background(lambda: (os.fstat(fd) if look == "fstat" else vmo.path.stat()).st_size)
        assert looker.result() == 5 * PAGE_SIZE
        assert len(pager.pending()) == 1
        assert not grower.done
        op(pager, "DIRTY", vmo, 3, 2)
        assert grower.result() == 2 * PAGE_SIZE
        msync = Background(mapping.msync)
        assert take(pager) == "DIRTY(0,1)"
        op(pager, "DIRTY", vmo)
        msync.result()
        assert os.pread(fd, 6, 0) == b"stored"
        assert dirty(pager, vmo) == "{0,1}{3,2}"


def test_a_pager_that_looks_at_a_file_that_grew_does_not_wait_for_a_page_that_it_owes(pager: PagerClient) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    supply(pager, vmo, 3)
    with opened(vmo.path) as fd, command_file(pager, "vmo_set_stream_size") as sizes:
        assert sizes.say(f"{vmo.name} {3 * PAGE_SIZE + 1}") == "ZX_OK\n"
        assert os.fstat(fd).st_size == 3 * PAGE_SIZE + 1
        reader = start_read(fd, 1)
        assert take(pager) == "READ(1,1)"
        assert sizes.say(f"{vmo.name} {4 * PAGE_SIZE}") == "ZX_OK\n"
        assert Background(vmo.path.stat).result().st_size == 4 * PAGE_SIZE
        assert not reader.done
        supply(pager, vmo, 1)
        assert reader.result() == page_bytes(1, key=KEY)
