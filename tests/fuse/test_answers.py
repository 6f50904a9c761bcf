"""control/PAGER/answers: one write supplies many pages, of any VMOs of the pager."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.identity import Who, reachable_mount
from tests.support.mounted import wait_for
from tests.support.pager_client import Background, PagerClient, Vmo, threads_asleep_in
from tests.support.two_users import acting
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, Key, PageRange
from vmofs.wire.answers import Answer, count_answered, format_answers, size_of

P = PAGE_SIZE
USER = Who("user", 2002, 2002)


class AnswersFile:
    """The open file of a pager."""

    def __init__(self, pager: PagerClient) -> None:
        self.path = pager.control / "answers"
        self.fd = os.open(self.path, os.O_RDWR)

    def write(self, *answers: Answer) -> int:
        """Write some answers; return how many were carried out."""
        written = os.writev(self.fd, format_answers(answers))
        done = count_answered(answers, written)
        assert written == size_of(answers[:done])
        return done

    def result(self) -> str:
        """Read the result."""
        return os.read(self.fd, 4096).decode()

    def refused(self, *answers: Answer) -> tuple[str, str]:
        """Write answers of which the first fails; return errno and result."""
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the caller looks at the errno
            self.write(*answers)
        return errno.errorcode[caught.value.errno or 0], self.result()


@pytest.fixture
def answers(pager: PagerClient) -> Iterator[AnswersFile]:
    file = AnswersFile(pager)
    yield file
    os.close(file.fd)


def key_of(vmo: Vmo) -> Key:
    return Key(int(vmo.xattr("key")))


def answer(vmo: Vmo, page: int, pages: int = 1) -> Answer:
    """Return what belongs into pages: the pattern of key 0."""
    return Answer(page * P, key_of(vmo), pattern.make_pages(0, PageRange(page, page + pages)))


def content(vmo: Vmo, page: int, pages: int = 1) -> bytes:
    fd = os.open(vmo.path, os.O_RDONLY)
    try:
        return os.pread(fd, pages * P, page * P)
    finally:
        os.close(fd)


def blocks(vmo: Vmo) -> int:
    return vmo.path.stat().st_blocks // (P // 512)


@contextmanager
def readers(*wanted: tuple[Vmo, int]) -> Iterator[list[Background[bytes]]]:
    """Have a page of each VMO read, by readers who all wait when this begins."""
    fds = [os.open(vmo.path, os.O_RDONLY) for vmo, _ in wanted]
    for fd in fds:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    def reader(fd: int, page: int) -> Background[bytes]:
        return Background(lambda: os.pread(fd, P, page * P))

    started = [reader(fd, page) for fd, (_, page) in zip(fds, wanted, strict=True)]
    for fd in fds:
        wait_for(lambda fd=fd: threads_asleep_in(fd) == 1, "the reader waits")  # type: ignore[misc]
    yield started
    for one in started:
        one.result()
    for fd in fds:
        os.close(fd)


def test_one_write_answers_the_readers_of_many_vmos(pager: PagerClient, answers: AnswersFile) -> None:
    vmos = [pager.create(f"v{number}", 8 * P) for number in range(4)]
    wanted = [(vmo, page) for vmo in vmos for page in (0, 5)]
    requests = pager.requests
    with readers(*wanted) as reading:
        asked = {(request.key, request.offset) for request in requests.take(len(wanted))}
        assert asked == {(key_of(vmo), page * P) for vmo, page in wanted}
        assert answers.write(*(answer(vmo, page) for vmo, page in wanted)) == len(wanted)
        assert answers.result() == "ZX_OK\n"
        for one, (_, page) in zip(reading, wanted, strict=True):
            assert one.result() == pattern.make_pages(0, PageRange(page, page + 1))
    assert pager.pending() == []


def test_what_nobody_reads_is_supplied_too_and_what_is_present_is_kept(
    pager: PagerClient, answers: AnswersFile
) -> None:
    vmo = pager.create(size=200 * P + 7)
    pager.supply_bytes(vmo, b"k" * P, P)
    end = Answer(200 * P, key_of(vmo), b"e" * 7)
    assert answers.write(answer(vmo, 0, 3), answer(vmo, 150, 2), end) == 3
    assert content(vmo, 0, 3) == pattern.make_pages(0, PageRange(0, 1)) + b"k" * P + pattern.make(0, 2 * P, P)
    assert content(vmo, 150, 2) == pattern.make_pages(0, PageRange(150, 152))
    assert content(vmo, 200) == b"e" * 7
    assert blocks(vmo) == 6


def test_a_short_page_and_one_of_many_in_a_record_answer_who_waits(pager: PagerClient, answers: AnswersFile) -> None:
    vmo = pager.create(size=9 * P + 7)
    assert pager.requests
    with readers((vmo, 3), (vmo, 9)) as (middle, end):
        assert answers.write(answer(vmo, 2, 4), Answer(9 * P, key_of(vmo), b"e" * 7)) == 2
        assert middle.result() == pattern.make_pages(0, PageRange(3, 4))
        assert end.result() == b"e" * 7


def test_the_write_ends_before_the_first_record_that_fails(pager: PagerClient, answers: AnswersFile) -> None:
    vmo = pager.create(size=4 * P)
    bad = Answer(5 * P, key_of(vmo), bytes(P))
    sentence = f"record 1 of 3: range {5 * P}+{P} does not lie inside the VMO of {4 * P} bytes"
    assert answers.write(answer(vmo, 0), bad, answer(vmo, 1)) == 1
    assert answers.result() == f"ZX_ERR_OUT_OF_RANGE: {sentence}\n"
    assert blocks(vmo) == 1
    log = (pager.mount / "control" / "log").read_text()
    assert f"control/{pager.name}/answers -> ZX_ERR_OUT_OF_RANGE: {sentence}\n" in log
    assert answers.refused(bad, answer(vmo, 1)) == (
        "ERANGE",
        f"ZX_ERR_OUT_OF_RANGE: {sentence.replace('1 of 3', '0 of 2')}\n",
    )
    assert answers.write(answer(vmo, 1)) == 1


@pytest.mark.parametrize("count", [1, 100], ids=["few", "many"])
def test_each_refusal_has_its_errno_and_changes_nothing(pager: PagerClient, answers: AnswersFile, count: int) -> None:
    vmo, other = pager.create(size=200 * P), PagerClient(pager.mount)
    twins = [pager.create(f"twin{number}", P, "key=77") for number in range(2)]
    foreign = other.create(size=P)
    key = key_of(vmo)
    detached = pager.create("detached", P)
    pager.command("detach_vmo", detached.name)
    cases = [
        (Answer(8, key, bytes(P)), "EINVAL", "offset 8 is not page aligned"),
        (Answer(0, key, bytes(P - 1)), "EINVAL", f"0+{P - 1} of key {key} does not end with a page, or with the VMO"),
        (Answer(0, Key(99), bytes(P)), "ENOENT", "no VMO of the pager has the key 99"),
        (Answer(0, Key(77), bytes(P)), "EINVAL", "2 VMOs of the pager have the key 77"),
        (Answer(0, key_of(foreign), bytes(P)), "ENOENT", f"no VMO of the pager has the key {key_of(foreign)}"),
        (Answer(0, key_of(detached), bytes(P)), "EBADFD", f"the VMO with key {key_of(detached)} is detached"),
    ]
    rest = [answer(vmo, page) for page in range(count - 1)]
    for bad, code, sentence in cases:
        refused, result = answers.refused(bad, *rest)
        assert (refused, result.partition(": ")[2]) == (code, f"record 0 of {count}: {sentence}\n")
    assert [blocks(one) for one in (vmo, *twins)] == [0, 0, 0]
    assert pager.stat("pages_supplied_total") == 0
    other.close()


@pytest.mark.parametrize(
    "data", [b"", bytes(8), struct.pack("<4Q", 2, 0, P, 0), struct.pack("<4Q", 1, 0, P, 0) + bytes(P - 1)]
)
def test_what_is_no_such_write_is_refused(answers: AnswersFile, data: bytes) -> None:
    if not data:
        assert os.write(answers.fd, data) == 0  # the kernel sends none
        return
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        os.write(answers.fd, data)
    assert caught.value.errno == errno.EINVAL
    assert answers.result().startswith("ZX_ERR_INVALID_ARGS: ")


@pytest.mark.parametrize("joined", [True, False], ids=["one buffer", "a buffer for each"])
def test_a_write_that_the_kernel_cuts_is_short_at_the_end_of_a_record(
    pager: PagerClient, answers: AnswersFile, joined: bool
) -> None:
    vmo = pager.create(size=1200 * P)
    pages = [answer(vmo, page, 1 + page // 3 % 3) for page in range(0, 900, 3)]
    writes, rest = 0, pages
    while rest:
        pieces = format_answers(rest)
        written = os.write(answers.fd, b"".join(pieces)) if joined else os.writev(answers.fd, pieces)
        done = count_answered(rest, written)
        assert done > 0
        assert written == size_of(rest[:done])
        if done < len(rest):
            assert answers.result() == f"ZX_OK records={done} of {len(rest)}\n"
        rest = rest[done:]
        writes += 1
    assert writes > 1, "the kernel cut nothing"
    assert pager.stat("pages_supplied_total") == 600
    for one in pages:
        assert content(vmo, one.offset // P, len(one.data) // P) == one.data


def test_a_record_that_fits_in_no_write_is_refused(pager: PagerClient, answers: AnswersFile) -> None:
    vmo = pager.create(size=1024 * P)
    code, result = answers.refused(answer(vmo, 0, 300))
    assert code == "EINVAL"
    assert f"the first record needs {8 + 24 + 300 * P}" in result
    assert pager.stat("pages_supplied_total") == 0


def test_read_only_it_says_how_it_is_used(pager: PagerClient) -> None:
    assert (pager.control / "answers").read_text().startswith("COUNT, then OFFSET LENGTH KEY of each record")
    assert (pager.control / "answers").stat().st_mode & 0o777 == 0o600


def test_a_vmo_without_a_name_is_answered_by_its_key(pager: PagerClient, answers: AnswersFile) -> None:
    vmo = pager.create(size=P)
    key = key_of(vmo)
    fd = os.open(vmo.path, os.O_RDONLY)
    vmo.path.unlink()
    reader = Background(lambda: os.pread(fd, P, 0))
    assert pager.requests.next().key == key
    assert answers.write(Answer(0, key, b"u" * P)) == 1
    assert reader.result() == b"u" * P
    os.close(fd)


def test_after_the_end_of_the_pager_there_is_nothing_to_answer(pager: PagerClient, answers: AnswersFile) -> None:
    vmo = pager.create(size=P)
    one = answer(vmo, 0)
    assert answers.write(one) == 1
    pager.stop_reading()
    pager.control.rmdir()
    assert answers.refused(one)[0] == "ENOENT"


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR)


def _writev(fd: int, pieces: list[bytes | memoryview]) -> int:
    return os.writev(fd, pieces)


def _read(fd: int) -> bytes:
    return os.read(fd, 4096)


def test_each_vmo_needs_the_right_to_write_of_who_opened_the_file() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    with reachable_mount("allow_other") as mounted, acting(USER) as user:
        pager = PagerClient(mounted.path)
        pager.control.chmod(0o755)
        (pager.control / "answers").chmod(0o666)
        allowed, refused = pager.create("allowed", 4 * P), pager.create("refused", 4 * P)
        allowed.path.chmod(0o666)
        fd = user(_open, pager.control / "answers")
        for both in ([answer(allowed, 0), answer(refused, 0)], [answer(allowed, 1), answer(refused, 1)]):
            assert user(_writev, fd, format_answers(both)) == size_of(both[:1])
            assert b"ZX_ERR_ACCESS_DENIED: record 1 of 2: no permission to write" in user(_read, fd)
        assert user.errno(_writev, fd, format_answers([answer(refused, 2)])) == "EACCES"
        assert (blocks(allowed), pager.stat("pages_supplied_total")) == (2, 2)
        allowed.path.chmod(0o600)  # a right that was found once is kept, as a handle is
        assert user(_writev, fd, format_answers([answer(allowed, 2)])) == size_of([answer(allowed, 2)])
        assert mounted.user_counter("queue_bytes", USER.uid) > 0
        user(os.close, fd)
        wait_for(lambda: mounted.user_counter("queue_bytes", USER.uid) == 0, "nothing is counted any more")
        pager.close()
