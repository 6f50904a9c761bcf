"""Doing things as somebody else: a process that takes uid, gid and groups, and does what it is told.

No accounts are needed: the kernel knows numbers only.
"""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tests.support.mounted import Mounted, Mounter

T = TypeVar("T")

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Who:
    """An identity. ``name`` is for test ids."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return the name."""
        return self.name


class Actor:
    """A process with an identity. Calls are functions of this module's importers: it is a fork."""

    def __init__(self, who: Who, umask: int = 0o022) -> None:
        self.who = who
        ours, theirs = _pipe_pair()
        self.pid = os.fork()
        if self.pid == 0:
            for fd in ours:
                os.close(fd)
            _serve(who, umask, *theirs)
        for fd in theirs:
            os.close(fd)
        self._calls, self._results = ours

    def __call__(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function in the process and return what it returns, or raise what it raises."""
        _send(self._calls, (function, arguments))
        is_result, value = _receive(self._results)
        if is_result:
            result: T = value
            return result
        raise value

    def errno(self, function: Callable[..., object], *arguments: object) -> str:
        """Return the name of the errno that a call fails with, ``ok`` if it does not."""
        try:
            self(function, *arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "ok"

    def close(self) -> None:
        """End the process."""
        os.close(self._calls)
        os.close(self._results)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Actors:
    """Actors by identity, started when they are needed."""

    def __init__(self) -> None:
        self._actors: dict[tuple[Who, int], Actor] = {}

    def __call__(self, who: Who, umask: int = 0o022) -> Actor:
        """Return the actor of an identity."""
        key = (who, umask)
        if key not in self._actors:
            self._actors[key] = Actor(who, umask)
        return self._actors[key]

    def close(self) -> None:
        """End all of them."""
        for actor in self._actors.values():
            actor.close()


def take_identity(who: Who) -> None:
    """Become somebody else for good."""
    os.setgroups(who.groups)
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)


def _pipe_pair() -> tuple[tuple[int, int], tuple[int, int]]:
    calls_out, calls_in = os.pipe()
    results_out, results_in = os.pipe()
    return (calls_in, results_out), (calls_out, results_in)


def _serve(who: Who, umask: int, calls: int, results: int) -> NoReturn:
    try:
        os.umask(umask)
        take_identity(who)
        while True:
            function, arguments = _receive(calls)
            try:
                answer = (True, function(*arguments))
            except Exception as error:  # noqa: BLE001 - raised again by the caller
                answer = (False, error)
            _send(results, answer)
    finally:
        os._exit(0)


def _send(fd: int, value: object) -> None:
    data = pickle.dumps(value)
    data = _LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(fd, data) :]


def _receive(fd: int) -> Any:  # noqa: ANN401 - whatever was sent
    (length,) = _LENGTH.unpack(_read_exactly(fd, _LENGTH.size))
    return pickle.loads(_read_exactly(fd, length))  # noqa: S301 - from our own child


def _read_exactly(fd: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = os.read(fd, length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


@contextmanager
def meanwhile(actor: Actor, function: Callable[..., object], *arguments: object) -> Iterator[list[object]]:
    """Let somebody do something meanwhile; what it returned is in the list in the end."""
    results: list[object] = []
    work = threading.Thread(target=lambda: results.append(actor(function, *arguments)))
    work.start()
    try:
        yield results
    finally:
        work.join(60)
    assert not work.is_alive()


@contextmanager
def reachable_mount(*options: str) -> Iterator[Mounted]:
    """Mount where others than root get to: pytest's own directories are root's."""
    directory = Path(tempfile.mkdtemp(prefix="vmofs-rights-"))
    mounter = Mounter(directory)
    try:
        directory.chmod(0o755)
        yield mounter(*options)
        mounter.finish()
    finally:
        mounter.clean_up()
        shutil.rmtree(directory)
