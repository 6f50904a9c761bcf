"""FIFOs as ports: who gets which request, what happens to those of a reader that goes, and the end of a pager."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounted import Mounted, wait_for
from tests.support.opening import opened
from tests.support.pager_client import SECONDS, Background, PagerClient, Readers, Requests, Vmo, metric
from tests.support.shell import bash
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PacketCommand
from vmofs.wire.packets import parse_packet

KEY = 13 * pattern.KEY_STEP
MANY = 3000
"""More requests than fit in a pipe of 64 KiB."""


@pytest.fixture(params=[0o600, 0o660], ids=["of root", "shared"], autouse=True)
def rights(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is the same for FIFOs that others than root may open, into which a thread writes."""
    monkeypatch.setattr(PagerClient, "fifo_mode", request.param)


@contextmanager
def reading(path: Path) -> Iterator[Requests]:
    requests = Requests(path)
    try:
        yield requests
    finally:
        requests.close()


def read_first(vmo: Vmo) -> Background[bytes]:
    """Read the first page."""

    def read() -> bytes:
        with opened(vmo.path) as fd:
            return os.pread(fd, PAGE_SIZE, 0)

    return Background(read)


def ask(pager: PagerClient, vmo: Vmo) -> Background[bytes]:
    """Read the first page, and wait until the request is there: so the order of requests is known."""
    before = pager.read_requests
    reader = read_first(vmo)
    wait_for(lambda: pager.read_requests > before, "the request is raised")
    return reader


def answer(pager: PagerClient, vmos: list[Vmo], readers: list[Background[bytes]]) -> None:
    for vmo in vmos:
        pager.supply(vmo, key=KEY)
    for reader in readers:
        pattern.check(reader.result(), KEY)


_READS_SOME = r"""
import os, sys
fifo = open(sys.argv[1], "rb", buffering=0)
lines = b""
while lines.count(b"\n") < int(sys.argv[2]):
    lines += os.read(fifo.fileno(), 20)
print("data", lines.hex(), flush=True)
sys.stdin.read()
"""


def test_the_requests_of_a_killed_pager_go_to_the_next_in_the_order_of_their_first_delivery(
    pager: PagerClient, start: Readers
) -> None:
    vmos = [pager.create(f"v{number}") for number in range(12)]
    readers = [ask(pager, vmo) for vmo in vmos]
    names = [vmo.name for vmo in vmos]
    for _ in range(3):
        victim = start.run(_READS_SOME, pager.control / "requests", 5)
        data = victim.next()
        assert isinstance(data, bytes)
        lines = data.split(b"\n")
        assert [parse_packet(line).path for line in lines[:5]] == names[:5]
        victim.kill()
    with reading(pager.control / "requests") as requests:
        assert [request.path for request in requests.take(12)] == names
        assert requests.is_quiet()
        answer(pager, vmos, readers)
    assert pager.read_requests == 12
    with reading(pager.control / "requests") as requests:
        wait_for(lambda: pager.stat("fifos_attached") == 1, "the FIFO is attached")
        assert requests.is_quiet()


def test_what_was_answered_before_the_pager_was_killed_is_not_sent_again(pager: PagerClient) -> None:
    vmos = [pager.create(f"v{number}") for number in range(6)]
    readers = [ask(pager, vmo) for vmo in vmos]
    assert [request.path for request in pager.requests.take(6)] == [vmo.name for vmo in vmos]
    answer(pager, vmos[::2], readers[::2])
    pager.stop_reading()
    assert [request.path for request in pager.requests.take(3)] == [vmo.name for vmo in vmos[1::2]]
    assert pager.requests.is_quiet()
    answer(pager, vmos[1::2], readers[1::2])


def test_two_readers_of_one_fifo_share_its_lines_and_none_is_lost_when_one_goes(pager: PagerClient) -> None:
    vmos = [pager.create(f"v{number}") for number in range(20)]
    with reading(pager.control / "requests") as first:
        second = Requests(pager.control / "requests")
        readers = [ask(pager, vmo) for vmo in vmos]
        second.take(7)
        second.close()  # with whatever it took from the pipe
        wanted = {vmo.name for vmo in vmos}
        while wanted:
            wanted.discard(first.next().path)
        answer(pager, vmos, readers)


