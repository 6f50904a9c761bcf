"""The FIFOs of all pagers: those that have a name, and those that somebody may yet open although they have none."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import trio

from vmofs.core.requests.port import Port
from vmofs_mount.linux.place import Place
from vmofs_mount.loop.lanes import Lanes
from vmofs_mount.pagers.delivery import CLOSE_SECONDS, SETTLE_SECONDS, FifoLane, PagerPorts, Tasks
from vmofs_mount.pagers.fifo_threads import ClosedReaders, attaching_threads, end_opens
from vmofs_mount.rights.identity import can_open_inodes
from vmofs_mount.tree.inodes import Fifo

_LATE_OPENS = 8  # threads for each user: FIFOs that are gone may be locked


class Fifos:
    """The lanes of FIFOs. Must be made inside the event loop."""

    def __init__(self, place: Place, tasks: Tasks) -> None:
        self._place = place
        self._tasks = tasks
        self._spawn = tasks.spawn
        self._lanes: dict[Fifo, FifoLane] = {}
        self._closed_readers = ClosedReaders()
        self._late_opens = Lanes(_LATE_OPENS)
        self._spawn(self._closed_readers.run)

    def add(self, fifo: Fifo, ports: tuple[Port, ...], of: PagerPorts) -> None:
        """Deliver the packets of ports by a FIFO of a pager."""
        lane = FifoLane(fifo, ports, of, self._place, self._closed_readers, self._tasks)
        of.fifos[fifo.name.decode()] = lane
        self._lanes[fifo] = lane
        self._spawn(lane.run)

    def end(self, fifo: Fifo) -> FifoLane | None:
        """End the lane of a FIFO and return it; None if it has ended before."""
        lane = self._lanes.pop(fifo, None)
        if lane is not None:
            lane.end()
        return lane

    async def looked_up(self, fifo: Fifo, thread: int) -> None:
        """Note that somebody may be about to open a FIFO, and wait until the end of the last reader is settled."""
        lane = self._lanes.get(fifo)
        if lane is not None and thread not in attaching_threads:
            let_go = lane.looked_up()
            if let_go is not None:
                with trio.move_on_after(CLOSE_SECONDS):
                    await let_go.wait()

    async def wait_settled(self, fifos: Iterable[Fifo], seconds: float = SETTLE_SECONDS) -> None:
        """Wait until nobody is just opening a FIFO that is about to go."""
        with trio.move_on_after(seconds):
            for lane in [self._lanes[fifo] for fifo in fifos if fifo in self._lanes]:
                await lane.wait_settled()

    def let_late_ones_go(self, fifo: Fifo) -> None:
        """Have those go on who looked up the name of a FIFO in time, but open it now that it has none."""
        if fifo.lookup_count and can_open_inodes():
            self._spawn(self._end_late_opens, fifo)

    async def _end_late_opens(self, fifo: Fifo) -> None:
        """Open a FIFO for those who wait to: nobody else would.

        While the kernel knows the FIFO somebody may be about to. He waits as long again as he was late, at most.
        """
        delay = SETTLE_SECONDS
        await trio.sleep(delay)
        while fifo.lookup_count:
            await self._late_opens.run(fifo.uid, partial(end_opens, self._place, fifo.ino))
            await trio.sleep(delay)
            delay *= 2

    def __contains__(self, fifo: object) -> bool:
        """Return whether a FIFO has a lane."""
        return fifo in self._lanes
