"""Requests of pagers that die, stop, or share the work: every request is answered in the end, by somebody."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import NIGHTLY
from tests.support.mounted import Mounted, Mounter, wait_for
from tests.support.pager_client import Background, PagerClient, Requests, Vmo
from tests.support.pager_process import PagerProcess
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PacketCommand

KEY = 3 * pattern.KEY_STEP
KILLS = 1000 if NIGHTLY else 20
READERS = 16
STALL = 0.4

_VERIFIER = r"""
import mmap, os, random, struct, sys
path, stop, key, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng, count = random.Random(seed), 0
fd = os.open(path, os.O_RDONLY)
size = os.fstat(fd).st_size
mapping = mmap.mmap(fd, size, prot=mmap.PROT_READ)
while not os.path.exists(stop):
    pages = rng.choice((1, 1, 1, 5))
    offset = rng.randrange(size // 4096 - pages) * 4096
    length = pages * 4096
    data = mapping[offset : offset + length] if seed % 2 else os.pread(fd, length, offset)
    first = key + offset // 8
    if data != struct.pack(f"<{length // 8}Q", *range(first, first + length // 8)):
        sys.exit(f"wrong bytes at {offset}")
    count += 1
print(count)
"""


@pytest.fixture(params=[0o600, 0o660], ids=["of root", "shared"], autouse=True)
def rights(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is the same for FIFOs that others than root may open, into which a thread writes."""
    monkeypatch.setattr(PagerClient, "fifo_mode", request.param)


@pytest.mark.parametrize("way", ["supply", "answers"])
def test_sixteen_readers_notice_nothing_of_a_pager_that_is_killed_again_and_again(
    mounter: Mounter, tmp_path: Path, way: str
) -> None:
    # A quarter of the file fits, so that there is always something to ask for.
    mount = mounter("memory_limit=4M")
    pager = PagerClient(mount.path)
    vmo = pager.create(size=16 * 2**20)
    stop = tmp_path / "stop"
    readers = [
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _VERIFIER, vmo.path, stop, str(KEY), str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for seed in range(READERS)
    ]
    random_numbers = random.Random(1977)  # noqa: S311 - nothing secret
    began = time.monotonic()
    try:
        for _ in range(KILLS):
            server = PagerProcess(pager.control, KEY, way=way)
            if random_numbers.random() < 0.9:
                server.wait_open()
            time.sleep(random_numbers.random() * 0.05)
            server.kill()
            assert all(reader.poll() is None for reader in readers), [reader.communicate() for reader in readers]
        server = PagerProcess(pager.control, KEY, way=way)
        stop.touch()
        outcomes = [reader.communicate(timeout=60) for reader in readers]
        server.kill()
    finally:
        for reader in readers:
            reader.kill()
    assert [reader.returncode for reader in readers] == [0] * READERS, outcomes
    reads = [int(out) for out, _ in outcomes]
    sys.stderr.write(
        f"{way}: {KILLS} kills in {time.monotonic() - began:.0f} s, {sum(reads)} reads, "
        f"{pager.stat('handovers_total')} handovers, {pager.read_requests} requests\n"
    )
    assert min(reads) > 0
    assert pager.pending() == []
    pager.close()


def test_pending_says_how_old_a_request_is_and_how_often_and_to_whom_it_was_delivered(pager: PagerClient) -> None:
    vmo = pager.create()
    fd = os.open(vmo.path, os.O_RDONLY)
    reader = Background(lambda: os.pread(fd, PAGE_SIZE, 0))
    wait_for(lambda: len(pager.pending()) == 1, "the request is there")
    began = time.monotonic()
    (line,) = pager.pending()
    assert line.startswith("READ ")
    assert line.endswith(" deliveries=0 queued no_reader")
    for times in (1, 2):
        pager.take_read(vmo, 0)
        (line,) = pager.pending()
        assert line.endswith(f" deliveries={times} delivered=requests")
        pager.stop_reading()
        wait_for(lambda: pager.pending()[0].endswith("queued no_reader"), "it waits for the next reader")
    age = float(line.partition(" age=")[2].split()[0])
    assert 0 <= age <= time.monotonic() - began + 1
    pager.take_read(vmo, 0)
    pager.supply(vmo, key=KEY)
    pattern.check(reader.result(), KEY)
    assert pager.pending() == []
    os.close(fd)


def test_a_complete_that_was_not_read_from_the_pipe_is_sent_again(pager: PagerClient) -> None:
    vmo = pager.create()
    assert pager.requests.is_quiet()
    wait_for(lambda: pager.stat("fifos_attached") == 1, "the FIFO is attached")
    pager.command("detach_vmo", vmo.name)
    wait_for(lambda: pager.stat("request_lines_total") == 1, "the line is in the pipe")
    pager.stop_reading()
    wait_for(lambda: pager.stat("fifos_attached") == 0, "the FIFO is let go of")
    assert pager.requests.next().command is PacketCommand.COMPLETE


def test_a_complete_that_was_read_is_not_sent_again(pager: PagerClient) -> None:
    vmo = pager.create()
    assert pager.requests.is_quiet()
    pager.command("detach_vmo", vmo.name)
    assert pager.requests.next().command is PacketCommand.COMPLETE
    pager.stop_reading()
    wait_for(lambda: pager.stat("fifos_attached") == 0, "the FIFO is let go of")
    assert pager.requests.is_quiet()
    wait_for(lambda: pager.stat("fifos_attached") == 1, "the FIFO is attached again")
    assert pager.requests.is_quiet()
    other = pager.create("other")
    pager.command("detach_vmo", other.name)
    assert pager.requests.next().path == other.name


def second_worker(pager: PagerClient, name: str = "second") -> Requests:
    """Make a second FIFO and open it, and the default one."""
    os.mkfifo(pager.control / name, pager.fifo_mode)
    second = Requests(pager.control / name)
    assert pager.requests.is_quiet()
    wait_for(lambda: pager.stat("fifos_attached") == 2, "both FIFOs are attached")
    return second


def readers_of(vmos: list[Vmo]) -> list[Background[bytes]]:
    """Read the first page of each VMO."""

    def read(vmo: Vmo) -> bytes:
        with vmo.path.open("rb", buffering=0) as file:
            return file.read(PAGE_SIZE) or b""

    return [Background(lambda vmo=vmo: read(vmo)) for vmo in vmos]  # type: ignore[misc]


def test_two_workers_share_the_load_and_one_takes_over_from_the_other(pager: PagerClient) -> None:
    second = second_worker(pager)
    vmos = [pager.create(f"v{number}") for number in range(8)]
    readers = readers_of(vmos)
    for worker in (pager.requests, second):
        assert {request.command for request in worker.take(4)} == {PacketCommand.READ}
    assert pager.requests.is_quiet()
    assert second.is_quiet()
    second.close()
    names = {request.path for request in pager.requests.take(4)}
    assert names <= {vmo.name for vmo in vmos}
    for vmo in vmos:
        pager.supply(vmo, key=KEY)
    for reader in readers:
        pattern.check(reader.result(), KEY)


@pytest.fixture
def stall_mount(mounter: Mounter) -> Mounted:
    return mounter(f"stall={STALL}")


def test_a_worker_that_stalls_loses_its_requests_to_the_other_and_is_tried_with_one_at_a_time(
    stall_mount: Mounted,
) -> None:
    pager = PagerClient(stall_mount.path)
    second = second_worker(pager)
    vmos = [pager.create(f"v{number}") for number in range(2)]
    readers = readers_of(vmos)
    began = time.monotonic()
    (first_got,), (second_got,) = pager.requests.take(1), second.take(1)
    pager.supply(pager.vmo(Path(second_got.path).name), key=KEY)  # the first does nothing
    assert second.next().path == first_got.path
    assert STALL <= time.monotonic() - began <= 2 * STALL + 1
    (line,) = pager.pending()
    assert line.endswith(" deliveries=2 delivered=second")
    assert "stalled" in (stall_mount.path / "control" / "log").read_text()
    # New requests go to the second, but for one that the first is tried with.
    more = [pager.create(f"w{number}") for number in range(4)]
    readers += readers_of(more)
    assert len(pager.requests.take(1)) == 1
    second.take(3)
    assert pager.requests.is_quiet()
    for vmo in (pager.vmo(Path(first_got.path).name), *more):
        pager.supply(vmo, key=KEY)
    for reader in readers:
        pattern.check(reader.result(), KEY)
    second.close()
    pager.close()


def test_a_slow_worker_without_another_is_not_asked_twice(stall_mount: Mounted) -> None:
    pager = PagerClient(stall_mount.path)
    vmo = pager.create()
    (reader,) = readers_of([vmo])
    pager.take_read(vmo, 0)
    time.sleep(3 * STALL)
    assert pager.requests.is_quiet()
    second = second_worker(pager)  # from now on there is another
    assert second.next().path == vmo.name
    pager.supply(vmo, key=KEY)
    pattern.check(reader.result(), KEY)
    second.close()
    pager.close()


_WITHOUT_INOTIFY = """
import errno
from vmofs_mount.pagers import fifo_threads
def refuse():
    raise OSError(errno.EMFILE, "Too many open files")
fifo_threads.CloseWatch = refuse
"""


def test_without_an_inotify_instance_a_mount_works_and_says_what_it_lacks(mounter: Mounter) -> None:
    """There are 128 for each user: for all editors and mounts together."""
    mount = mounter("stall=0.5", code=_WITHOUT_INOTIFY)
    mount.expected_log.append("no inotify instance is left")
    assert "fs.inotify.max_user_instances" in mount.log()
    assert "Traceback" not in mount.log()
    pager = PagerClient(mount.path)
    vmo = pager.create()
    first, second = Requests(pager.control / "requests"), Requests(pager.control / "requests")
    read = Background(vmo.path.read_bytes)
    assert first.next().path == vmo.name
    first.close()  # with a request that it has not answered
    assert second.next().path == vmo.name
    pager.supply(vmo, key=KEY)
    assert read.result() == pattern.make(KEY, 0, PAGE_SIZE)
    second.close()
    wait_for(lambda: pager.stat("fifos_attached") == 0, "the end of the last reader is seen")
    pager.close()
