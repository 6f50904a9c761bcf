"""Failed pages: whoever waits gets the errno, once; the next access asks again."""

from __future__ import annotations

import errno
import mmap
import os
import signal

import pytest

from tests.support.mounted import wait_for
from tests.support.opening import opened
from tests.support.pager_client import Background, PagerClient, Readers, threads_asleep_in
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE

KEY = 5 * pattern.KEY_STEP
CODES = {
    "ZX_ERR_IO": errno.EIO,
    "IO_DATA_INTEGRITY": errno.EBADMSG,
    "zx_err_bad_state": errno.EBADFD,
    "-54": errno.ENOSPC,
    "ZX_ERR_BUFFER_TOO_SMALL": errno.EOVERFLOW,
}
REPEATED = 200

pytestmark = pytest.mark.alone  # whether a READ is a retry of the kernel is told by what its reader does just then


def pread(fd: int, offset: int = 0, length: int = PAGE_SIZE) -> Background[bytes]:
    return Background(lambda: os.pread(fd, length, offset))


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(
    ("kind", "pages"),
    [
        ("pread", 1),
        ("pread", 5),
        ("mmap", 1),
        ("sendfile", 1),
        ("sendfile", 3),
        ("splice", 1),
        ("direct", 1),
        ("direct", 4),
    ],
)
def test_a_failure_is_told_once_and_the_next_access_asks_again(
    pager: PagerClient, start: Readers, kind: str, pages: int, code: str
) -> None:
    vmo = pager.create(size=16 * PAGE_SIZE)
    offset, length = 4 * PAGE_SIZE, pages * PAGE_SIZE
    expected = -signal.SIGBUS if kind == "mmap" else CODES[code]
    for _ in range(2):
        reader = start(kind, vmo.path, offset, length)
        pager.requests.next()
        pager.fail(vmo, 0, 16 * PAGE_SIZE, code)
        assert reader.failure() == expected
    assert pager.read_requests == 2
    reader = start(kind, vmo.path, offset, length)
    pager.requests.next()
    pager.supply(vmo, 0, 16 * PAGE_SIZE, key=KEY)
    data = reader.next()
    assert isinstance(data, bytes)
    pattern.check(data, KEY, offset)
    assert pager.read_requests == 3
    assert pager.requests.is_quiet()


