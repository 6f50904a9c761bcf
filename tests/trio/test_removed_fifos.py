"""What is left of FIFOs that were made and removed: nothing, or whoever makes them again and again fills the memory."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
import trio.testing

from vmofs.core.requests.port import Port
from vmofs.core.requests.system import System
from vmofs_mount.assembly.layout import Layout, build_layout
from vmofs_mount.linux.caller import Caller
from vmofs_mount.linux.device_messages import Kernel
from vmofs_mount.linux.mountinfo import Place
from vmofs_mount.loop.engine import Engine
from vmofs_mount.pagers.registry import Pagers
from vmofs_mount.tree.inodes import Directory, Fifo

CALLER = Caller(0, 0)


def plugged_in(layout: Layout, system: System, nursery: trio.Nursery) -> Pagers:
    """Return the pagers of a layout that is not mounted."""
    engine = Engine(system, lambda _port: None, lambda _owner, _pages: None)
    place = Place("/nowhere", 0)
    pagers = Pagers(layout.tree, layout.vmo, engine, place, Kernel(-1), nursery, deadline=300.0)
    layout.seams.open_pager, layout.seams.close_pager = pagers.open, pagers.close
    layout.seams.add_fifo, layout.seams.releasers[Fifo] = pagers.add_fifo, pagers.remove_fifo
    return pagers


def ports_alive() -> int:
    gc.collect()
    return sum(isinstance(thing, Port) for thing in gc.get_objects())


@pytest.mark.parametrize("closed", [False, True])
async def test_a_removed_fifo_leaves_no_port_behind(closed: bool) -> None:
    system = System()
    layout = build_layout(system, uid=0, gid=0, open_to_all=True)
    async with trio.open_nursery() as nursery:
        pagers = plugged_in(layout, system, nursery)
        pager = layout.control.realm.mkdir(layout.control, b"p", 0o755, CALLER)
        assert isinstance(pager, Directory)
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
            layout.control.realm.rmdir(layout.control, b"p")
            await trio.testing.wait_all_tasks_blocked()
            assert ports_alive() == before - 1
        pagers.check()
        nursery.cancel_scope.cancel()
