"""The options of a mount, as ``-o`` gives them."""

from __future__ import annotations

import grp
import os
import re
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from vmofs.status import VmoError
from vmofs.units import PAGE_SIZE
from vmofs.wire.numbers import parse_number
from vmofs_mount.linux.memory import machine_memory_bytes
from vmofs_mount.tree.limits import DEFAULTS, Resource
from vmofs_mount.tree.reading import check_block, check_readahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_IGNORED = frozenset(
    {"auto", "noauto", "nofail", "_netdev", "defaults", "relatime", "async"}
    | {f"{no}{who}" for no in ("", "no") for who in ("user", "users", "owner", "group")}
)
"""What mount(8) and fstab(5) put among the options, and which says nothing to a filesystem, or what is so anyway."""

_IGNORED_PREFIXES = ("x-", "X-", "user=", "comment=", "uhelper=")

_PASSED_ON = frozenset(
    {"dev", "nodev", "suid", "nosuid", "exec", "noexec", "ro", "rw", "noatime", "nodiratime", "dirsync", "sync"}
)
"""What the kernel's mount itself understands."""

_OPPOSITES = {"dev": "nodev", "nodev": "dev", "suid": "nosuid", "nosuid": "suid", "exec": "noexec", "noexec": "exec"}
_OPPOSITES |= {"ro": "rw", "rw": "ro"}

_NOT_IN_NAMES = re.compile(r"[\s,\\]")
"""What no source of a mount may have: libfuse and /proc/mounts escape it, each in its own way."""

_MAX_SPIN_MICROSECONDS = 10_000
"""While it spins the daemon hears nothing but requests: not the end of a thread, no deadline."""


class OptionError(ValueError):
    """An option is unknown or has an impossible value; the message is one sentence."""


