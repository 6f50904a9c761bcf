"""The FUSE device of one mount: requests are taken from it, answered, or handed on to libfuse.

The device is ours for the whole life of the mount. What we know how to serve is answered with plain calls, without
pyfuse3. Everything else goes on to libfuse, whose descriptor leads to a socket just while libfuse reads the request. It
leads to the device again before a handler answers.
"""

# Rules
#
# 1. `take` never blocks. It takes one message, and has answered it, has put it aside, or has handed it on when it
#    returns.
# 2. At most one message is in the socket, and a worker reads it at once: nothing can fill up, and nothing waits in
#    there. So `Turns` hands on only while it has a worker that waits for the device.
# 3. Every request is answered once. What nobody foresaw is logged, and answered EIO.
# 4. A request is in the buffers until the next `take`. Whoever needs its bytes for longer copies them.
# 5. FUSE_INTERRUPT never goes to libfuse: it would wait there for a request that libfuse does not know.
#
# How it works
#
#                  +--> serve[opcode](request) --> answer, refuse -------------------------> device
#     device --> take
#                  +--> socket --> libfuse reads it --+--> a handler: `answer_directly` ----> device
#                                                     +--> libfuse by itself --> socket --> `collect` --> device
#
# libfuse knows a number of a descriptor. `dup2` puts either end behind that number. So what a handler answers costs no
# way through the socket, and may be as long as it likes; what libfuse answers by itself is short.
#
# What is not nice
#
# libfuse does not know that its descriptor is exchanged. It reads from it once for each request, and writes to it once
# for each answer, and that is all that this relies on.
#
# What else changes with this file
#
# `Turns._drive` in loop/scheduler.py; front/requests.py, which is the table; "Who takes requests" in
# mount/CONCURRENCY.md. Tests: tests/unit/test_mount_device.py.

from __future__ import annotations

import errno
import logging
import mmap
import os
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from vmofs_mount.front.answers_of_libfuse import INIT, changed
from vmofs_mount.front.errno_map import errno_of_exception
from vmofs_mount.loop.scheduler import Taken

_log = logging.getLogger(__name__)

_REQUEST = struct.Struct("=IIQQIIIHHQQII")  # <linux/fuse.h>: fuse_in_header, and the beginning of fuse_read_in
_ANSWER = struct.Struct("=IiQ")  # fuse_out_header
_WRITTEN = struct.Struct("=IiQII")  # the same, and fuse_write_out
_ANSWER_BYTES, _WRITTEN_BYTES = _ANSWER.size, _WRITTEN.size
_HEAD_BYTES = 80  # fuse_in_header with fuse_read_in or fuse_write_in: what is written begins behind it
_BODY_BYTES = 2**20
_MOST_ANSWER_BYTES = 2**17

_GONE = {errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED}


class Request(NamedTuple):
    """The beginning of a message. ``handle``, ``offset``, ``size`` and ``flags`` are those of READ and WRITE.

    Other requests have something else there, which ``Device.fields`` reads.
    """

    length: int
    opcode: int
    unique: int
    node: int
    uid: int
    gid: int
    thread: int
    extensions: int
    padding: int
    handle: int
    offset: int
    size: int
    flags: int