HEAD = r"""
cd "control/$1"
for _ in $(seq "$2"); do
    set -- "$1" "$2" $(head -1 requests)
    printf 'page of %s' "$7" > "../../aux/$1/stage"
    truncate -s "$6" "../../aux/$1/stage"
    echo "$7 $5 $6 aux/$1/stage 0" > supply_pages
    set -- "$1" "$2"
done
"""


def test_a_pager_may_take_one_line_at_a_time_with_head(pager: PagerClient) -> None:
    vmos = [pager.create(f"v{number}") for number in range(5)]
    readers = [ask(pager, vmo) for vmo in vmos]
    done = bash(HEAD, pager.name, "5", cwd=pager.mount)
    assert (done.returncode, done.stderr) == (0, "")
    for vmo, reader in zip(vmos, readers, strict=True):
        assert reader.result().rstrip(b"\0").decode() == f"page of {vmo.name}"
    assert pager.read_requests == 5


def test_a_pager_that_waits_in_open_or_read_gets_the_request_at_once(pager: PagerClient) -> None:
    script = 'read -r line < "control/$1/requests"; echo "$line"'
    for number in range(3):
        vmo = pager.create(f"v{number}")
        waiting = subprocess.Popen(
            ["bash", "-c", script, "bash", pager.name], cwd=pager.mount, stdout=subprocess.PIPE, text=True
        )
        try:
            wait_for(lambda: pager.stat("fifos_attached") == 1, "the shell waits in read")
            reader = ask(pager, vmo)
            out, _ = waiting.communicate(timeout=SECONDS)
            assert parse_packet(out).path == vmo.name
            answer(pager, [vmo], [reader])
        finally:
            waiting.kill()
            waiting.wait()
        wait_for(lambda: pager.stat("fifos_attached") == 0, "nobody reads")


def test_a_pager_may_open_the_fifo_for_reading_and_writing(pager: PagerClient) -> None:
    vmo = pager.create()
    fd = os.open(pager.control / "requests", os.O_RDWR)
    try:
        reader = ask(pager, vmo)
        data = Background(lambda: os.read(fd, 4096)).result()
        assert parse_packet(data).path == vmo.name
        answer(pager, [vmo], [reader])
    finally:
        os.close(fd)
    wait_for(lambda: pager.stat("fifos_attached") == 0, "nobody reads")


def test_requests_wait_when_nobody_has_the_fifo_open(pager: PagerClient) -> None:
    vmos = [pager.create(f"v{number}") for number in range(3)]
    readers = [ask(pager, vmo) for vmo in vmos]
    assert pager.stat("request_lines_total") == 0
    assert [line.split()[-2:] for line in pager.pending()] == [["queued", "no_reader"]] * 3
    assert [request.path for request in pager.requests.take(3)] == [vmo.name for vmo in vmos]
    answer(pager, vmos, readers)


def test_the_log_says_that_nobody_reads_the_requests_once_before_long(pager: PagerClient) -> None:
    log = pager.mount / "control" / "log"

    def said() -> list[str]:
        return [line.partition(" ")[2] for line in log.read_text().splitlines() if f" control/{pager.name}/" in line]

    os.mkfifo(pager.control / "other")
    vmos = [pager.create("v0"), pager.create("v1"), pager.create("v2", options="port=other")]
    pager.close_commands()
    before = said()
    readers = [ask(pager, vmo) for vmo in vmos]
    began = time.monotonic()
    wait_for(lambda: len(said()) == len(before) + 2, "it is said")
    assert 0.9 <= time.monotonic() - began < 5
    assert {*said()[len(before) :]} == {
        f"unserved nobody reads control/{pager.name}/requests, and 3 requests wait",
        f"unserved nobody reads control/{pager.name}/other, and 3 requests wait",
    }
    time.sleep(1.6)
    assert len(said()) == len(before) + 2  # said once
    other = Requests(pager.control / "other")  # carries the packets of the default port too
    taken = {request.path for request in other.take(3)}
    assert taken == {vmo.name for vmo in vmos}
    assert all("no_reader" not in line for line in pager.pending())
    answer(pager, vmos, readers)
    other.close()


