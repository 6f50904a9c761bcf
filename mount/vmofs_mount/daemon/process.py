"""The process behind a mount: puts the parts together, runs them, and detaches from the terminal if asked to."""

from __future__ import annotations

import errno
import logging
import logging.handlers
import os
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from vmofs.core.requests.system import System
from vmofs.units import page_count
from vmofs_mount.assembly.mount import assemble
from vmofs_mount.daemon.options import MountOptions
from vmofs_mount.daemon.sd_notify import notify
from vmofs_mount.daemon.watchdog import Guardian
from vmofs_mount.front.session import MountError, serve
from vmofs_mount.linux.memory import machine_memory_bytes
from vmofs_mount.tree.limits import DEFAULTS, Limits, Resource

_log = logging.getLogger(__name__)
_READY = b"ready"
_MANY_DESCRIPTORS = 2**20
_SYSLOG = Path("/dev/log")


def run(mountpoint: str, options: MountOptions, on_ready: Callable[[], None] = lambda: None) -> None:
    """Mount and serve until the end.

    Raises:
        MountError: the mount could not be made, or does not answer.
    """
    limit = options.memory_limit_bytes
    system = System(None if limit is None else page_count(limit))
    descriptors = _raise_descriptor_limit()
    user_limits = {Resource.MEMORY: (limit or machine_memory_bytes()) // 2, **options.user_limits}
    if DEFAULTS[Resource.DESCRIPTORS] == user_limits[Resource.DESCRIPTORS]:
        user_limits[Resource.DESCRIPTORS] = min(user_limits[Resource.DESCRIPTORS], descriptors // 4)
    totals = {Resource.REQUESTS: options.requests, Resource.DESCRIPTORS: descriptors - descriptors // 4}
    limits = Limits(user_limits, totals, os.geteuid())
    supervisor = _Supervisor(on_ready)
    try:
        trio.run(serve, mountpoint, options, partial(assemble, system, options, limits), supervisor)
    finally:
        supervisor.close()


class _Supervisor:
    """Tells whoever waits for it how the mount fares, and has a guardian break the connection if all else fails."""

    def __init__(self, on_ready: Callable[[], None]) -> None:
        self.ready = on_ready
        self._guardian = Guardian()

    def mounted(self, device_minor: int) -> None:
        """Have the guardian watch over the connection."""
        try:
            self._guardian.guard(device_minor)
        except OSError as error:
            _log.info("if this process is killed, those who wait may go on waiting: %s", error)

    def ending(self) -> None:
        """Tell the service manager."""
        notify("STOPPING=1")

    def break_connection(self) -> bool:
        """Have the guardian break the connection; return whether it can."""
        self._guardian.break_connection()
        return self._guardian.can_break

    def close(self) -> None:
        """Let the guardian end."""
        self._guardian.close()


def _raise_descriptor_limit() -> int:
    """Return how many descriptors there may be, as many as possible: every FIFO that is read takes two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else _MANY_DESCRIPTORS


def run_in_foreground(mountpoint: str, options: MountOptions) -> None:
    """Mount and serve, logging to stderr if no file is given.

    Raises:
        MountError: see ``run``.
    """
    handler = _file_handler(options)
    if handler is None:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    _log_to(handler)
    run(mountpoint, options, on_ready=lambda: notify("READY=1", f"STATUS=Serving {mountpoint}"))


def run_detached(mountpoint: str, options: MountOptions) -> str | None:
    """Mount and serve in a process of its own; return when the mount answers.

    Returns:
        None, or a sentence that says why there is no mount.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _be_daemon(mountpoint, options, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as news:
        said = news.read()
    if said == _READY:
        return None
    os.waitpid(pid, 0)
    return said.decode(errors="replace") or "the daemon ended before the mount answered"


def _be_daemon(mountpoint: str, options: MountOptions, writer: int) -> None:
    """Run in the child until the end of the process."""
    code = 1
    try:
        os.setsid()
        os.chdir("/")
        logging.raiseExceptions = False  # a full disk under the log must not end the mount, nor write to a terminal
        _log_to(_file_handler(options) or _syslog_handler())
        _tell_terminal()
        run(mountpoint, options, on_ready=lambda: _report_ready(writer))
        code = 0
    except MountError as error:
        os.write(writer, str(error).encode())
    except BaseException:  # noqa: BLE001 - a forked child must not return to the caller's code
        _log.exception("the daemon of %s failed", mountpoint)
    finally:
        logging.shutdown()
        os._exit(code)


def _tell_terminal() -> None:
    """Let who mounts see what is degraded: until the mount answers, stderr is his."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("vmofs: %(message)s"))
    _log_to(handler)


def _report_ready(writer: int) -> None:
    """Let go of the terminal, then let the parent return; until here libfuse may want to say something."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    os.write(writer, _READY)
    os.close(writer)


def _log_to(handler: logging.Handler) -> None:
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("pyfuse3").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Drop what pyfuse3 says when a request is answered whose process was killed: the kernel knows it no more."""
    return not ("fuse_reply" in record.msg and os.strerror(errno.ENOENT) in record.getMessage())


def _file_handler(options: MountOptions) -> logging.Handler | None:
    if options.log_path is None:
        return None
    try:
        handler = logging.FileHandler(options.log_path)
    except OSError as error:
        raise MountError(f"the log cannot be written: {error}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


def _syslog_handler() -> logging.Handler:
    if not _SYSLOG.exists():
        return logging.NullHandler()
    handler = logging.handlers.SysLogHandler(address=str(_SYSLOG), facility="daemon")
    handler.setFormatter(logging.Formatter(f"vmofs[{os.getpid()}]: %(message)s"))
    return handler
