"""``vmofs doctor``: what a mount needs of the machine, what a mount has of it, and what is degraded without.

Each check is one line: ``ok``, ``degraded`` (vmofs works, but not as described), or ``bad`` (it does not work).
"""

from __future__ import annotations

import os
import platform
import queue
import shutil
import stat
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from vmofs import __version__
from vmofs_mount.front.unmounting import WAIT_SECONDS, ask, does_not_answer
from vmofs_mount.linux.knobs import MAX_BACKGROUND, max_background_of, read_ahead_kb_of
from vmofs_mount.linux.mountinfo import FILESYSTEM_TYPE, mount_at
from vmofs_mount.rights.privileges import OTHERS_ARE_REFUSED, what_is_lacking

_DEVICE = Path("/dev/fuse")
_CONFIGURATION = Path("/etc/fuse.conf")
_OLDEST_KERNEL = (5, 8)
"""faccessat2, by which the kernel says what a caller may do."""


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    DEGRADED = "degraded"
    BAD = "bad"


class Finding(NamedTuple):
    """One line of the report."""

    verdict: Verdict
    sentence: str


def examine_machine() -> Iterator[Finding]:
    """Check what is needed to mount, as the user who asks."""
    yield _kernel()
    yield _device()
    yield _helper()
    lacking = what_is_lacking(shared=True)
    if os.geteuid() == 0 and not lacking:
        yield Finding(Verdict.OK, "root, who may act for other users")
    for sentence in lacking:
        yield Finding(Verdict.DEGRADED, sentence)
    if os.geteuid() == 0:
        return
    yield Finding(
        Verdict.DEGRADED,
        "not root: read-ahead of a mount cannot be set, so that requests name more than was touched; max_background "
        "only where /sys/fs/fuse/connections is mounted, otherwise at most 12 reads can be outstanding",
    )
    yield _sharing()


def _kernel() -> Finding:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdecimal())
    if numbers < _OLDEST_KERNEL:
        return Finding(Verdict.BAD, f"Linux {release} is older than {'.'.join(map(str, _OLDEST_KERNEL))}")
    return Finding(Verdict.OK, f"Linux {release}")


def _device() -> Finding:
    if not _DEVICE.exists():
        return Finding(Verdict.BAD, f"{_DEVICE} does not exist: modprobe fuse, or give the container the device")
    status = _DEVICE.stat()
    mode = f"mode {stat.S_IMODE(status.st_mode):04o} of uid {status.st_uid}"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return Finding(Verdict.BAD, f"{_DEVICE} has {mode}, you cannot open it: root must chmod it to 0666")
    if status.st_mode & 0o006 != 0o006:
        return Finding(Verdict.DEGRADED, f"{_DEVICE} has {mode}: ordinary users cannot mount until it is 0666")
    return Finding(Verdict.OK, f"{_DEVICE} has {mode}")


def _helper() -> Finding:
    path = shutil.which("fusermount3")
    missing = Verdict.DEGRADED if os.geteuid() == 0 else Verdict.BAD
    if path is None:
        return Finding(missing, "fusermount3 is not installed: only root can mount")
    status = Path(path).stat()
    if status.st_uid != 0 or not status.st_mode & stat.S_ISUID:
        return Finding(missing, f"{path} is not set-user-ID root: only root can mount")
    return Finding(Verdict.OK, f"{path} is set-user-ID root")


def _sharing() -> Finding:
    try:
        lines = _CONFIGURATION.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    if "user_allow_other" in (line.strip() for line in lines):
        return Finding(Verdict.OK, f"{_CONFIGURATION} lets users mount with allow_other")
    return Finding(Verdict.OK, f"{_CONFIGURATION} does not let users mount with allow_other: the mount is yours alone")


def examine_mount(path: str) -> Iterator[Finding]:
    """Check a mount."""
    mount = mount_at(path)
    if mount is None or mount.filesystem != FILESYSTEM_TYPE:
        yield Finding(Verdict.BAD, f"no vmofs is mounted at {path}")
        return
    try:
        ask(path).get(timeout=WAIT_SECONDS)
    except queue.Empty:
        yield Finding(Verdict.BAD, does_not_answer(path, mount))
        return
    try:
        version = os.getxattr(path, "user.vmofs.version").decode()
        daemon = int(os.getxattr(path, "user.vmofs.pid"))
        read_ahead = int(os.getxattr(path, "user.vmofs.readahead")) // 1024
    except OSError as error:
        yield Finding(Verdict.BAD, f"{path} does not answer: {error.strerror}")
        return
    same = version == __version__
    yield Finding(
        Verdict.OK if same else Verdict.DEGRADED,
        f"{path} is served by process {daemon}, vmofs {version}" + ("" if same else f", this is {__version__}"),
    )
    yield _server(path)
    otherwise = "requests name more or less than they should"
    yield _setting("read_ahead_kb", read_ahead_kb_of(mount.minor), read_ahead, otherwise)
    yield _setting("max_background", max_background_of(mount.minor), MAX_BACKGROUND, "fewer reads can be outstanding")


def _server(path: str) -> Finding:
    uid = Path(path).stat().st_uid
    if uid == 0:
        return Finding(Verdict.OK, "served by root: everybody's rights are those that the kernel says")
    return Finding(Verdict.DEGRADED, f"served by uid {uid}, {OTHERS_ARE_REFUSED}")


def _setting(name: str, value: int | None, wanted: int, otherwise: str) -> Finding:
    if value is None:
        return Finding(Verdict.DEGRADED, f"{name} cannot be read: it may be the kernel's default, so that {otherwise}")
    if value != wanted:
        return Finding(Verdict.DEGRADED, f"{name} is {value}, not {wanted}: {otherwise}")
    return Finding(Verdict.OK, f"{name} is {value}")