@pytest.mark.parametrize("pages", [1, 4])
@pytest.mark.parametrize("kind", ["pread", "sendfile", "splice", "direct"])
def test_a_reader_that_tries_again_at_once_raises_one_request_each_time(
    pager: PagerClient, start: Readers, kind: str, pages: int
) -> None:
    """Of several pages, those behind the first may be asked for once more: by a READ of their own.

    The kernel splits a read in two if it comes while the pages are being dropped from its cache and one between is
    there still: seen for 1 in some 7,000 of four pages, beside 10,000 threads that are awake.
    """
    vmo = pager.create(size=8 * PAGE_SIZE)
    length = pages * PAGE_SIZE
    reader = start(kind, vmo.path, PAGE_SIZE, length, times=REPEATED + 1)
    codes = list(CODES.items())
    behind = 0
    for turn in range(REPEATED):
        code, expected = codes[turn % len(codes)]
        behind += wait_for_page_1(pager)
        pager.fail(vmo, 0, 8 * PAGE_SIZE, code)
        assert reader.next() == expected
        if pages == 1:
            assert pager.read_requests in {turn + 1, turn + 2}
    behind += wait_for_page_1(pager)
    pager.supply(vmo, 0, 8 * PAGE_SIZE, key=KEY)
    data = reader.next()
    assert isinstance(data, bytes)
    pattern.check(data, KEY, PAGE_SIZE)
    while pager.read_requests > REPEATED + 1 + behind:  # what was asked for since
        assert pager.requests.next().offset > PAGE_SIZE
        behind += 1
    assert pager.requests.is_quiet()
    assert behind <= (0 if pages == 1 else REPEATED // 50)


def wait_for_page_1(pager: PagerClient) -> int:
    """Wait for a request from page 1 on; return how many for what lies behind it came before."""
    behind = 0
    while (offset := pager.requests.next().offset) != PAGE_SIZE:
        assert offset > PAGE_SIZE
        behind += 1
    return behind


_FAULTS = r"""
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
mapping.madvise(int(sys.argv[3]))
for _ in range(int(sys.argv[2])):
    time.sleep(float(sys.argv[4]))
    pid = os.fork()
    if pid == 0:
        mapping[0]
        os._exit(0)
    print("errno", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.parametrize("advice", [mmap.MADV_NORMAL, mmap.MADV_RANDOM])
@pytest.mark.parametrize("pause", [0, 0.01])
def test_faults_one_after_the_other_raise_one_request_each(
    pager: PagerClient, start: Readers, pause: float, advice: int
) -> None:
    """But for few: the kernel asks once more for who comes while the page is being dropped for the one before.

    After the first hundred faults, or as it is told, it does not read ahead and asks once less each time.
    """
    vmo = pager.create()
    reader = start.run(_FAULTS, vmo.path, REPEATED, advice, pause)
    requests = 0
    while reader.process.poll() is None:
        if pager.requests.fill(0.01):
            assert pager.requests.next().offset == 0
            pager.fail(vmo, 0, PAGE_SIZE)
            requests += 1
    assert reader.process.stdout is not None
    assert reader.process.stdout.read() == f"errno {-signal.SIGBUS}\n".encode() * REPEATED
    assert 0.98 * REPEATED <= requests <= 1.02 * REPEATED


@pytest.mark.parametrize("kind", ["pread", "mmap", "direct"])
def test_one_failure_reaches_all_processes_that_wait_for_the_page(
    pager: PagerClient, start: Readers, kind: str
) -> None:
    vmo = pager.create()
    expected = -signal.SIGBUS if kind == "mmap" else errno.ENOSPC
    for turn in range(3):
        readers = [start(kind, vmo.path, 0) for _ in range(5)]
        pager.take_read(vmo, 0)
        for reader in readers:
            wait_for(reader.is_waiting, "the reader waits")
        pager.fail(vmo, 0, PAGE_SIZE, "ZX_ERR_NO_SPACE")
        assert [reader.failure() for reader in readers] == [expected] * 5
        assert pager.read_requests == turn + 1
    reader = start(kind, vmo.path, 0)
    pager.take_read(vmo, 0)
    pager.supply(vmo, key=KEY)
    data = reader.next()
    assert isinstance(data, bytes)
    pattern.check(data, KEY)


def test_one_failure_reaches_all_threads_that_wait_for_the_page_in_one_open_file(pager: PagerClient) -> None:
    vmo = pager.create()
    with opened(vmo.path) as fd:
        for turn in range(5):
            readers = [pread(fd) for _ in range(10)]
            pager.take_read(vmo, 0)
            wait_for(lambda: threads_asleep_in(fd) == 10, "all threads wait")
            pager.fail(vmo, 0, PAGE_SIZE)
            assert [reader.errno() for reader in readers] == [errno.EIO] * 10
            assert pager.read_requests == turn + 1


def test_a_failure_is_not_told_to_those_who_come_later(pager: PagerClient, start: Readers) -> None:
    vmo = pager.create()
    with opened(vmo.path) as first, opened(vmo.path) as second:
        for turn in range(20):
            reader = pread(first)
            pager.take_read(vmo, 0)
            pager.fail(vmo, 0, PAGE_SIZE)
            assert reader.errno() == errno.EIO
            reader = pread(second)
            pager.take_read(vmo, 0)
            pager.fail(vmo, 0, PAGE_SIZE, "ZX_ERR_NO_SPACE")
            assert reader.errno() == errno.ENOSPC
            other = start("pread", vmo.path, 0)
            pager.take_read(vmo, 0)
            pager.fail(vmo, 0, PAGE_SIZE)
            assert other.failure() == errno.EIO
            assert pager.read_requests == 3 * (turn + 1)


def test_a_read_is_short_when_its_end_failed_and_the_rest_can_then_be_read(pager: PagerClient) -> None:
    vmo = pager.create(size=4 * PAGE_SIZE)
    with opened(vmo.path) as fd:
        reader = pread(fd, 0, 4 * PAGE_SIZE)
        pager.take_read(vmo, 0, 4 * PAGE_SIZE)
        pager.supply(vmo, 0, 2 * PAGE_SIZE, key=KEY)
        pager.fail(vmo, 2 * PAGE_SIZE, 2 * PAGE_SIZE, "ZX_ERR_IO_DATA_INTEGRITY")
        data = reader.result()
        assert len(data) == 2 * PAGE_SIZE
        pattern.check(data, KEY)
        reader = pread(fd, 2 * PAGE_SIZE, 2 * PAGE_SIZE)
        assert pager.requests.next().offset == 2 * PAGE_SIZE
        pager.supply(vmo, 2 * PAGE_SIZE, 2 * PAGE_SIZE, key=KEY)
        pattern.check(reader.result(), KEY, 2 * PAGE_SIZE)


def test_a_failure_without_anybody_waiting_is_no_error_and_changes_nothing(pager: PagerClient) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE)
    pager.supply(vmo, key=KEY)
    pager.fail(vmo, 0, 2 * PAGE_SIZE)
    with opened(vmo.path) as fd:
        pattern.check(os.pread(fd, PAGE_SIZE, 0), KEY)
        reader = pread(fd, PAGE_SIZE)
        pager.take_read(vmo, PAGE_SIZE)
        pager.supply(vmo, PAGE_SIZE, key=KEY)
        pattern.check(reader.result(), KEY, PAGE_SIZE)


def test_a_page_that_failed_and_was_then_supplied_is_read_without_asking(pager: PagerClient) -> None:
    vmo = pager.create()
    with opened(vmo.path) as fd:
        for _ in range(20):
            reader = pread(fd)
            pager.take_read(vmo, 0)
            pager.fail(vmo, 0, PAGE_SIZE)
            assert reader.errno() == errno.EIO
        pager.supply(vmo, key=KEY)
        pattern.check(os.pread(fd, PAGE_SIZE, 0), KEY)
    assert pager.read_requests == 20


def test_the_rest_of_a_file_is_readable_while_a_page_fails(pager: PagerClient) -> None:
    vmo = pager.create(size=3 * PAGE_SIZE)
    pager.supply(vmo, 0, key=KEY)
    pager.supply(vmo, 2 * PAGE_SIZE, key=KEY)
    with opened(vmo.path) as fd:
        reader = pread(fd, PAGE_SIZE)
        pager.take_read(vmo, PAGE_SIZE)
        pager.fail(vmo, PAGE_SIZE, PAGE_SIZE)
        assert reader.errno() == errno.EIO
        for page in (0, 2):
            pattern.check(os.pread(fd, PAGE_SIZE, page * PAGE_SIZE), KEY, page * PAGE_SIZE)
