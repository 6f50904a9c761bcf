"""One mount from beginning to end: mounted, tuned, served, unmounted.

Nothing may touch the mount in the trio thread: the request would wait for that very thread. What has to (the test
whether the mount answers) goes to a worker thread, and the device number comes from /proc, not from ``stat``.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import pyfuse3
import trio

from vmofs_mount.files.vmo_reads import Replies
from vmofs_mount.front.departure import Departure
from vmofs_mount.front.device import Device
from vmofs_mount.front.handlers import Operations
from vmofs_mount.front.parts import Parts
from vmofs_mount.front.requests import Requests
from vmofs_mount.front.unmounting import UnmountError, remove_mounts
from vmofs_mount.linux.device_messages import Kernel, fuse_devices
from vmofs_mount.linux.knobs import break_connection, tune
from vmofs_mount.linux.mountinfo import MountPoint, mount_at, mounts
from vmofs_mount.linux.place import Place
from vmofs_mount.loop.scheduler import IDLE_TASKS, Turns
from vmofs_mount.observe.dirty import Dirty
from vmofs_mount.rights.privileges import what_is_lacking

_log = logging.getLogger(__name__)

MAX_TASKS = 1_000_000
"""Handlers that may wait at the same time. At this number pyfuse3 stops reading requests, also those that would end
the waiting; its default is 99."""

_READY_SECONDS = 20.0
_GRACE_SECONDS = 3.0
"""How long handlers may take to answer after ``shutdown``; then they are cancelled, and their callers get an
error."""

_MESSAGE_SECONDS = 2.0
"""How long threads may take to give their messages to the kernel after ``shutdown``, while READs are answered."""

_BREAK_SECONDS = 2.0
_PAUSE_SECONDS = 0.01


class MountError(Exception):
    """The mount could not be made, or does not answer; the message is one sentence."""


class SessionOptions(Protocol):
    """What a session needs of the options of a mount; see ``MountOptions``."""

    allow_other: bool
    spin_seconds: float
    source: str
    readahead_bytes: int
    kernel: set[str]


class Supervisor(Protocol):
    """The process behind a mount, which is told how it fares."""

    def mounted(self, device_minor: int) -> None:
        """Learn the number of the connection, before the mount is ready. In a worker thread."""

    def ready(self) -> None:
        """Learn that the mount answers."""

    def ending(self) -> None:
        """Learn that the end has come."""

    def break_connection(self) -> bool:
        """Have the connection broken by another process; return whether that is possible."""


class Mount(Protocol):
    """What answers the requests of a session."""

    @property
    def parts(self) -> Parts:
        """The parts that the handlers need."""

    def shut_down(self) -> Dirty:
        """End all waits with an error; called once, when the end has come. Return what was not written back."""

    @property
    def unanswered(self) -> int:
        """How many READs are not answered yet."""

    def check(self) -> None:
        """Assert the invariants of all parts."""


@dataclass(frozen=True)
class Session:
    """What the parts of a mount need of a session.

    Attributes:
        mountpoint: absolute, without symbolic links.
        kernel: takes messages about this mount.
        nursery: for tasks that live as long as requests are served; cancelled before the end.
        turns: what runs the handlers.
        replies: where the answers to READs go.
    """

    mountpoint: str
    kernel: Kernel
    nursery: trio.Nursery
    turns: Turns
    replies: Replies


async def serve(
    mountpoint: str, options: SessionOptions, assemble: Callable[[Session], Mount], supervisor: Supervisor
) -> None:
    """Mount, serve until SIGTERM, SIGINT or an unmount from outside, and unmount.

    Args:
        mountpoint: an absolute path without symbolic links.
        options: as the user gave them.
        assemble: puts the mount together, before the first request is read; it must not touch the mount.
        supervisor: the process behind the mount.

    Raises:
        MountError: the mount could not be made, or does not answer.
    """
    operations = Operations()
    device = Device(_mount(operations, mountpoint, options))
    kernel = Kernel(device.fileno())
    turns = Turns(device, options.spin_seconds)
    turns.plug_in()
    mount = mount_at(mountpoint)
    try:
        end = _End(device, kernel, supervisor, options)
        async with trio.open_nursery() as background:
            assembled = assemble(Session(mountpoint, kernel, background, turns, device))
            operations.attach(assembled.parts, device.answer_directly)
            device.serve(Requests(device, turns, assembled.parts).table)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end.watch_signals)
                nursery.start_soon(end.watch_connection)
                nursery.start_soon(end.serve_requests)
                nursery.start_soon(end.become_ready, mountpoint, mount)
                if mount is not None:  # else it was unmounted already
                    nursery.start_soon(Departure(mount, kernel, end.come).run)
                await end.wait(assembled)
                nursery.cancel_scope.cancel()
            background.cancel_scope.cancel()
    finally:
        _unmount(mountpoint, mount, device.fileno())
        device.close()
    if end.failure:
        raise MountError(end.failure)
    assembled.check()


def _mount(operations: Operations, mountpoint: str, options: SessionOptions) -> int:
    """Mount and return the descriptor of the device."""
    names = {f"fsname={options.source}", "subtype=vmofs", "default_permissions", *options.kernel}
    if options.allow_other:
        names.add("allow_other")
    before = fuse_devices()
    try:
        pyfuse3.init(operations, mountpoint, names)
    except RuntimeError as error:  # libfuse has written the reason to stderr
        raise MountError(f"{mountpoint} cannot be mounted") from error
    return (fuse_devices() - before).pop()


def _unmount(mountpoint: str, mount: MountPoint | None, device: int) -> None:
    """Unmount wherever it is by now; it may have been moved, and another one mounted where it was."""
    ours = [] if mount is None else _places_of(mount, device)
    there = mount_at(mountpoint)
    if mount is not None and _is_connected(device) and (there is None or there.device != mount.device):
        with suppress(OSError):  # else libfuse would unmount what is there now, or complain that there is nothing
            break_connection(mount.minor)
    pyfuse3.close()
    try:
        remove_mounts(ours)  # libfuse leaves other places, and the mount of an aborted connection
    except UnmountError as error:
        _log.warning("%s", error)


def _places_of(mount: MountPoint, device: int) -> list[MountPoint]:
    """Return where a mount of this process is. Of one that has gone the number may be another's by now."""
    if _is_connected(device):
        return [place for place in mounts() if place.device == mount.device]
    return [place for place in mounts() if (place.number, place.device) == (mount.number, mount.device)]


