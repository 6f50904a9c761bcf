"""Ports as FIFOs: page requests become lines in kernel pipes, and requests whose reader is gone go to the next one.

A FIFO in the mount is an ordinary kernel pipe: reading it never comes to vmofs. vmofs opens the FIFO for writing only
while somebody reads it, since whatever it holds open keeps the mount busy. Every open of the FIFO looks its name up
first (entry_timeout 0). From then on vmofs tries to open it for writing, without blocking, until a reader is there.

Everything that is done with an open FIFO is done in a thread of its own, because it may wait: see fifo_threads.py.

While a FIFO is attached two things are watched. Its descriptor reports EPOLLERR when the last reader is gone, and
inotify reports every reader that closes. In both cases requests that were handed out and not answered are delivered
again: a second delivery is harmless, a lost one would leave its reader waiting until the deadline.
"""

# Rules
#
# 1. A packet leaves the port (`Port.take`) when its line was taken by the FIFO's thread, whether or not anybody has
#    read it. What the thread refuses stays in the port.
# 2. A request that was handed out and is not answered comes again: when its reader is gone, when some reader of that
#    FIFO has closed, and after `stall` seconds by another FIFO. Twice is harmless, never is a hang.
# 3. vmofs has a FIFO open only while somebody reads it, or the mount would be busy for ever.
# 4. There is never more than one thread for a FIFO (`_thread`, `_let_go`). What was attached last is closed first.
# 5. `_hand_over` is the only way out of the attached state: end, removal, cancellation and errors all lead there.
#
# How it works
#
#                 looked_up, probe              a reader is there
#     unattached ------------------> `_attach` -------------------> attached: `_serve`, lines go to `Writer`
#         ^                             | none, after 1 s             |  |
#         |<----------------------------+                             |  +-- a reader closed (inotify): `_requeue`
#         |                                                           |
#         +---- `_hand_over`: the last reader is gone (EPOLLERR), or the FIFO is removed
#
# `PagerPorts.kick` is called when a port has got a packet, when a FIFO was attached, and when a thread has room again.
# COMPLETE is no request: the port forgets it when it is taken. So its place in the stream is kept (`completes`), and it
# is sent again if the bytes before that were not all read.
#
# What is not nice
#
# `Fifo` is also the name of the inode; registry.py imports this one as `FifoLane`. It takes five callables. The account
# of bytes that were read serves COMPLETE alone. Without it every COMPLETE that was read would be said again at the next
# handover (measured: 100 of 100). But it is the last packet of its key, and a pager may use that key for a new VMO.
# A reader that was stopped between looking the name up and opening it is found by trying every second: the kernel tells
# nobody of an open.
#
# What else changes with this file
#
# fifo_threads.py; `Port` in vmofs/core/requests/port.py, which knows a FIFO as a "lane"; `prepare_removal` and
# `_end_late_opens` in registry.py; `Ageing` in loop/timeouts.py (`stall`); "FIFOs" in mount/CONCURRENCY.md; "The FIFO"
# in mount/SEMANTICS.md. Tests: tests/fuse/test_ports.py, tests/fuse/test_handover.py, tests/trio/test_removed_fifos.py.

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import trio

from vmofs.core.requests.page_source import PageSource
from vmofs.core.requests.port import Port
from vmofs.core.requests.request import PageRequest
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PacketCommand
from vmofs.wire.packets import format_packet
from vmofs_mount.linux.place import Place
from vmofs_mount.pagers.fifo_threads import Attempt, ClosedReaders, Writer, is_reader_gone
from vmofs_mount.tree.inodes import Fifo, VmoFile

_log = logging.getLogger(__name__)

_ATTACH_DELAYS = (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512)
"""Seconds between attempts after a lookup: a reader that has looked the name up opens it at once, unless stopped."""

_POLL_SECONDS = 1.0
"""How often an unattached FIFO is tried while requests wait: for readers stopped between lookup and open."""

DEFAULT_PORT = "requests"
"""The FIFO that each pager has, whose packets are those of the default port."""

SETTLE_SECONDS = 0.1
"""How long the removal of FIFOs waits for readers who are just opening them. The kernel has ``control/`` locked."""

CLOSE_SECONDS = 1.0
"""How long anybody waits for the thread of a FIFO to close it. It goes on, and what comes after it has to wait."""


@dataclass(frozen=True, slots=True)
class FifoStatistics:
    """``delivered``: requests handed out by this FIFO and not answered."""

    attached: bool
    delivered: int
    lines_total: int
    handovers_total: int


