"""Taking mounts away: live ones for ``vmofs umount``, and those that a dead daemon left behind.

A mount is busy while somebody has a file open there, or his working directory: the kernel refuses to unmount it, and
that is right. But who waits for a pager would have to be waited for too, perhaps for ever. So if anybody waits, the
daemon is told to end (SIGTERM), which ends all waits with an error and unmounts, whoever has files open. Whether the
mount is busy because of those who wait or of others is not looked at.
"""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from vmofs_mount.linux.holders import holders, mounted_elsewhere, mounted_here, opened_by
from vmofs_mount.linux.knobs import open_abort
from vmofs_mount.linux.mountinfo import FILESYSTEM_TYPE, MountPoint, mount_at
from vmofs_mount.linux.procfs import can_see_everybody, is_vmofs, processes_alive
from vmofs_mount.observe.dirty import Dirty

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
WAIT_SECONDS = 10.0
"""How long a mount may take to answer, or a daemon to end, before that is an error."""

_BUSY_SECONDS = 0.5
"""How long a busy mount is tried again: its own daemon looks whether somebody reads a FIFO, for a moment each time."""

_HELD_SECONDS = 0.5
"""How long the mount may be in another namespace before that is an error: some program may be just starting, with a
copy of all mounts that it is about to let go of."""

_PAUSE_SECONDS = 0.02
_LOOK_SECONDS = 0.5
"""How long a mount may take to answer before it is looked whether there is anybody who serves it."""


class UnmountError(Exception):
    """The mount cannot be taken away; the message is one sentence."""


class _BusyError(UnmountError):
    """Somebody has a file open there."""


def unmount(path: str, clean: Callable[[str], None] = lambda _: None) -> Dirty:
    """Unmount a vmofs and wait until its daemon is gone; return what was dirty. Who waits there gets an error.

    ``clean`` is called with the path before the mount goes, if it answers: what is dirty may be lost then. It may raise
    ``UnmountError``. That the mount is elsewhere too says nothing: the kernel may unmount it there with this one.

    Raises:
        UnmountError: there is no vmofs mounted, it is busy and nobody waits there, or the caller may not. Or it is
            mounted elsewhere too, and so its daemon goes on.
    """
    mount = mount_at(path)
    if mount is None or mount.filesystem != FILESYSTEM_TYPE:
        raise UnmountError(f"no vmofs is mounted at {path}")
    if os.geteuid() not in {0, mount.uid}:
        raise UnmountError(f"{path} was mounted by uid {mount.uid}: only he and root may unmount it")
    if is_stale(path):
        _unmount(path, lazy=True)
        return Dirty(0, 0)
    clean(path)
    daemon = _daemon_of(mount)
    dirty = dirty_in(path)
    was_told = _unmount_patiently(mount, daemon)
    if daemon is not None:
        _wait_for(daemon, mount, was_told=was_told)
    remove_stale_mounts(path)  # if the daemon was told to end, and died of it
    return dirty


def remove_stale_mounts(path: str) -> None:
    """Unmount what dead daemons left at this place.

    Raises:
        UnmountError: the caller may not.
    """
    while mount_at(path) is not None and is_stale(path):
        _unmount(path, lazy=True)


def remove_mounts(known: Iterable[MountPoint]) -> None:
    """Unmount those of some mounts that are still there, and on top where they are; their daemon is this process.

    Raises:
        UnmountError: the caller may not.
    """
    for mount in known:
        there = mount_at(mount.path)
        if there is not None and (there.number, there.device) == (mount.number, mount.device):
            _unmount(mount.path, lazy=True)


def is_stale(path: str) -> bool:
    """Return whether what is mounted here is a FUSE filesystem whose daemon is gone.

    ``stat`` would not tell for as long as the kernel remembers the attributes; ``statvfs`` always asks. If the daemon
    was killed together with its guardian nobody may ever answer: then the connection is broken here.

    Raises:
        UnmountError: it does not answer, and there may be somebody who will.
    """
    codes = ask(path)
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        with suppress(queue.Empty):
            return codes.get(timeout=_LOOK_SECONDS) in {errno.ENOTCONN, errno.ECONNABORTED}
        mount = mount_at(path)
        if mount is not None:
            _break_if_served_by_nobody(mount)
        if time.monotonic() > deadline:
            raise UnmountError(does_not_answer(path, mount))


def ask(path: str) -> queue.SimpleQueue[int]:
    """Call ``statvfs`` in a thread of its own; return where its errno will be put, if it ever ends; 0 for success."""
    codes: queue.SimpleQueue[int] = queue.SimpleQueue()
    threading.Thread(target=lambda: codes.put(_errno_of_statvfs(path)), daemon=True).start()
    return codes


def _errno_of_statvfs(path: str) -> int:
    try:
        os.statvfs(path)
    except OSError as error:
        return error.errno or 0
    return 0


def _is_served_by_nobody(mount: MountPoint) -> bool:
    if mount.filesystem != FILESYSTEM_TYPE or not can_see_everybody():
        return False
    return not any(_may_serve(pid, mount) for pid in processes_alive())


def _may_serve(pid: int, mount: MountPoint) -> bool:
    """Return whether a process has the device of a mount open; or is a vmofs, and does not let this one look."""
    try:
        return _has_device(pid, mount)
    except PermissionError:
        return is_vmofs(pid)
    except OSError:  # it has ended
        return False


