"""Ports as FIFOs: page requests become lines in kernel pipes, and requests whose reader is gone go to the next one.

A FIFO in the mount is an ordinary kernel pipe: reading it never comes to vmofs. vmofs opens the FIFO for writing only
while somebody reads it, since whatever it holds open keeps the mount busy. Every open of the FIFO looks its name up
first (entry_timeout 0); from then on vmofs tries to open it for writing, without blocking, until a reader is there.

While a FIFO is attached two things are watched. Its descriptor reports EPOLLERR when the last reader is gone, and
inotify reports every reader that closes. In both cases requests that were handed out and not answered are delivered
again: a second delivery is harmless, a lost one would leave its reader waiting until the deadline. For the same reason
a request that stays unanswered is delivered again by another FIFO of the pager, if there is one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import struct
import termios
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from vmofs.core.port import Port
from vmofs.core.request import Command, Packet, PageRequest
from vmofs.core.source import PageSource
from vmofs.wire.packets import PacketCommand, format_packet
from vmofs_mount.inotify import CloseWatch

_log = logging.getLogger(__name__)

_ATTACH_DELAYS = (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512)
"""Seconds between attempts after a lookup: a reader that has looked the name up opens it at once, unless stopped."""

_POLL_SECONDS = 1.0
"""How often an unattached FIFO is tried while requests wait: for readers stopped between lookup and open."""

SETTLE_SECONDS = 0.1
"""How long the removal of FIFOs waits for readers who are just opening them. The kernel has ``control/`` locked."""

_ATTACHERS = trio.CapacityLimiter(16)

attaching_threads: set[int] = set()
"""Thread ids that are opening a FIFO through the mount: their lookups are no readers."""


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
    ) -> None:
        self.ports = ports
        self._path = path
        self._device = device
        self._name_of = name_of
        self._closes = closes
        self._kick = kick
        self._fd: int | None = None
        self._wanted = trio.Event()
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

    def looked_up(self) -> None:
        """Note that somebody looked the name up and may open it; called before he learns that it exists."""
        if self._fd is not None and self._reader_is_gone(self._fd):
            self._hand_over()
        if self._fd is None and self._settled.is_set():
            self._settled = trio.Event()
        self._wanted.set()

    async def wait_settled(self) -> None:
        """Wait until whoever looked the name up has got through his open.

        For before the FIFO goes: then nobody would open it for writing any more, and he would wait in open for ever.
        """
        await self._settled.wait()

    def probe(self) -> None:
        """Look whether somebody reads: a request waits."""
        self._wanted.set()

    def send(self, port: Port) -> bool:
        """Write the oldest packet of a port into the pipe; return False if the pipe is full or its reader gone."""
        packet = port.peek()
        if packet is None or not self._write(self._line(packet)):
            return False
        port.dequeue(self, trio.current_time())
        if packet.command is Command.COMPLETE:
            self._remember_complete(packet.source)
        return True

    def send_again(self, request: PageRequest) -> bool:
        """Write the packet of a request that another FIFO was given and did not answer; return False if that fails."""
        if not self._write(self._line(request.packet())):
            return False
        request.source.port.redeliver(request, self, trio.current_time())
        return True

    def _write(self, line: bytes) -> bool:
        if self._fd is None:
            return False
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

    def _remember_complete(self, source: PageSource) -> None:
        """Keep what stands in the pipe, and nothing of VMOs whose end was read: they are gone."""
        assert self._fd is not None
        read = self._bytes_written - _unread_bytes(self._fd)
        while self._completes and self._completes[0][0] <= read:
            self._completes.popleft()
        self._completes.append((self._bytes_written, source))

    def _line(self, packet: Packet) -> bytes:
        command = PacketCommand(packet.command.name)
        return format_packet(command, packet.key, packet.offset, packet.length, self._name_of(packet.source))

    async def run(self) -> None:
        """Attach when somebody reads, deliver, hand over when he is gone; until cancelled."""
        try:
            while True:
                timeout = _POLL_SECONDS if any(self.ports) else float("inf")
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
        for delay in _ATTACH_DELAYS:
            with trio.move_on_after(delay):
                await self._wanted.wait()
                return False  # looked up again: start over with short delays
            attempt = _Attempt(self._path(), self._device, self._closes)
            try:
                await trio.to_thread.run_sync(attempt.open, abandon_on_cancel=True, limiter=_ATTACHERS)
            except trio.Cancelled:
                attempt.abandon()
                raise
            if attempt.opened is not None:
                self._fd, watch = attempt.opened
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
        unread = _unread_bytes(fd)
        for end, source in self._completes:
            if end > self._bytes_written - unread:
                source.send_complete()
        self._completes.clear()
        self._closes.discard(fd)
        self._serving.cancel()
        trio.lowlevel.notify_closing(fd)
        os.close(fd)
        self._requeue()
        self._deliver()  # to the other FIFOs of this pager

    def statistics(self) -> FifoStatistics:
        """Return the present counts."""
        return FifoStatistics(self.attached, self.load, self._lines_total, self._handovers_total)


class ClosedReaders:
    """Tells FIFOs when one of their readers closes; one inotify instance for all of them."""

    def __init__(self) -> None:
        self._watch = CloseWatch()
        self._fifos: dict[int, Fifo] = {}  # watch number -> FIFO
        self._numbers: dict[int, int] = {}  # descriptor -> watch number

    def watch(self, fd: int) -> int:
        """Watch the FIFO that ``fd`` has open, and return the number of the watch. In a worker thread.

        The kernel asks whether it may be read, and so asks us for its access control list.
        """
        return self._watch.watch(fd)

    def forget(self, number: int) -> None:
        """End a watch that was not added. In any thread."""
        self._watch.forget(number)

    def add(self, fd: int, number: int, fifo: Fifo) -> None:
        """Tell a FIFO from now on; what was closed before does not matter, since nothing was handed out."""
        self._fifos[number], self._numbers[fd] = fifo, number

    def discard(self, fd: int) -> None:
        """Watch it no longer."""
        number = self._numbers.pop(fd, None)
        if number is not None:
            del self._fifos[number]
            self._watch.forget(number)

    async def run(self) -> None:
        """Report until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._watch.fileno())
                for number in self._watch.closed():
                    if number in self._fifos:
                        self._fifos[number].reader_closed()
        finally:
            self._watch.close()


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