def test_thousands_of_requests_wait_for_a_pipe_that_is_full(pager: PagerClient) -> None:
    vmo = pager.create(size=2 * MANY * PAGE_SIZE)
    assert pager.requests.is_quiet()
    wait_for(lambda: pager.stat("fifos_attached") == 1, "the FIFO is attached")
    with opened(vmo.path) as fd:
        readers = [
            Background(lambda page=page: os.pread(fd, PAGE_SIZE, 2 * page * PAGE_SIZE))  # type: ignore[misc]
            for page in range(MANY)
        ]
        wait_for(lambda: pager.read_requests == MANY, "all requests are raised")
        assert 1000 < pager.stat("request_lines_total") < MANY
        requests = pager.requests.take(MANY)
        assert len({request.offset for request in requests}) == MANY
        assert pager.requests.is_quiet()
        pager.supply(vmo, 0, 2 * MANY * PAGE_SIZE, key=KEY)
        for page, reader in enumerate(readers):
            pattern.check(reader.result(), KEY, 2 * page * PAGE_SIZE)


def test_lines_are_whole_however_the_pipe_fills(pager: PagerClient) -> None:
    """Names of 200 bytes: the pipe is full in the middle of where a line would end."""
    vmos = [pager.create("n" * 200 + str(number)) for number in range(400)]
    assert pager.requests.is_quiet()
    readers = [ask(pager, vmo) for vmo in vmos]
    names = {pager.requests.next().path for _ in vmos}
    assert names == {vmo.name for vmo in vmos}
    answer(pager, vmos, readers)


# Other FIFOs


def test_the_requests_of_a_vmo_with_a_port_come_by_that_fifo_only(pager: PagerClient) -> None:
    os.mkfifo(pager.control / "other", pager.fifo_mode)
    special = pager.create("special", options="port=other")
    ordinary = pager.create("ordinary", options="port=requests")
    with reading(pager.control / "other") as other:
        readers = [ask(pager, special), ask(pager, ordinary)]
        names = {other.next().path}
        if not pager.requests.is_quiet():
            names.add(pager.requests.next().path)
        assert special.name in names
        pager.supply(special, key=KEY)
        pattern.check(readers[0].result(), KEY)
    pager.take_read(ordinary, 0)
    answer(pager, [ordinary], readers[1:])
    reader = ask(pager, pager.create("again", options="port=other"))
    assert pager.requests.is_quiet()
    with reading(pager.control / "other") as other:
        assert other.next().path == pager.vmo("again").name
        answer(pager, [pager.vmo("again")], [reader])


def test_a_fifo_that_is_removed_ends_for_its_readers(pager: PagerClient) -> None:
    os.mkfifo(pager.control / "other", pager.fifo_mode)
    with reading(pager.control / "other") as other:
        wait_for(lambda: pager.stat("fifos_attached") == 1, "the FIFO is attached")
        (pager.control / "other").unlink()
        wait_for(other.is_at_end, "the reader sees the end")
    assert pager.refused("create_vmo", f"vmo/{pager.name}/x 4K port=other").errno == errno.ENOENT
    os.mkfifo(pager.control / "other", pager.fifo_mode)
    vmo = pager.create("x", options="port=other")
    reader = ask(pager, vmo)
    with reading(pager.control / "other") as other:
        assert other.next().path == vmo.name
        answer(pager, [vmo], [reader])


def test_what_belongs_to_the_pager_is_not_removed(pager: PagerClient) -> None:
    for name in ("requests", "create_vmo", "pending"):
        with pytest.raises(PermissionError):
            (pager.control / name).unlink()
    with pytest.raises(FileExistsError):
        os.mkfifo(pager.control / "requests")
    with pytest.raises(PermissionError):
        (pager.control / "directory").mkdir()
    with pytest.raises(PermissionError):
        (pager.control / "requests").rename(pager.control / "renamed")


# The end


@pytest.mark.parametrize("kind", ["pread", "sendfile", "direct", "mmap"])
def test_closing_a_pager_ends_the_waiting_and_the_stream_and_leaves_what_is_there(
    pager: PagerClient, start: Readers, kind: str
) -> None:
    vmo = pager.create(size=3 * PAGE_SIZE)
    pager.supply(vmo, key=KEY)
    requests = pager.requests
    waiting = [start(kind, vmo.path, PAGE_SIZE), start(kind, vmo.path, 2 * PAGE_SIZE)]
    requests.take(2)
    pager.close_commands()
    pager.control.rmdir()
    assert [reader.failure() for reader in waiting] == [-signal.SIGBUS if kind == "mmap" else errno.EBADFD] * 2
    wait_for(requests.is_at_end, "the stream ends")
    assert not pager.control.exists()
    data = start(kind, vmo.path, 0).next()
    assert isinstance(data, bytes)
    pattern.check(data, KEY)
    began = time.monotonic()
    assert start(kind, vmo.path, PAGE_SIZE).failure() == (-signal.SIGBUS if kind == "mmap" else errno.EBADFD)
    assert time.monotonic() - began < SECONDS / 2
    assert vmo.xattr("state") == "pager closed"


