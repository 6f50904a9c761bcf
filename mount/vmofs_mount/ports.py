"""Ports as FIFOs: page requests become lines in kernel pipes, and requests whose reader is gone go to the next one.

A FIFO in the mount is an ordinary kernel pipe: reading it never comes to vmofs. vmofs opens the FIFO for writing only
while somebody reads it, since whatever it holds open keeps the mount busy. Every open of the FIFO looks its name up
first (entry_timeout 0); from then on vmofs tries to open it for writing, without blocking, until a reader is there.

Of a FIFO that others than root have, or whoever serves the mount, everything is done in a thread of its own: see
``attaching``. Then a packet counts as dequeued when it is given to the thread.

While a FIFO is attached two things are watched. Its descriptor reports EPOLLERR when the last reader is gone, and
inotify reports every reader that closes. In both cases requests that were handed out and not answered are delivered
again: a second delivery is harmless, a lost one would leave its reader waiting until the deadline. For the same reason
a request that stays unanswered is delivered again by another FIFO of the pager, if there is one.
"""

from __future__ import annotations

import logging
import os
import select
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from vmofs.core.port import Port
from vmofs.core.request import Command, PageRequest
from vmofs.core.source import PageSource
from vmofs.wire.packets import PacketCommand, format_packet
from vmofs_mount.attaching import Attempt, ClosedReaders, count_and_close, unread_bytes, write_lines

_log = logging.getLogger(__name__)

_WORDS = {command: PacketCommand(command.name) for command in Command}

_ATTACH_DELAYS = (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512)
"""Seconds between attempts after a lookup: a reader that has looked the name up opens it at once, unless stopped."""

_POLL_SECONDS = 1.0
"""How often an unattached FIFO is tried while requests wait: for readers stopped between lookup and open."""

SETTLE_SECONDS = 0.1
"""How long the removal of FIFOs waits for readers who are just opening them. The kernel has ``control/`` locked."""

_MAX_UNSENT_LINES = 64
"""Lines that a thread may have to write; more packets wait in the port."""

CLOSE_SECONDS = 1.0
"""How long anybody waits for the thread of a FIFO to close it. It goes on, and what comes after it has to wait."""


@dataclass(frozen=True, slots=True)
class FifoStatistics:
    """``delivered``: requests handed out by this FIFO and not answered."""

    attached: bool
    delivered: int
    lines_total: int
    handovers_total: int