class Tasks(NamedTuple):
    """When things are done: in a task, or once no more messages of the kernel are there."""

    spawn: Callable[..., None]
    when_drained: Callable[[Callable[[], None]], None]


class _Attached:
    """An open FIFO: what writes into it, and what it was given that must be sent again if nobody has read it."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        # Bounded: a pager may read nothing for long. What falls out is not sent again.
        self.completes: deque[tuple[int, PageSource]] = deque(maxlen=65536)  # (end in the stream, source)
        self.gone = trio.Event()  # set when it is detached, or is to be
        self.closing = trio.CancelScope(shield=True)
        self.let_go = trio.Event()  # set when the thread has closed it, or has had time to

    def close(self) -> None:
        """Let the thread close it; from now on that is waited for, but not for long."""
        self.gone.set()
        # The thread may wait for the lock of the pipe. Then it is left alone, and closes when it gets that.
        self.closing.deadline = trio.current_time() + CLOSE_SECONDS
        self.writer.close()

    def forget_read_completes(self) -> None:
        """Keep what stands in the pipe, and nothing of VMOs whose end was read: they are gone."""
        while self.completes and self.completes[0][0] <= self.writer.read_bytes:
            self.completes.popleft()

    async def run(self, thread: trio.CapacityLimiter) -> None:
        """Have a thread write, until ``close``. COMPLETE lines that nobody has read are sent again then."""
        with self.closing:
            await trio.to_thread.run_sync(self.writer.run, limiter=thread, abandon_on_cancel=True)
        # If the thread is stuck nobody knows what was read. Then all are sent again.
        read = 0 if self.closing.cancelled_caught else self.writer.read_bytes
        for end, source in self.completes:
            if end > read:
                source.send_note(PacketCommand.COMPLETE)
        self.let_go.set()


class FifoLane:
    """One FIFO of a pager, ``node``: a lane by which the packets of ``ports`` are delivered.

    ``siblings`` are the FIFOs of the pager, this one too.
    """

    def __init__(
        self,
        node: Fifo,
        ports: tuple[Port, ...],
        siblings: PagerPorts,
        place: Place,
        closes: ClosedReaders,
        tasks: Tasks,
    ) -> None:
        self.node = node
        self.ports = ports
        self._siblings = siblings
        self._place = place
        self._closes = closes
        self._spawn = tasks.spawn
        self._when_drained = tasks.when_drained
        self._scope = trio.CancelScope()
        self._thread = trio.CapacityLimiter(1)  # what is done with the FIFO is done in order
        self._attached: _Attached | None = None
        self._let_go = trio.Event()  # unset while the thread closes what was attached last
        self._let_go.set()
        self._wanted = trio.Event()
        self._was_looked_up = False
        self._settled = trio.Event()  # unset while somebody who looked the name up may be in open
        self._settled.set()
        self._lines_total = 0  # of those that were attached before
        self._handovers_total = 0

    @property
    def attached(self) -> bool:
        """Whether somebody reads."""
        return self._attached is not None

    @property
    def may_have_lost_a_reader(self) -> bool:
        """Whether one of several readers may have gone without that it was seen, with what it has not answered."""
        return not self._closes.sees_each

    @property
    def load(self) -> int:
        """How many requests this FIFO handed out that are not answered."""
        return sum(port.load(self) for port in self.ports)

    def preference(self, port: Port) -> tuple[bool, int]:
        """Return by what to choose among several FIFOs, the smallest first.

        One that stalls comes last, but is tried with one request at a time, to learn whether it goes on.
        """
        load = self.load
        return load > 0 and port.is_stalled(self), load

    def looked_up(self) -> trio.Event | None:
        """Note that a process looks the name up, and may open it; called before the lookup is answered.

        Returns:
            What the lookup should wait for, or the process would read what the last reader left in the pipe; None for
            nothing.
        """
        # EPOLLERR may not have been reported yet. The one that opens now must not be taken for the one that is gone.
        if self._attached is not None and is_reader_gone(self._attached.writer.fd):
            self._hand_over()
        if self._attached is None and self._settled.is_set():
            self._settled = trio.Event()
        self._was_looked_up = True
        self._wanted.set()
        return None if self._let_go.is_set() else self._let_go

    async def wait_settled(self) -> None:
        """Wait until every process that looked the name up has got through its open.

        To be awaited before the FIFO goes. A process that opens it later waits until ``Fifos`` opens the inode by its
        number, where vmofs may do that.
        """
        await self._settled.wait()

    def probe(self) -> None:
        """Look whether somebody reads: a request waits.

        Not if nobody ever looked the name up: as long as we look, the mount is busy for who unmounts it.
        """
        if self._was_looked_up:
            self._wanted.set()

    def deliver(self, port: Port) -> None:
        """Send the packets of a port as long as there is room; without a reader, look for one."""
        if self._attached is not None:
            while self.send(port):
                pass
        elif port:
            self.probe()

    def send(self, port: Port) -> bool:
        """Have the oldest packet of a port written into the pipe; return False if there is no room or no reader."""
        request, attached = port.oldest(), self._attached
        if request is None or attached is None or not attached.writer.hand(self._line(request)):
            return False
        # Only now: a packet that was refused stays the oldest.
        port.take(self, trio.current_time())
        if request.command is PacketCommand.COMPLETE:
            attached.completes.append((attached.writer.handed_bytes, request.source))
            attached.writer.count_read()
            attached.forget_read_completes()
        return True

    @property
    def has_room(self) -> bool:
        """Whether somebody reads, and another line is taken."""
        return self._attached is not None and self._attached.writer.has_room_for_line

    def send_miss(self, source: PageSource, page: int) -> None:
        """Have the line for a page written that is asked for on the short path of a miss. There must be room."""
        assert self._attached is not None
        line = format_packet(PacketCommand.READ, source.key, page * PAGE_SIZE, PAGE_SIZE, vmo_name(source))
        writer = self._attached.writer
        writer.append(line)
        self._when_drained(writer.wake)

    def send_again(self, request: PageRequest) -> bool:
        """Write the packet of a request that another FIFO was given and did not answer; return False if that fails."""
        if self._attached is None or not self._attached.writer.hand(self._line(request)):
            return False
        request.source.port.redeliver(request, self, trio.current_time())
        return True

    def _line(self, request: PageRequest) -> bytes:
        packet = request.packet()
        return format_packet(packet.command, packet.key, packet.offset, packet.length, vmo_name(packet.source))

    def end(self) -> None:
        """Let the readers see the end of the stream: the FIFO, or its pager, goes."""
        self._scope.cancel()

    async def run(self) -> None:
        """Attach when somebody reads, deliver, hand over when the last reader is gone; until ``end``, or cancelled."""
        with self._scope:
            try:
                while True:
                    # A reader that was stopped before its open looks nothing up again. So it is looked for while
                    # requests wait.
                    timeout = _POLL_SECONDS if self._was_looked_up and any(self.ports) else float("inf")
                    with trio.move_on_after(timeout):
                        await self._wanted.wait()
                    self._wanted = trio.Event()
                    await self._attach_and_serve()
            finally:
                self._hand_over()

    async def _attach_and_serve(self) -> None:
        try:
            attached = await self._attach()
            # If it was looked up once more, that reader may be in open still.
            if attached or not self._wanted.is_set():
                self._settled.set()
            if self._attached is not None:
                await self._serve(self._attached)
        except OSError as error:  # no descriptors, or no inotify watches, are left: others must not suffer from it
            _log.warning("%s cannot be served now: %s", self.node.path, error)
            self._hand_over()
            self._wanted.set()
            await trio.sleep(_POLL_SECONDS)

    async def _attach(self) -> bool:
        # The thread of the last attachment may have the FIFO still.
        await self._let_go.wait()
        for delay in _ATTACH_DELAYS:
            with trio.move_on_after(delay):
                await self._wanted.wait()
                return False  # looked up again: start over with short delays
            attempt = Attempt(self._place, self.node.path, self._closes)
            try:
                await trio.to_thread.run_sync(attempt.open, abandon_on_cancel=True, limiter=self._thread)
            except trio.Cancelled:
                # The thread may have opened it, or be about to. Whichever it is, it is closed in a thread.
                opened = attempt.abandon()
                if opened is not None:
                    writer, watch = opened
                    self._closes.forget(watch)
                    attached = _Attached(writer)
                    attached.close()
                    self._spawn(attached.run, self._thread)
                raise
            opened = attempt.take()
            if opened is not None:
                self._serve_by(*opened)
                return True
        return False

    def _serve_by(self, writer: Writer, watch: int | None) -> None:
        token = trio.lowlevel.current_trio_token()

        def has_room() -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._deliver, idempotent=True)

        # Called in the thread, which may outlive the loop.
        writer.has_room = has_room
        self._attached = _Attached(writer)
        self._closes.add(writer.fd, watch, self)
        self._spawn(self._write, self._attached)

    async def _write(self, attached: _Attached) -> None:
        await attached.run(self._thread)
        self._lines_total += attached.writer.lines_total
        self._deliver()

    async def _serve(self, attached: _Attached) -> None:
        try:
            self._deliver()
            await attached.gone.wait()
        finally:
            self._hand_over()

    def _deliver(self) -> None:
        for port in self.ports:
            self._siblings.kick(port)

    def reader_closed(self) -> None:
        """Deliver again what was handed out and not answered: one of the readers is gone."""
        if self._attached is not None and is_reader_gone(self._attached.writer.fd):
            self._hand_over()
            return
        # It is not known which reader had which line. So all that is not answered comes again.
        self._requeue()
        self._deliver()

    def reader_gone(self) -> None:
        """End serving: the last reader is gone."""
        self._hand_over()

    def _requeue(self) -> None:
        count = sum(port.requeue_delivered(self) for port in self.ports)
        if count:
            self._handovers_total += 1

    def _hand_over(self) -> None:
        """Let go of the pipe, and put everything that its readers did not answer back in the ports."""
        attached, self._attached = self._attached, None
        if attached is None:
            return
        # Whoever opens the FIFO next waits for this.
        self._let_go = attached.let_go
        self._closes.discard(attached.writer.fd)
        attached.close()
        self._requeue()
        self._deliver()  # to the other FIFOs of this pager

    def statistics(self) -> FifoStatistics:
        """Return the present counts."""
        lines = self._lines_total + (self._attached.writer.lines_total if self._attached is not None else 0)
        return FifoStatistics(self.attached, self.load, lines, self._handovers_total)


class PagerPorts:
    """The FIFOs of one pager. Those of any name share the packets of the default port."""

    def __init__(self, default: Port) -> None:
        self.default = default
        self.fifos: dict[str, FifoLane] = {}

    def lane_for_miss(self, port: Port) -> FifoLane | None:
        """Return the only FIFO of the pager, if it can take a line at once."""
        if len(self.fifos) == 1:
            for fifo in self.fifos.values():
                if fifo.has_room and port in fifo.ports:
                    return fifo
        return None

    def kick(self, port: Port) -> None:
        """Deliver the packets of a port by the FIFOs that have a reader, the least loaded first."""
        if len(self.fifos) == 1:  # as nearly always
            for fifo in self.fifos.values():
                if port in fifo.ports:
                    fifo.deliver(port)
            return
        lanes = [fifo for fifo in self.fifos.values() if port in fifo.ports]
        open_lanes = [fifo for fifo in lanes if fifo.attached]
        while port and open_lanes:
            lane = min(open_lanes, key=lambda fifo: fifo.preference(port)) if len(open_lanes) > 1 else open_lanes[0]
            if not lane.send(port):
                # No room. It kicks again when there is (`has_room`).
                open_lanes.remove(lane)
        if port:
            for fifo in lanes:
                if not fifo.attached:
                    fifo.probe()

    def has_reader(self, port: Port) -> bool:
        """Return whether somebody reads a FIFO by which the packets of a port are delivered."""
        return any(fifo.attached for fifo in self.fifos.values() if port in fifo.ports)

    def unread(self) -> list[str]:
        """Return the FIFOs, by the name of their port's own one, whose packets wait for somebody who reads them."""
        own = {self.default: DEFAULT_PORT} | {
            fifo.ports[0]: name for name, fifo in self.fifos.items() if name != DEFAULT_PORT
        }
        return [name for port, name in own.items() if port and not self.has_reader(port)]

    def deliver_again(self, request: PageRequest) -> bool:
        """Deliver a request once more, by another FIFO than the one that it was delivered by; return whether one can.

        It may be the same FIFO if that may have lost a reader. Nothing happens if it waits to be delivered anyway.
        """
        port = request.source.port
        stalled = port.delivered().get(request)
        # It was requeued, or answered, meanwhile.
        if stalled is None:
            return False
        lanes = [
            fifo
            for fifo in self.fifos.values()
            if fifo.attached and port in fifo.ports and (fifo is not stalled or fifo.may_have_lost_a_reader)
        ]
        return any(fifo.send_again(request) for fifo in sorted(lanes, key=lambda fifo: fifo.preference(port)))


def vmo_name(source: PageSource) -> str:
    """Return the name of the VMO that a page source belongs to, the last one it had if it was unlinked."""
    file = source.owner
    assert isinstance(file, VmoFile)
    return file.path