class Device:
    """Takes messages. ``number`` is libfuse's descriptor of the device."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._fd = os.dup(number)
        os.set_blocking(self._fd, False)
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._leads_to_socket = False
        memory = memoryview(mmap.mmap(-1, mmap.PAGESIZE + _BODY_BYTES))
        self._message = memory[mmap.PAGESIZE - _HEAD_BYTES :]
        self._head = memory[mmap.PAGESIZE - _HEAD_BYTES : mmap.PAGESIZE]
        self._body = memory[mmap.PAGESIZE :]  # begins with a page, as what is written does most often
        self._buffers = [self._head, self._body]
        self._serve: Mapping[int, Callable[[Request], None]] = {}
        self._handed_on = 0  # the opcode
        self.begun: Callable[[], None] = _nothing
        """Called when the kernel has its answer to FUSE_INIT."""
        self.unique = 0
        """The number of the request that was taken last."""
        self.thread = 0
        """Which thread has made it; 0 if that is in no namespace of processes that can be seen from here."""

    def serve(self, table: Mapping[int, Callable[[Request], None]]) -> None:
        """Serve requests by these functions, by opcode. Each answers, or sees to it that somebody will."""
        self._serve = table

    def fileno(self) -> int:
        """Return our descriptor of the device."""
        return self._fd

    def take(self) -> Taken:
        """Take a message, if there is one."""
        try:
            length = os.readv(self._fd, self._buffers)
        except BlockingIOError:
            return Taken.NOTHING
        except OSError as error:
            if error.errno in {errno.EINTR, errno.ENOENT}:  # the request was withdrawn just now
                return Taken.SERVED
            if error.errno != errno.ENODEV:
                _log.warning("the connection to the kernel broke: %s", error)
            return Taken.GONE
        request = tuple.__new__(Request, _REQUEST.unpack_from(self._head))
        self.unique, self.thread = request.unique, request.thread
        serve = self._serve.get(request.opcode)
        if serve is None:
            return self._hand_on(request, length)
        try:
            serve(request)
        except Exception as error:  # noqa: BLE001 - it must not end the mount
            self.refuse(request.unique, error)
        return Taken.SERVED

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        """Return what stands behind the header of the request."""
        return layout.unpack_from(self._head, 40)

    def body(self, length: int) -> memoryview:
        """Return what is written by a WRITE, until the next ``take``."""
        return self._body[:length]

    def rest(self, start: int, length: int) -> memoryview:
        """Return bytes of the request, counted from its beginning, until the next ``take``."""
        return self._message[start : start + length]

    # Answers

    def answer(self, unique: int, data: bytes | bytearray | memoryview) -> None:
        """Answer a request with data."""
        try:
            os.writev(self._fd, (_ANSWER.pack(_ANSWER_BYTES + len(data), 0, unique), data))
        except OSError as error:
            self._not_sent(unique, error)

    def answer_written(self, unique: int, size: int) -> None:
        """Answer a WRITE."""
        self._send(unique, _WRITTEN.pack(_WRITTEN_BYTES, 0, unique, size, 0))

    def refuse(self, unique: int, error: Exception) -> None:
        """Answer a request with an error."""
        self._send(unique, _ANSWER.pack(_ANSWER_BYTES, -errno_of_exception(error), unique))

    def _send(self, unique: int, answer: bytes) -> None:
        try:
            os.write(self._fd, answer)
        except OSError as error:
            self._not_sent(unique, error)

    def _not_sent(self, unique: int, error: OSError) -> None:
        # ENOENT: the kernel does not wait for it any more.
        if error.errno == errno.ENOENT or error.errno in _GONE:
            return
        _log.error("request %s could not be answered", unique, exc_info=error)
        with suppress(OSError):  # the kernel has answered it by itself, if it has seen an answer to it
            os.write(self._fd, _ANSWER.pack(_ANSWER_BYTES, -errno.EIO, unique))

    # To and from libfuse

    def _hand_on(self, request: Request, length: int) -> Taken:
        try:
            self._ours.send(self._message[:length])
        except OSError as error:
            self.refuse(request.unique, error)
            return Taken.SERVED
        self._handed_on = request.opcode
        os.dup2(self._theirs.fileno(), self._number, inheritable=False)
        self._leads_to_socket = True
        return Taken.HANDED_ON

    def answer_directly(self) -> None:
        """Let libfuse's answers go to the device: it has read the request, and a handler is about to answer."""
        if self._leads_to_socket:
            os.dup2(self._fd, self._number, inheritable=False)
            self._leads_to_socket = False

    def collect(self) -> None:
        """Hand on what libfuse has answered by itself. To be called when the worker that took the request stops."""
        if not self._leads_to_socket:
            return
        self.answer_directly()
        try:
            while True:
                answer = self._ours.recv(_MOST_ANSWER_BYTES)
                self._send(0, changed(self._handed_on, answer))
                if self._handed_on == INIT:
                    self.begun()
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Let go of the device."""
        os.close(self._fd)
        self._ours.close()
        self._theirs.close()


def _nothing() -> None:
    pass