class Fifo:
    """One FIFO of a pager: a lane by which the packets of ``ports`` are delivered."""

    def __init__(
        self,
        ports: tuple[Port, ...],
        path: Callable[[], str],
        device: int,
        name_of: Callable[[PageSource], str],
        closes: ClosedReaders,
        kick: Callable[[Port], None],
        is_shared: Callable[[], bool],
        spawn: Callable[..., None],
    ) -> None:
        self.ports = ports
        self._path = path
        self._device = device
        self._name_of = name_of
        self._closes = closes
        self._kick = kick
        self._is_shared = is_shared
        self._spawn = spawn
        self._thread = trio.CapacityLimiter(1)  # what is done with the FIFO is done in order
        self._unsent: deque[bytes] = deque()  # lines that are to be written by the thread
        self._has_unsent = trio.Event()
        self._let_go = trio.Event()  # unset while the thread closes the last descriptor
        self._let_go.set()
        self._fd: int | None = None
        self._wanted = trio.Event()
        self._was_looked_up = False
        self._settled = trio.Event()  # unset while somebody who looked the name up may be in open
        self._settled.set()
        self._blocked = trio.Event()
        self._serving = trio.CancelScope()
        self._lines_total = 0
        self._handovers_total = 0
        self._bytes_written = 0
        self._completes: deque[tuple[int, PageSource]] = deque(maxlen=65536)  # (end in the stream, source)

    @property
    def attached(self) -> bool:
        """Whether somebody reads."""
        return self._fd is not None

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
        """Note that somebody looked the name up and may open it; called before he learns that it exists.

        Returns:
            What he should wait for, or he would read what the last reader left in the pipe; None for nothing.
        """
        if self._fd is not None and self._reader_is_gone(self._fd):
            self._hand_over()
        if self._fd is None and self._settled.is_set():
            self._settled = trio.Event()
        self._was_looked_up = True
        self._wanted.set()
        return None if self._let_go.is_set() else self._let_go

    async def wait_settled(self) -> None:
        """Wait until whoever looked the name up has got through his open.

        For before the FIFO goes: who opens it after that waits for ``Pagers`` to open it by its number, if it may.
        """
        await self._settled.wait()

    def probe(self) -> None:
        """Look whether somebody reads: a request waits.

        Not if nobody ever looked the name up: as long as we look, the mount is busy for who unmounts it.
        """
        if self._was_looked_up:
            self._wanted.set()

    def send(self, port: Port) -> bool:
        """Write the oldest packet of a port into the pipe; return False if the pipe is full or its reader gone."""
        request = port.oldest()
        if request is None or not self._write(self._line(request)):
            return False
        port.take(self, trio.current_time())
        if request.command is Command.COMPLETE:
            self._completes.append((self._bytes_written + sum(map(len, self._unsent)), request.source))
            if not self._unsent:
                assert self._fd is not None
                self._forget_read_completes(unread_bytes(self._fd))
        return True

    def send_again(self, request: PageRequest) -> bool:
        """Write the packet of a request that another FIFO was given and did not answer; return False if that fails."""
        if not self._write(self._line(request)):
            return False
        request.source.port.redeliver(request, self, trio.current_time())
        return True

    def _write(self, line: bytes) -> bool:
        if self._fd is None:
            return False
        if self._is_shared():
            if len(self._unsent) >= _MAX_UNSENT_LINES or self._reader_is_gone(self._fd):
                return False
            self._unsent.append(line)
            self._has_unsent.set()
            return True
        try:
            os.write(self._fd, line)
        except BlockingIOError:
            self._blocked.set()
            return False
        except BrokenPipeError:
            return False  # run() is about to learn it too
        self._lines_total += 1
        self._bytes_written += len(line)
        return True

    def _forget_read_completes(self, unread: int) -> None:
        """Keep what stands in the pipe, and nothing of VMOs whose end was read: they are gone."""
        while self._completes and self._completes[0][0] <= self._bytes_written - unread:
            self._completes.popleft()

    async def _write_unsent(self, fd: int) -> None:
        """Write what was left to the thread, until cancelled or nobody reads any more."""
        while True:
            await self._has_unsent.wait()
            self._has_unsent = trio.Event()
            while self._unsent:
                unsent, lines = self._unsent, list(self._unsent)
                written, unread = await trio.to_thread.run_sync(
                    write_lines, fd, lines, limiter=self._thread, abandon_on_cancel=True
                )
                if self._unsent is not unsent:
                    return  # handed over meanwhile
                for line in lines[:written]:
                    unsent.popleft()
                    self._bytes_written += len(line)
                self._lines_total += written
                self._forget_read_completes(unread)
                if written < len(lines):
                    try:
                        await trio.lowlevel.wait_writable(fd)
                    except trio.ClosedResourceError:
                        return  # handed over meanwhile
                self._deliver()

    def _line(self, request: PageRequest) -> bytes:
        packet = request.packet()
        return format_packet(
            _WORDS[packet.command], packet.key, packet.offset, packet.length, self._name_of(packet.source)
        )

    async def run(self) -> None:
        """Attach when somebody reads, deliver, hand over when he is gone; until cancelled."""
        try:
            while True:
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
            if attached or not self._wanted.is_set():
                self._settled.set()
            if attached:
                await self._serve()
        except OSError as error:  # no descriptors, or no inotify watches, are left: others must not suffer from it
            _log.warning("%s cannot be served now: %s", self._path(), error)
            self._hand_over()
            self._wanted.set()
            await trio.sleep(_POLL_SECONDS)

    async def _attach(self) -> bool:
        await self._let_go.wait()
        for delay in _ATTACH_DELAYS:
            with trio.move_on_after(delay):
                await self._wanted.wait()
                return False  # looked up again: start over with short delays
            attempt = Attempt(self._path(), self._device, self._closes)
            try:
                await trio.to_thread.run_sync(attempt.open, abandon_on_cancel=True, limiter=self._thread)
            except trio.Cancelled:
                opened = attempt.abandon()
                if opened is not None:
                    self._closes.forget(opened[1])
                    self._close(opened[0], 0, [])
                raise
            opened = attempt.take()
            if opened is not None:
                self._fd, watch = opened
                self._closes.add(self._fd, watch, self)
                return True
        return False

    async def _serve(self) -> None:
        fd = self._fd
        assert fd is not None
        gone = select.epoll()
        try:
            gone.register(fd, 0)  # an empty mask still reports EPOLLERR: the last reader is gone
            async with trio.open_nursery() as nursery:
                self._serving = nursery.cancel_scope
                nursery.start_soon(self._resume_when_writable, fd)
                nursery.start_soon(self._write_unsent, fd)
                self._deliver()
                await trio.lowlevel.wait_readable(gone.fileno())
                nursery.cancel_scope.cancel()
        finally:
            gone.close()
            self._hand_over()

    async def _resume_when_writable(self, fd: int) -> None:
        while True:
            await self._blocked.wait()
            self._blocked = trio.Event()
            try:
                await trio.lowlevel.wait_writable(fd)
            except trio.ClosedResourceError:
                return  # handed over meanwhile
            self._deliver()

    def _deliver(self) -> None:
        for port in self.ports:
            self._kick(port)

    def reader_closed(self) -> None:
        """Deliver again what was handed out and not answered: one of the readers is gone."""
        self._requeue()
        self._deliver()

    def _reader_is_gone(self, fd: int) -> bool:
        poll = select.poll()
        poll.register(fd, 0)
        return bool(poll.poll(0))

    def _requeue(self) -> None:
        count = sum(port.requeue_delivered(self) for port in self.ports)
        if count:
            self._handovers_total += 1

    def _hand_over(self) -> None:
        """Let go of the pipe, and put everything that its readers did not answer back in the ports."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        completes = list(self._completes)
        self._completes.clear()
        self._unsent = deque()
        self._closes.discard(fd)
        self._serving.cancel()
        trio.lowlevel.notify_closing(fd)
        self._close(fd, self._bytes_written, completes)
        self._requeue()
        self._deliver()  # to the other FIFOs of this pager

    def _close(self, fd: int, written: int, completes: list[tuple[int, PageSource]]) -> None:
        if self._is_shared():
            self._let_go = trio.Event()
            self._spawn(self._close_in_thread, fd, written, completes)
        else:
            _send_again(completes, written - count_and_close(fd))

    async def _close_in_thread(self, fd: int, written: int, completes: list[tuple[int, PageSource]]) -> None:
        read = 0
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            unread = await trio.to_thread.run_sync(count_and_close, fd, limiter=self._thread, abandon_on_cancel=True)
            read = written - unread
        _send_again(completes, read)
        self._let_go.set()
        self._deliver()

    def statistics(self) -> FifoStatistics:
        """Return the present counts."""
        return FifoStatistics(self.attached, self.load, self._lines_total, self._handovers_total)


def _send_again(completes: list[tuple[int, PageSource]], read: int) -> None:
    """Send those COMPLETE lines again that end behind what was read."""
    for end, source in completes:
        if end > read:
            source.send_complete()


class PagerPorts:
    """The FIFOs of one pager. Those of any name share the packets of the default port."""

    def __init__(self, default: Port) -> None:
        self.default = default
        self.fifos: dict[str, Fifo] = {}

    def kick(self, port: Port) -> None:
        """Deliver the packets of a port by the FIFOs that have a reader, the least loaded first."""
        lanes = [fifo for fifo in self.fifos.values() if port in fifo.ports]
        open_lanes = [fifo for fifo in lanes if fifo.attached]
        while port and open_lanes:
            lane = min(open_lanes, key=lambda fifo: fifo.preference(port)) if len(open_lanes) > 1 else open_lanes[0]
            if not lane.send(port):
                open_lanes.remove(lane)
        if port:
            for fifo in lanes:
                if not fifo.attached:
                    fifo.probe()

    def deliver_again(self, request: PageRequest) -> bool:
        """Deliver a request once more, by another FIFO than the one that it was delivered by; return whether one can.

        Nothing happens if it waits to be delivered anyway.
        """
        port = request.source.port
        stalled = port.delivered().get(request)
        if stalled is None:
            return False
        lanes = [fifo for fifo in self.fifos.values() if fifo.attached and fifo is not stalled and port in fifo.ports]
        return any(fifo.send_again(request) for fifo in sorted(lanes, key=lambda fifo: fifo.preference(port)))