def test_a_pager_can_be_closed_while_its_files_are_open(pager: PagerClient) -> None:
    vmo = pager.create()
    fd = os.open(pager.control / "op_range", os.O_RDWR)
    blocked = Background(lambda: os.open(pager.control / "requests", os.O_RDONLY))
    try:
        pager.control.rmdir()
        with pytest.raises(OSError, match="Invalid argument"):
            os.write(fd, f"FAIL {vmo.name} 0 4K IO\n".encode())
        successor = PagerClient(pager.mount, "successor")
        assert successor.create().path.exists()
        successor.close()
    finally:
        os.close(fd)
        try:
            os.close(blocked.result())
        except FileNotFoundError:
            sys.stderr.write("the open came too late\n")


def test_a_pager_that_is_closed_while_its_fifo_is_open_leaves_no_node_behind(mount: Mounted) -> None:
    def nodes() -> int:
        return metric((mount.path / "control" / "stats").read_text(), "vmofs_nodes")

    before = nodes()
    control = mount.path / "control" / "p"
    control.mkdir()
    requests = os.open(control / "requests", os.O_RDONLY | os.O_NONBLOCK)
    (control / "pending").read_text()
    control.rmdir()
    assert nodes() > before
    os.close(requests)
    wait_for(lambda: nodes() == before, "the kernel forgets the names")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may open what has no name")
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY], ids=["to read", "to write"])
@pytest.mark.parametrize("name", ["requests", "worker"])
def test_who_opens_a_fifo_that_has_just_gone_does_not_wait_for_ever(mount: Mounted, name: str, flags: int) -> None:
    control = mount.path / "control" / "p"
    control.mkdir()
    os.mkfifo(control / "worker")
    found = os.open(control / name, os.O_PATH)  # as one who was stopped between looking it up and opening it
    if name == "worker":
        (control / name).unlink()
    control.rmdir()
    opening = Background(lambda: os.open(f"/proc/self/fd/{found}", flags))
    fd = opening.result()
    if flags == os.O_RDONLY:
        assert os.read(fd, 1) == b""
    os.close(fd)
    os.close(found)


def test_an_unlinked_vmo_sends_complete_when_its_last_reader_is_gone(pager: PagerClient) -> None:
    vmo = pager.create(size=2 * PAGE_SIZE)
    fd = os.open(vmo.path, os.O_RDONLY)
    vmo.path.unlink()
    reader = Background(lambda: os.pread(fd, PAGE_SIZE, 0))
    request = pager.requests.next()
    assert (request.command, request.path) == (PacketCommand.READ, vmo.name)
    pager.supply(vmo, key=KEY)
    pattern.check(reader.result(), KEY)
    assert pager.requests.is_quiet()
    os.close(fd)
    request = pager.requests.next()
    assert (request.command, request.offset, request.length, request.path) == (PacketCommand.COMPLETE, 0, 0, vmo.name)
    assert pager.requests.is_quiet()
    assert pager.stat("vmos") == 0


def test_a_request_outlives_the_renaming_of_its_vmo(pager: PagerClient) -> None:
    vmo = pager.create("old", size=2 * PAGE_SIZE)
    new = pager.vmo("new name")
    reader = ask(pager, vmo)
    vmo.path.rename(new.path)
    request = pager.requests.next()
    assert request.path == f"vmo/{pager.name}/new name"
    pager.stop_reading()
    new.path.rename(vmo.path)
    pager.take_read(vmo, 0)
    assert (
        pager.refused("supply_pages", f"{new.name} 0 4K {pager.stage(bytes(PAGE_SIZE)).name} 0").errno == errno.ENOENT
    )
    answer(pager, [vmo], [reader])


def test_a_vmo_that_replaces_another_by_rename_has_its_own_requests(pager: PagerClient) -> None:
    old = pager.create("old", options="key=1")
    new = pager.create("new", options="key=2")
    first = ask(pager, old)
    assert pager.requests.next().key == 1
    new.path.rename(old.path)
    second = ask(pager, old)
    assert pager.requests.next().key == 2
    pager.supply(old, key=KEY)
    pattern.check(second.result(), KEY)
    assert not first.done
    pager.close_commands()
    pager.control.rmdir()
    assert first.errno() == errno.EBADFD
