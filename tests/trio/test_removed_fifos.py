"""What is left of FIFOs that were made and removed: nothing, or whoever makes them again and again fills the memory."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
import trio.testing

from tests.support.assembled import assembled, directory
from vmofs.core.requests.port import Port
from vmofs_mount.linux.caller import Caller

CALLER = Caller(0, 0)


def ports_alive() -> int:
    gc.collect()
    return sum(isinstance(thing, Port) for thing in gc.get_objects())


@pytest.mark.parametrize("closed", [False, True])
async def test_a_removed_fifo_leaves_no_port_behind(closed: bool) -> None:
    async with trio.open_nursery() as nursery:
        mount = assembled(nursery)
        control = directory(mount, "control")
        pager = control.realm.mkdir(control, b"p", 0o755, CALLER)
        await trio.testing.wait_all_tasks_blocked()
        before = ports_alive()
        for number in range(5):
            name = f"worker{number}".encode()
            node = weakref.ref(pager.realm.mkfifo(pager, name, 0o600, CALLER))
            await trio.testing.wait_all_tasks_blocked()
            pager.realm.unlink(pager, name)
            await trio.testing.wait_all_tasks_blocked()
        assert ports_alive() == before
        assert node() is None
        if closed:
            control.realm.rmdir(control, b"p")
            await trio.testing.wait_all_tasks_blocked()
            assert ports_alive() == before - 1
        mount.check()
        nursery.cancel_scope.cancel()
