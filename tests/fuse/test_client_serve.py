"""A pager class served through a mount: sync and async, failures, deaths, restarts, names, many readers."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.support.client_pagers import KEY, PAGE, Coroutine, Patterned, Serving
from tests.support.mounted import Mounted, vmofs_environment, wait_for
from tests.support.pager_client import Background, Readers
from vmofs.client import Changed, Data, Object, Retry, Unavailable
from vmofs.status import AlreadyExistsError, InvalidArgsError
from vmofs.testing import pattern

SIZE = 3_000_000
BOTH = pytest.mark.parametrize("kind", [Patterned, Coroutine])


@pytest.fixture
def serving(shared_mount: Mounted, request: pytest.FixtureRequest) -> Iterator[Serving]:
    """A function that serves a pager in this process."""
    serving = Serving(shared_mount.path, f"s{abs(hash(request.node.name)) % 10**8}-")
    yield serving
    serving.close()


def path_of(serving: Serving, name: str = "x") -> Path:
    return serving.mount / "vmo" / name


def pread(path: Path, offset: int, length: int = PAGE) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def errno_of(path: Path, offset: int) -> int:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the caller looks at the errno
        pread(path, offset)
    return caught.value.errno or 0


# What is read


@BOTH
def test_objects_are_files_of_any_name_and_size(serving: Serving, kind: type[Patterned]) -> None:
    names = ["x", "a b\tc\\040\nd", "deep/down/ö*", "deep/empty", "one", "page", "more"]
    sizes = [SIZE, 12345, 5000, 0, 1, PAGE, PAGE + 1]
    pager = kind(*map(Object, names, sizes))
    serving(pager)
    for name, size in zip(names, sizes, strict=True):
        data = path_of(serving, name).read_bytes()
        assert len(data) == size
        pattern.check(data, pager.key(name))


def test_a_mapping_gets_the_same(serving: Serving, start: Readers) -> None:
    serving(Patterned())
    reader = start("mmap", path_of(serving), 5 * PAGE, SIZE - 5 * PAGE)
    data = reader.next()
    assert isinstance(data, bytes)
    pattern.check(data, KEY, 5 * PAGE)


@BOTH
def test_32_readers_at_random_get_no_wrong_byte(serving: Serving, kind: type[Patterned]) -> None:
    pager = kind(Object("x", 64 << 20))
    server = serving(pager)
    wrong: list[object] = []

    def read(seed: int) -> None:
        rand = random.Random(seed)  # noqa: S311 - no secret
        fd = os.open(path_of(serving), os.O_RDONLY)
        for _ in range(20):
            at, length = rand.randrange(64 << 20), rand.choice([1, 100, PAGE, 70_000])
            try:
                pattern.check(os.pread(fd, length, at), KEY, at)
            except (AssertionError, OSError) as error:
                wrong.append(error)
        os.close(fd)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert server.statistics.requests > 100


def test_a_reader_in_sequence_costs_few_reads_of_the_pager(serving: Serving) -> None:
    pager = Patterned(Object("x", 32 << 20))
    pager.cluster = 128 << 10
    server = serving(pager)
    fd = os.open(path_of(serving), os.O_RDONLY)
    try:
        for at in range(0, 16 << 20, 1 << 16):
            pattern.check(os.pread(fd, 1 << 16, at), KEY, at)
    finally:
        os.close(fd)
    assert server.statistics.reads < 64  # of 128 KiB it would be 128
    assert server.statistics.markers > 5
    assert server.statistics.bytes_read <= 33 << 20


def test_pages_that_were_evicted_are_read_again(serving: Serving) -> None:
    pager = Patterned()
    server = serving(pager)
    for _ in range(3):
        pattern.check(path_of(serving).read_bytes(), KEY)
        server.directory.vmo("x").evict()
    assert server.statistics.bytes_read >= 2 * SIZE


def test_prefetched_pages_are_there_before_anybody_asks(serving: Serving) -> None:
    pager = Patterned()
    server = serving(pager)
    server.prefetch("x")
    wait_for(lambda: server.statistics.bytes_supplied >= SIZE, "all is there")
    pattern.check(path_of(serving).read_bytes(), KEY)
    assert server.statistics.requests == 0
    with pytest.raises(KeyError):
        server.prefetch("y")


def test_a_pager_that_reads_several_ranges_at_once_is_answered_for_by_one_write(serving: Serving) -> None:
    class Many(Patterned):
        threads = 1

        def read(self, obj: Object, offset: int, length: int) -> bytes:
            time.sleep(0.1)  # meanwhile others ask
            return bytes(Patterned.read(self, obj, offset, length))

        def read_many(self, obj: Object, ranges: Sequence[tuple[int, int]]) -> list[Data]:
            together.append(len(ranges))
            return [Patterned.read(self, obj, *each) for each in ranges]

    together: list[int] = []
    server = serving(Many())
    places = range(0, SIZE, SIZE // 20)
    readers = [Background(partial(pread, path_of(serving), at)) for at in places]
    for at, reader in zip(places, readers, strict=True):
        pattern.check(reader.result(), KEY, at)
    assert max(together) > 5
    assert server.directory._answers is not None


# Failures


def failing(*errors: BaseException | None, size: int = SIZE) -> Patterned:
    """Return a pager whose reads raise one error after the other, the last one again and again."""

    def before(call: int) -> None:
        error = errors[min(call, len(errors)) - 1]
        if error:
            raise error

    pager = Patterned(Object("x", size), before=before)
    pager.cluster, pager.ahead = PAGE, 0
    return pager


def test_retries_are_not_seen_by_the_reader(serving: Serving) -> None:
    serving(failing(Retry("busy"), Retry(after=0.2), None))
    pattern.check(pread(path_of(serving), 0), KEY)


def test_a_source_that_stays_away_is_eio_by_the_deadline_and_heals(serving: Serving) -> None:
    pager = failing(Retry("busy"))
    pager.deadline = 0.5
    serving(pager)
    began = time.monotonic()
    assert errno_of(path_of(serving), 0) == errno.EIO
    assert time.monotonic() - began < 3  # a read that fails is tried again by the kernel, here with the same error
    pager.before = lambda _: None
    wait_for(lambda: heals(path_of(serving)), "it heals")


def heals(path: Path) -> bool:
    try:
        return len(pread(path, 8 * PAGE)) == PAGE
    except OSError:
        return False


@pytest.mark.parametrize("error", [Unavailable("no"), OSError("no"), ZeroDivisionError()])
def test_other_failures_are_eio_and_not_remembered(serving: Serving, error: Exception) -> None:
    pager = failing(error)
    serving(pager)
    assert errno_of(path_of(serving), 0) == errno.EIO
    pager.before = lambda _: None
    pattern.check(pread(path_of(serving), PAGE), KEY, PAGE)
    wait_for(lambda: heals(path_of(serving)), "it heals")


def test_the_file_says_why_a_read_failed_and_where_its_content_comes_from(serving: Serving) -> None:
    obj = Object("x", SIZE, version='"etag 1"', source="https://host/a b")
    pager = Patterned(obj, before=failing(Unavailable("the link has expired" + "ö" * 600)).before)
    serving(pager)
    assert errno_of(path_of(serving), 0) == errno.EIO
    shown = {
        name: os.getxattr(path_of(serving), f"user.vmofs.{name}").decode()
        for name in ("last_error", "source", "version")
    }
    assert "ZX_ERR_IO 0 4096 the link has expiredö" in shown["last_error"]
    assert (shown["source"], shown["version"]) == (obj.source, obj.version)


def test_what_has_changed_is_ebadmsg_without_asking_and_what_is_there_stays(serving: Serving) -> None:
    pager = failing(None, Changed("etag"))
    serving(pager)
    pread(path_of(serving), 0)
    for page in range(1, 20):
        assert errno_of(path_of(serving), page * PAGE) == errno.EBADMSG
    pattern.check(pread(path_of(serving), 0), KEY)
    assert len(pager.calls) == 2


def test_too_few_bytes_are_eio(serving: Serving) -> None:
    class Short(Patterned):
        def read(self, obj: Object, offset: int, length: int) -> bytes:
            return bytes(Patterned.read(self, obj, offset, length))[:-1]

    serving(Short())
    assert errno_of(path_of(serving), 0) == errno.EIO


def test_a_bad_page_fails_itself_only(serving: Serving) -> None:
    class Bad(Patterned):
        def read(self, obj: Object, offset: int, length: int) -> bytes:
            if offset <= 3 * PAGE < offset + length:
                raise OSError(errno.EIO, "bad sector")
            return bytes(Patterned.read(self, obj, offset, length))

    pager = Bad()
    pager.cluster = 64 << 10
    serving(pager)
    assert errno_of(path_of(serving), 3 * PAGE) == errno.EIO
    pattern.check(pread(path_of(serving), 2 * PAGE), KEY, 2 * PAGE)
    pattern.check(pread(path_of(serving), 4 * PAGE), KEY, 4 * PAGE)


@BOTH
def test_a_read_that_never_returns_is_eio_by_the_deadline_and_holds_up_nobody(
    serving: Serving, kind: type[Patterned]
) -> None:
    release = threading.Event()
    pager = kind(Object("x", SIZE))

    def hang(call: int) -> None:
        if call == 1:
            release.wait(30)

    pager.before = hang
    pager.threads, pager.deadline, pager.ahead = 2, 0.5, 0
    serving(pager)
    waiting = Background(lambda: pread(path_of(serving), 0))
    wait_for(lambda: len(pager.calls) == 1, "it is asked")
    if kind is Patterned:  # a coroutine that blocks holds up its loop
        pattern.check(pread(path_of(serving), 1 << 20), KEY, 1 << 20)
    assert waiting.errno() == errno.EIO
    release.set()
    wait_for(lambda: heals(path_of(serving)), "it heals")


def test_on_hard_terms_who_reads_waits_until_it_is_back(serving: Serving) -> None:
    pager = failing(Unavailable("down"))
    pager.deadline = 0
    server = serving(pager, hard=True)
    assert server.directory.deadline == 0
    waiting = Background(lambda: pread(path_of(serving), 0))
    wait_for(lambda: len(pager.calls) > 3, "it is tried again")
    assert not waiting.done
    pager.before = lambda _: None
    pattern.check(waiting.result(), KEY)


def test_who_waits_on_hard_terms_can_be_killed(serving: Serving, start: Readers) -> None:
    pager = failing(Unavailable("down"))
    serving(pager, hard=True)
    reader = start("pread", path_of(serving), 0)
    wait_for(lambda: len(pager.calls) > 1, "it is tried again")
    assert reader.kill() < 2


def test_a_file_that_is_only_read_cannot_be_written_to(serving: Serving) -> None:
    serving(Patterned())
    fd = os.open(path_of(serving), os.O_RDWR)  # root may
    try:
        with pytest.raises(OSError, match="bad state") as caught:
            os.pwrite(fd, bytes(PAGE), 0)
        assert caught.value.errno == errno.EBADFD
        pattern.check(os.pread(fd, PAGE, 0), KEY)
    finally:
        os.close(fd)


# Ends and beginnings


def test_a_pager_ends_when_its_directory_is_closed(serving: Serving) -> None:
    server = serving(Patterned())
    pread(path_of(serving), 0)
    server.directory.path.rmdir()
    waiting = Background(server.wait)
    waiting.result()
    server.stop()
    pattern.check(pread(path_of(serving), 0), KEY)
    path_of(serving).unlink()


def test_nobody_has_it_any_more(serving: Serving) -> None:
    pager = Patterned(Object("x", SIZE), Object("y", SIZE))
    serving(pager)
    pread(path_of(serving), 0)
    path_of(serving).unlink()
    wait_for(lambda: pager.closed == ["x"], "it is told")
    pattern.check(pread(path_of(serving, "y"), 0), 2 * KEY)


def test_started_again_it_goes_on_with_what_is_there(serving: Serving) -> None:
    first = Patterned(Object("x", SIZE, version="1"))
    server = serving(first, name="again")
    pattern.check(pread(path_of(serving), 0), KEY)
    server.stop()
    waiting = Background(lambda: pread(path_of(serving), 1 << 20))
    second = Patterned(Object("x", SIZE, version="1"))
    second.ahead, second.cluster = 0, PAGE
    serving(second, name="again")
    pattern.check(waiting.result(), KEY, 1 << 20)
    pattern.check(pread(path_of(serving), 0), KEY)
    assert [offset for _, offset, _ in second.calls] == [1 << 20]


def test_started_again_with_another_version_there_is_a_new_file(serving: Serving) -> None:
    first = failing(None)
    server = serving(first, name="again")
    fd = os.open(path_of(serving), os.O_RDONLY)
    try:
        os.pread(fd, PAGE, 0)
        server.stop()
        second = Patterned(Object("x", SIZE, version="2"))
        serving(second, name="again")
        pattern.check(pread(path_of(serving), 1 << 20), KEY, 1 << 20)
        pattern.check(os.pread(fd, PAGE, 0), KEY)  # it was there
        with pytest.raises(OSError, match="Bad message"):
            os.pread(fd, PAGE, 1 << 20)
    finally:
        os.close(fd)


def test_a_name_that_is_another_pagers_is_refused(serving: Serving) -> None:
    serving(Patterned(Object("taken", SIZE)))
    with pytest.raises(AlreadyExistsError, match="another pager"):
        serving(Patterned(Object("taken", 5)))


@pytest.mark.parametrize(
    "objects", [[Object("../x", 1)], [Object("x", -1)], [Object("a", 1), Object("a", 1)], [Object("", 1)]]
)
def test_objects_that_cannot_be_files_are_refused(serving: Serving, objects: list[Object]) -> None:
    with pytest.raises(InvalidArgsError):
        serving(Patterned(Object("good", 1), *objects))
    assert not (serving.mount / "control" / f"{serving.name}0").exists()
    assert not path_of(serving, "good").exists()


def test_renamed_and_exchanged_files_get_their_own_content(serving: Serving) -> None:
    pager = Patterned(Object("x", SIZE), Object("y", SIZE))
    pager.cluster, pager.ahead = PAGE, 0
    serving(pager)
    x, y, z = (path_of(serving, name) for name in "xyz")
    pread(x, 0)
    x.rename(z)
    y.rename(x)
    z.rename(y)
    for page in (1, 2):
        pattern.check(pread(y, page * PAGE), KEY, page * PAGE)
        pattern.check(pread(x, page * PAGE), 2 * KEY, page * PAGE)


def test_thousands_of_objects_are_made_in_batches(serving: Serving) -> None:
    pager = Patterned(*(Object(f"d{n % 7}/f{n}", n) for n in range(3000)))
    serving(pager)
    assert sum(len(files) for _, _, files in os.walk(serving.mount / "vmo")) >= 3000
    pattern.check(path_of(serving, "d3/f2999").read_bytes(), pager.key("d3/f2999"))


class Process:
    """A pager in a process of its own."""

    def __init__(self, serving: Serving, seconds: float) -> None:
        self.control = serving.mount / "control" / "own"
        command = [sys.executable, "-m", "tests.support.client_pagers", str(serving.mount), "own", "x", str(SIZE)]
        self.process = subprocess.Popen([*command, str(seconds)], env=vmofs_environment(), stdout=subprocess.PIPE)
        assert self.process.stdout
        assert self.process.stdout.readline() == b"ready\n"

    def end(self, number: int) -> int:
        """End it by a signal, and return how it ended."""
        self.process.send_signal(number)
        if self.process.stdout:
            self.process.stdout.close()
        return self.process.wait(10)


def test_killed_and_started_again_it_answers_who_waited(serving: Serving) -> None:
    process = Process(serving, 0.2)
    try:
        waiting = [Background(partial(pread, path_of(serving), at)) for at in range(0, SIZE, SIZE // 8)]
        time.sleep(0.05)
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        process = Process(serving, 0)
        for at, reader in zip(range(0, SIZE, SIZE // 8), waiting, strict=False):
            pattern.check(reader.result(), KEY, at)
        assert process.end(signal.SIGTERM) == 128 + signal.SIGTERM
    finally:
        process.process.kill()
        path_of(serving).unlink()
        process.control.rmdir()
