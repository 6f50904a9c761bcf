"""What becomes of the messages of the FUSE device, with sockets for the kernel's end."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

import pytest

from tests.support.device import ANSWER, READ, READ_IN, Kernel
from vmofs.status import IoError
from vmofs_mount.front.answers_of_libfuse import INIT, changed
from vmofs_mount.front.device import Request
from vmofs_mount.loop.scheduler import Taken

OTHER = 3


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


def test_a_request_in_the_table_is_served_and_answered_without_libfuse(kernel: Kernel) -> None:
    seen: list[Request] = []

    def serve(request: Request) -> None:
        seen.append(request)
        kernel.device.answer(request.unique, b"page")

    kernel.device.serve({READ: serve})
    kernel.read(8, 4096, 100)
    assert kernel.device.take() is Taken.SERVED
    assert kernel.device.take() is Taken.NOTHING
    (request,) = seen
    assert (request.unique, request.node, request.thread) == (8, 1, 7)
    assert (request.handle, request.offset, request.size) == (5, 4096, 100)
    assert (kernel.device.unique, kernel.device.thread) == (8, 7)
    assert kernel.answers() == [ANSWER.pack(20, 0, 8) + b"page"]


def test_what_is_written_and_what_other_requests_have_can_be_read_until_the_next_one(kernel: Kernel) -> None:
    kernel.ask(OTHER, 2, READ_IN.pack(5, 0, 9, 0) + bytes(16) + b"some bytes")
    kernel.device.serve({OTHER: lambda _request: None})
    kernel.device.take()
    assert bytes(kernel.device.body(9)) == b"some byte"
    assert kernel.device.fields(struct.Struct("=QQ")) == (5, 0)
    assert bytes(kernel.device.rest(76, 8)) == bytes(4) + b"some"


@pytest.mark.parametrize(
    ("error", "code"),
    [(IoError("no"), errno.EIO), (OSError(errno.EBADF, "none"), errno.EBADF), (ZeroDivisionError(), errno.EIO)],
)
def test_a_function_that_fails_is_an_errno_and_the_next_request_is_served(
    kernel: Kernel, error: Exception, code: int
) -> None:
    def serve(_request: Request) -> None:
        raise error

    kernel.device.serve({READ: serve})
    for unique in (2, 4):
        kernel.read(unique, 0, 1)
        assert kernel.device.take() is Taken.SERVED
    assert kernel.answers() == [ANSWER.pack(16, -code, 2), ANSWER.pack(16, -code, 4)]


def test_other_requests_go_to_libfuse_whole_and_its_handlers_answer_the_kernel(kernel: Kernel) -> None:
    message = kernel.ask(OTHER, 6, bytes(range(200)))
    assert kernel.device.take() is Taken.HANDED_ON
    assert os.read(kernel.number, 2**20) == message
    kernel.device.answer_directly()
    answer = ANSWER.pack(16, 0, 6)
    os.write(kernel.number, answer)
    assert kernel.answers() == [answer]
    kernel.device.collect()
    assert kernel.answers() == []


def test_what_libfuse_answers_by_itself_is_handed_on(kernel: Kernel) -> None:
    for unique in (6, 8):
        kernel.ask(OTHER, unique, b"")
        assert kernel.device.take() is Taken.HANDED_ON
        os.read(kernel.number, 2**20)
        answer = ANSWER.pack(16, -errno.ENOSYS, unique)
        os.write(kernel.number, answer)
        assert kernel.answers() == []
        kernel.device.collect()
        assert kernel.answers() == [answer]
    os.write(kernel.number, answer)
    assert kernel.answers() == [answer], "the number is the device again"


def test_the_answer_to_init_is_changed_and_then_the_mount_has_begun(kernel: Kernel) -> None:
    begun: list[bool] = []
    kernel.device.begun = lambda: begun.append(True)
    kernel.ask(INIT, 2, bytes(64))
    kernel.device.take()
    os.read(kernel.number, 2**20)
    answer = struct.pack("=IiQ4I2HI", 80, 0, 2, 7, 40, 131072, 2**32 - 1, 12, 9, 2**20) + bytes(40)
    os.write(kernel.number, answer)
    assert begun == []
    kernel.device.collect()
    assert kernel.answers() == [changed(INIT, answer)] != [answer]
    assert begun == [True]


def test_a_message_that_cannot_be_handed_on_is_refused(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """A socket that takes nothing."""

        def send(self, _message: memoryview) -> int:
            """Refuse."""
            raise OSError(errno.EMSGSIZE, "too long")

    with monkeypatch.context() as patch:
        patch.setattr(kernel.device, "_ours", Full())
        kernel.ask(OTHER, 6, b"")
        assert kernel.device.take() is Taken.SERVED
    assert kernel.answers() == [ANSWER.pack(16, -errno.EMSGSIZE, 6)]


@pytest.mark.parametrize(
    ("code", "taken"), [(errno.EINTR, Taken.SERVED), (errno.ENOENT, Taken.SERVED), (errno.ENODEV, Taken.GONE)]
)
def test_errors_of_the_device_end_it_only_if_no_more_will_come(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, code: int, taken: Taken
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(code, "no message")

    monkeypatch.setattr(os, "readv", fail)
    assert kernel.device.take() is taken


def test_a_broken_connection_is_logged(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(errno.ECONNABORTED, "broken")

    monkeypatch.setattr(os, "readv", fail)
    assert kernel.device.take() is Taken.GONE
    assert "the connection to the kernel broke" in caplog.text


@pytest.mark.parametrize(("code", "sent"), [(errno.ENOENT, []), (errno.ENODEV, []), (errno.EINVAL, [errno.EIO])])
def test_an_answer_that_nobody_waits_for_is_no_error_and_one_that_is_not_taken_becomes_eio(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, code: int, sent: list[int]
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(code, "not taken")

    monkeypatch.setattr(os, "writev", fail)
    kernel.device.answer(6, b"page")
    assert kernel.answers() == [ANSWER.pack(16, -error, 6) for error in sent]


def test_a_write_is_answered_with_its_length(kernel: Kernel) -> None:
    kernel.device.answer_written(4, 4096)
    assert kernel.answers() == [struct.pack("=IiQII", 24, 0, 4, 4096, 0)]