def _is_connected(device: int) -> bool:
    poll = select.poll()
    poll.register(device, 0)
    return not poll.poll(0)


class _End:
    """The end of a session: by signal, by unmounting, by a broken connection, or because it never got ready."""

    def __init__(self, device: Device, kernel: Kernel, supervisor: Supervisor, options: SessionOptions) -> None:
        self.failure: str | None = None
        self._supervisor = supervisor
        self._device = device.fileno()
        self._kernel = kernel
        self._begun = trio.Event()
        device.begun = self._begun.set
        self._options = options
        self._near = trio.Event()
        self._served = trio.Event()

    def come(self, reason: str) -> None:
        """Let the end come, for whatever reason."""
        _log.warning("ending: %s", reason)
        self._near.set()

    async def watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                _log.info("ending: %s", signal.Signals(number).name)
                self._near.set()

    async def watch_connection(self) -> None:
        """Learn that the mount is gone while handlers still wait: the device reports EPOLLERR, whatever is asked for.

        Without this a reader that was killed (the kernel does not tell us) would keep the daemon alive after umount.
        """
        await self._begun.wait()
        with select.epoll() as epoll:
            epoll.register(self._device, 0)
            await trio.lowlevel.wait_readable(epoll.fileno())
        self._near.set()

    async def serve_requests(self) -> None:
        try:
            await pyfuse3.main(min_tasks=IDLE_TASKS, max_tasks=MAX_TASKS)
        except* OSError as group:  # the connection was aborted through /sys/fs/fuse/connections
            _log.warning("the connection to the kernel broke: %s", group.exceptions[0])
        self._served.set()
        self._near.set()

    async def become_ready(self, mountpoint: str, mount: MountPoint | None) -> None:
        """Tune the mount and try whether it answers."""
        try:
            with trio.fail_after(_READY_SECONDS):
                await self._begun.wait()  # the answer to it would undo what is tuned before
                degraded = await trio.to_thread.run_sync(self._tune_and_try, mountpoint, mount, abandon_on_cancel=True)
        except (OSError, trio.TooSlowError) as error:
            if mount_at(mountpoint) is None:
                return  # unmounted already, watch_connection is about to learn it
            self.failure = f"{mountpoint} does not answer: {error}"
            self._near.set()
            return
        for sentence in (*degraded, *what_is_lacking(shared=self._options.allow_other)):
            _log.warning("%s", sentence)
        self._supervisor.ready()

    def _tune_and_try(self, mountpoint: str, mount: MountPoint | None) -> list[str]:
        """In a worker thread: change the kernel's settings, then look whether the mount answers."""
        if mount is None:
            raise FileNotFoundError(f"{mountpoint} is not in /proc/self/mountinfo")
        degraded = tune(mount.minor, self._options.readahead_bytes)
        self._supervisor.mounted(mount.minor)
        # By now something else may be mounted over it.
        with Place(mountpoint, os.makedev(0, mount.minor)).opened_root() as root:
            os.stat("control/version", dir_fd=root)
        return degraded

    async def wait(self, mount: Mount) -> None:
        """Wait for the end to come near, then let the handlers finish, and the threads that give messages.

        Such a thread may wait for a page, and who unmounts waits for that thread. So READs are answered until all have
        given theirs; if one still waits then, the connection is broken.
        """
        await self._near.wait()
        self._supervisor.ending()
        _log.info("%s", mount.shut_down().sentence or "nothing was dirty")
        await self._wait_for_messages(_MESSAGE_SECONDS)
        self._kernel.close()
        if not await self._wait_for_messages(_MESSAGE_SECONDS) and self._supervisor.break_connection():
            _log.warning("the connection was broken: %s threads waited for pages", self._kernel.busy_threads)
            await self._wait_for_messages(_BREAK_SECONDS)
        pyfuse3.terminate()
        with trio.move_on_after(_GRACE_SECONDS) as grace:
            await self._served.wait()
            while mount.unanswered:  # noqa: ASYNC110 - it is soon over
                await trio.sleep(_PAUSE_SECONDS)
        if grace.cancelled_caught:
            _log.warning("requests were still waiting %s s after the end began", _GRACE_SECONDS)

    async def _wait_for_messages(self, seconds: float) -> bool:
        """Wait until no thread gives a message to the kernel; return whether that is so."""
        with trio.move_on_after(seconds):
            while self._kernel.busy_threads:  # noqa: ASYNC110 - threads, which are many, need not tell each time
                await trio.sleep(_PAUSE_SECONDS)
        return not self._kernel.busy_threads