class _Attempt:
    """One attempt to open a FIFO for writing through the mount, in a worker thread, which may be abandoned.

    ``opened``: its descriptor and the number of the watch for its readers; None if nobody reads it, or it is gone.
    """

    def __init__(self, path: str, device: int, closes: ClosedReaders) -> None:
        self.opened: tuple[int, int] | None = None
        self._path = path
        self._device = device
        self._closes = closes
        self._lock = threading.Lock()
        self._abandoned = False

    def open(self) -> None:
        """Open it.

        Raises:
            OSError: no watch is left.
        """
        thread = threading.get_native_id()
        attaching_threads.add(thread)
        try:
            fd = self._open_in_own_mount()
        except OSError:
            return
        finally:
            attaching_threads.discard(thread)
        if fd is None:
            return
        try:
            watch = self._closes.watch(fd)
        except OSError:
            os.close(fd)
            raise
        with self._lock:
            self.opened = fd, watch
            if self._abandoned:
                self._close()

    def _open_in_own_mount(self) -> int | None:
        """Open the FIFO, unless the path leads elsewhere: another mount may lie over this one, or have replaced it."""
        place = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
        try:
            if os.fstat(place).st_dev != self._device:
                return None
            return os.open(f"/proc/self/fd/{place}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(place)

    def abandon(self) -> None:
        """Close what was or will be opened: nobody takes it."""
        with self._lock:
            self._abandoned = True
            self._close()

    def _close(self) -> None:
        if self.opened is not None:
            fd, watch = self.opened
            self._closes.forget(watch)
            os.close(fd)
            self.opened = None


def _unread_bytes(fd: int) -> int:
    answer = fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0")
    (count,) = struct.unpack("i", answer)
    return int(count)