def _break_if_served_by_nobody(mount: MountPoint) -> None:
    """Break the connection of a mount that nobody serves. It may be gone, and its number another mount's by now.

    So the file by which it is broken is opened first: it is that of one connection. The mount was there before, and if
    it still is, that connection is its own. To look for who serves it may take seconds.
    """
    with suppress(OSError):  # it is gone; or it cannot be done here, which is said soon
        abort = open_abort(mount.minor)
        try:
            if mount_at(mount.path) == mount and _is_served_by_nobody(mount):
                os.write(abort, b"1")
        finally:
            os.close(abort)


def does_not_answer(path: str, mount: MountPoint | None) -> str:
    """Return the sentence about a mount that was asked for ``WAIT_SECONDS``."""
    said = f"{path} does not answer within {WAIT_SECONDS:.0f} s: its daemon is stopped, or dead, or very slow"
    if mount is None:
        return said
    return f"{said}; root can break the connection: echo 1 >/sys/fs/fuse/connections/{mount.minor}/abort"


def _stats_of(path: str) -> str:
    try:
        return Path(path, "control", "stats").read_text(encoding="utf-8")
    except OSError:
        return ""


def dirty_in(path: str) -> Dirty:
    """Return what is dirty in a mount, nothing if that cannot be learnt."""
    return Dirty.of_stats(_stats_of(path))


def _somebody_waits(path: str) -> bool:
    found = re.search(r"^vmofs_waiters (\d+)$", _stats_of(path), re.MULTILINE)
    return found is not None and int(found[1]) > 0


def _daemon_of(mount: MountPoint) -> int | None:
    """Return a descriptor of the daemon's process, if it can be had."""
    try:
        pid = int(os.getxattr(mount.path, "user.vmofs.pid"))
        process = os.pidfd_open(pid)
    except (OSError, ValueError):
        return None
    if _serves(pid, mount):
        return process
    os.close(process)  # in another pid namespace the number is somebody else's
    return None


def _serves(pid: int, mount: MountPoint) -> bool:
    """Return whether a process is seen to have the device of a mount open."""
    try:
        return _has_device(pid, mount)
    except OSError:  # it has ended, or is another user's
        return False


def _has_device(pid: int, mount: MountPoint) -> bool:
    """Return whether a process has the device of a mount open, as far as this kernel tells of which mount it is."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # closed, or ended, meanwhile
            told = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text(encoding="ascii", errors="replace")
            connection = re.search(r"^fuse_connection:\s*(\d+)$", told, re.MULTILINE)
            if int(connection[1]) == mount.minor if connection else descriptor.readlink().name == "fuse":
                return True
    return False


def _wait_for(process: int, mount: MountPoint, *, was_told: bool) -> None:
    """Wait for a daemon to end: it was told to, or the mount was unmounted, and then it may be that others have it."""
    try:
        places = [] if was_told else _places_left(process, mount)
        if places:
            raise UnmountError(f"unmounted here, but its daemon goes on: it is held by {'; '.join(places)}")
        if not _ends_within(process, WAIT_SECONDS):
            held = holders(mount.minor)
            by = f": it is held by {'; '.join(held)}" if held else ""
            raise UnmountError(f"unmounted, but its daemon did not end within {WAIT_SECONDS:.0f} s{by}")
    finally:
        os.close(process)


def _places_left(process: int, mount: MountPoint) -> list[str]:
    """Return where else the mount is, and so its daemon goes on; not who has a file open: it was not busy."""
    deadline = time.monotonic() + _HELD_SECONDS
    while not _ends_within(process, _PAUSE_SECONDS):
        places = mounted_elsewhere(mount.minor)
        if not places or mounted_here(mount.minor) or time.monotonic() > deadline:
            return places
    return []


def _ends_within(process: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _unmount_patiently(mount: MountPoint, daemon: int | None) -> bool:
    """Unmount; return whether the daemon was told to do it."""
    path = mount.path
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            _unmount(path, lazy=False)
        except _BusyError:
            if daemon is not None and _somebody_waits(path):
                signal.pidfd_send_signal(daemon, signal.SIGTERM)
                return True
            if time.monotonic() > deadline:
                raise _busy(path, opened_by(mount.minor)) from None
            time.sleep(_PAUSE_SECONDS)
        else:
            return False


def _unmount(path: str, *, lazy: bool) -> None:
    if os.geteuid() == 0:
        _unmount_as_root(path, lazy=lazy)
    else:
        _unmount_as_user(path, lazy=lazy)


def _unmount_as_root(path: str, *, lazy: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)) != 0:
        code = ctypes.get_errno()
        if code == errno.EBUSY:
            raise _busy(path)
        raise UnmountError(f"{path} cannot be unmounted: {os.strerror(code)}")


def _unmount_as_user(path: str, *, lazy: bool) -> None:
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    except FileNotFoundError:
        raise UnmountError("fusermount3 is not installed, and only root can unmount without it") from None
    if done.returncode != 0:
        if "busy" in done.stderr.lower():
            raise _busy(path)
        raise UnmountError(f"{path} cannot be unmounted: {done.stderr.strip()}")


def _busy(path: str, held: Sequence[str] = ()) -> _BusyError:
    by = f"it is held by {'; '.join(held)}" if held else "some program has a file open there, or its working directory"
    return _BusyError(f"{path} is busy: {by}")