@dataclass
class MountOptions:
    """The options of one mount.

    Attributes:
        allow_other: other users may use the mount; the default is yes for root.
        deadline_seconds: after this time an unanswered request fails; 0 is never.
        max_deadline_seconds: the longest deadline that a pager may give itself; 0 is no bound.
        warn_seconds: after this time an unanswered request is logged; 0 is never.
        stall_seconds: after this time a request that one worker was given goes to another one too; 0 is never, None is
            5, or a fourth of the deadline if that is less.
        spin_seconds: how long the daemon looks for the next request before it sleeps.
        readahead_bytes: what the kernel asks for in one piece for who reads in sequence, and in a page fault.
        block_bytes: ``st_blksize`` of VMOs.
        log_path: where the daemon logs; None is syslog.
        memory_limit_bytes: how much memory pages may occupy; the default is half of the machine's, None is no limit.
        pager_gid: only members of this group may make pagers; None is everybody.
        requests: how many requests all users but root may have outstanding; 0 is no limit.
        user_limits: what each user may hold; 0 is no limit. The default for memory is half of that for all.
        source: the name of what is mounted, as findmnt and df show it.
        kernel: options for the kernel's mount.
    """

    allow_other: bool = field(default_factory=lambda: os.geteuid() == 0)
    deadline_seconds: float = 300.0
    max_deadline_seconds: float = 0.0
    warn_seconds: float = 20.0
    stall_seconds: float | None = None
    spin_seconds: float = 0.0
    readahead_bytes: int = PAGE_SIZE
    block_bytes: int = PAGE_SIZE
    log_path: Path | None = None
    memory_limit_bytes: int | None = field(default_factory=lambda: machine_memory_bytes() // 2)
    pager_gid: int | None = None
    requests: int = 60_000  # the kernel holds 65535 at most, and root may need some
    user_limits: dict[Resource, int] = field(default_factory=lambda: dict(DEFAULTS))
    source: str = "vmofs"
    kernel: set[str] = field(default_factory=lambda: {"nodev", "nosuid"})


def parse_options(texts: Iterable[str]) -> MountOptions:
    """Return what comma-separated option texts say; a later option overrides an earlier one.

    Raises:
        OptionError: an option is unknown, or its value makes no sense.
    """
    options = MountOptions()
    for option in (option for text in texts for option in text.split(",") if option):
        name, equals, value = option.partition("=")
        if name in _SETTERS:
            if not equals or not value:
                raise OptionError(f"option '{name}' needs a value: {name}=...")
            _SETTERS[name](options, value)
        elif option in {"allow_other", "no_allow_other"}:
            options.allow_other = option == "allow_other"
        elif option in _PASSED_ON:
            options.kernel.discard(_OPPOSITES.get(option, ""))
            options.kernel.add(option)
        elif option not in _IGNORED and not option.startswith(_IGNORED_PREFIXES):
            raise OptionError(f"unknown mount option '{option}'")
    if options.max_deadline_seconds:
        options.deadline_seconds = min(options.deadline_seconds or inf, options.max_deadline_seconds)
    return options


def _seconds(name: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise OptionError(f"option '{name}' needs a number of seconds, not '{value}'")
    return seconds


def _bytes(name: str, value: str) -> int:
    try:
        return parse_number(value, name)
    except VmoError:
        raise OptionError(f"option '{name}' needs a number of bytes such as 2G, not '{value}'") from None


def _count(name: str, value: str) -> int:
    try:
        return parse_number(value, name)
    except VmoError:
        raise OptionError(f"option '{name}' needs a number, 0 for no limit, not '{value}'") from None


def _set_deadline(options: MountOptions, value: str) -> None:
    options.deadline_seconds = _seconds("deadline", value)


def _set_max_deadline(options: MountOptions, value: str) -> None:
    options.max_deadline_seconds = _seconds("max_deadline", value)


def _set_warn(options: MountOptions, value: str) -> None:
    options.warn_seconds = _seconds("warn", value)


def _set_stall(options: MountOptions, value: str) -> None:
    options.stall_seconds = _seconds("stall", value)


def _set_spin(options: MountOptions, value: str) -> None:
    try:
        microseconds = parse_number(value, "spin")
    except VmoError:
        raise OptionError(f"option 'spin' needs a number of microseconds, not '{value}'") from None
    if microseconds > _MAX_SPIN_MICROSECONDS:
        raise OptionError(f"option 'spin' takes at most {_MAX_SPIN_MICROSECONDS} microseconds, not '{value}'")
    options.spin_seconds = microseconds / 1e6


def _set_source(options: MountOptions, value: str) -> None:
    if _NOT_IN_NAMES.search(value):
        raise OptionError(f"option 'fsname' takes a name without blanks, commas and backslashes, not '{value}'")
    options.source = value


def _set_readahead(options: MountOptions, value: str) -> None:
    options.readahead_bytes = _checked("readahead", value, check_readahead)


def _set_block(options: MountOptions, value: str) -> None:
    options.block_bytes = _checked("blksize", value, check_block)


def _checked(name: str, value: str, check: Callable[[int], int]) -> int:
    try:
        return check(_bytes(name, value))
    except VmoError as error:
        raise OptionError(f"option '{name}' cannot be '{value}': {error}") from None


def _set_log(options: MountOptions, value: str) -> None:
    options.log_path = Path(value).absolute()


def _set_memory(options: MountOptions, value: str) -> None:
    options.memory_limit_bytes = _bytes("memory_limit", value) or None


def _set_pager_group(options: MountOptions, value: str) -> None:
    try:
        options.pager_gid = int(value) if value.isdecimal() else grp.getgrnam(value).gr_gid
    except KeyError:
        raise OptionError(f"option 'pager_group' names a group that does not exist: '{value}'") from None


def _set_requests(options: MountOptions, value: str) -> None:
    options.requests = _count("requests", value)


def _set_user_limit(resource: Resource) -> Callable[[MountOptions, str], None]:
    def set_it(options: MountOptions, value: str) -> None:
        options.user_limits[resource] = _count(f"user_{resource}", value)

    return set_it


_SETTERS: dict[str, Callable[[MountOptions, str], None]] = {
    "blksize": _set_block,
    "deadline": _set_deadline,
    "fsname": _set_source,
    "log": _set_log,
    "max_deadline": _set_max_deadline,
    "memory": _set_memory,
    "memory_limit": _set_memory,
    "pager_group": _set_pager_group,
    "readahead": _set_readahead,
    "requests": _set_requests,
    "spin": _set_spin,
    "stall": _set_stall,
    "warn": _set_warn,
    **{f"user_{resource}": _set_user_limit(resource) for resource in Resource},
}
