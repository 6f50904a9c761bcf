"""A pager that waits for itself is told so at once; everybody who does not is left waiting."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import Mounted, wait_for
from tests.support.pager_client import PagerClient, ReaderProcess, Readers, Requests, Vmo
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE
from vmofs_mount.linux.procfs import can_see_everybody

pytestmark = pytest.mark.skipif(not can_see_everybody(), reason="needs root, and to see all processes")

KEY = 17 * pattern.KEY_STEP
AT_ONCE = 4.0  # on a machine that does other things too; the deadline is 300 s
PATIENCE = 1.5

_SETUP = r"""
import mmap, os, sys, threading
vmo, *files = sys.argv[1:]
held = [os.open(file, os.O_RDONLY | os.O_NONBLOCK if file.endswith("requests") else os.O_RDWR) for file in files]
fd = os.open(vmo, os.O_RDONLY)
def read():
    try:
        print("data", os.pread(fd, 4096, 0).hex(), flush=True)
    except OSError as error:
        print("errno", error.errno, flush=True)
"""
PREAD = _SETUP + "read()"
MMAP = _SETUP + "mmap.mmap(fd, 0, prot=mmap.PROT_READ)[0]"
SENDFILE = _SETUP + (
    "try: os.sendfile(os.pipe()[1], fd, 0, 4096)\nexcept OSError as error: print('errno', error.errno, flush=True)"
)
WRITE = _SETUP + (
    "mapping, out = mmap.mmap(fd, 0, prot=mmap.PROT_READ), os.pipe()[1]\n"
    "try: os.write(out, memoryview(mapping)[:100])\nexcept OSError as error: print('errno', error.errno, flush=True)"
)
THREAD = _SETUP + "thread = threading.Thread(target=read); thread.start(); thread.join()"
CHILD_READS = _SETUP + "os.fork() or (read(), os._exit(0))\nsys.stdin.read()"

_OPENS_IN_CHILD = _SETUP.replace("fd = os.open(vmo, os.O_RDONLY)\n", "")
SHELL = r"""
import os, subprocess, sys
loop = 'while read -r line; do cat "$1" > /dev/null || echo failed; done < "$2"'
subprocess.run(["sh", "-c", loop, "sh", *sys.argv[1:]])
"""


@pytest.fixture
def client(mount: Mounted) -> Iterator[PagerClient]:
    client = PagerClient(mount.path)
    yield client
    client.close()


@pytest.fixture
def start(client: PagerClient, readers: Readers) -> Readers:
    del client
    return readers


def still_waits(client: PagerClient, reader: ReaderProcess, vmo: Vmo) -> None:
    """Check that a reader goes on waiting, and then gets the page."""
    wait_for(lambda: client.stat("requests_outstanding") == 1, "it waits")
    time.sleep(PATIENCE)
    assert client.stat("requests_outstanding") == 1
    client.supply(vmo, key=KEY)
    data = reader.next()
    assert isinstance(data, bytes)
    pattern.check(data, KEY)


def first_line(process: ReaderProcess) -> bytes:
    """Return what a process prints first."""
    assert process.process.stdout is not None
    ready, _, _ = select.select([process.process.stdout], [], [], 10)
    return process.process.stdout.readline() if ready else b""


def let_go(client: PagerClient) -> None:
    """Have nothing of the pager open in this process."""
    client.stop_reading()
    for fd in client._commands.values():
        os.close(fd)
    client._commands.clear()


def log_of(client: PagerClient) -> str:
    return (client.mount / "control" / "log").read_text()


@pytest.mark.parametrize("script", [PREAD, SENDFILE])
def test_a_pager_that_reads_its_own_vmo_is_told_at_once(client: PagerClient, start: Readers, script: str) -> None:
    vmo = client.create()
    let_go(client)
    reader = start.run(script, vmo.path, client.control / "requests")
    began = time.monotonic()
    assert reader.failure() == errno.EDEADLK
    assert time.monotonic() - began < AT_ONCE
    assert f"process {reader.process.pid} serves the pages [0,1) that it waits for" in log_of(client)
    assert reader.process.wait(5) == 0


def test_a_page_fault_of_the_pager_itself_is_sigbus(client: PagerClient, start: Readers) -> None:
    vmo = client.create()
    let_go(client)
    assert start.run(MMAP, vmo.path, client.control / "requests").failure() == -signal.SIGBUS


def test_a_pager_that_writes_out_of_a_mapping_of_its_own_vmo_is_told_at_once(
    client: PagerClient, start: Readers
) -> None:
    vmo = client.create()
    let_go(client)
    assert start.run(WRITE, vmo.path, client.control / "requests").failure() == errno.EFAULT


def test_the_next_read_after_a_deadlock_asks_anew(client: PagerClient, start: Readers) -> None:
    vmo = client.create()
    let_go(client)
    assert start.run(PREAD, vmo.path, client.control / "requests").failure() == errno.EDEADLK
    still_waits(client, start("pread", vmo.path, 0), vmo)


def test_a_shell_pager_whose_command_reads_its_own_vmo_is_told_at_once(client: PagerClient, start: Readers) -> None:
    vmo, other = client.create(), client.create("other")
    let_go(client)
    shell = start.run(SHELL, vmo.path, client.control / "requests")
    waiting = start("pread", other.path, 0)  # wakes the shell
    assert first_line(shell) == b"failed\n"
    assert "deadlock" in log_of(client)
    client.supply(other, key=KEY)
    assert isinstance(waiting.next(), bytes)


def test_a_parent_that_waits_for_a_child_that_opened_the_vmo_is_stuck(client: PagerClient, start: Readers) -> None:
    vmo = client.create()
    let_go(client)
    script = _OPENS_IN_CHILD + "if os.fork() == 0:\n    fd = os.open(vmo, 0); read(); os._exit(0)\nos.wait()"
    assert start.run(script, vmo.path, client.control / "requests").failure() == errno.EDEADLK


def test_a_reader_who_only_reads_waits(client: PagerClient, start: Readers) -> None:
    vmo = client.create()
    assert client.requests.is_quiet()
    still_waits(client, start("pread", vmo.path, 0), vmo)


def test_a_pager_that_reads_the_vmo_of_another_pager_waits(client: PagerClient, start: Readers) -> None:
    other = PagerClient(client.mount, "another")
    assert other.requests.is_quiet()
    vmo = other.create()
    still_waits(other, start.run(PREAD, vmo.path, client.control / "requests"), vmo)
    other.close()


def test_a_pager_waits_if_another_process_has_the_fifo_open(client: PagerClient, start: Readers) -> None:
    vmo = client.create()
    requests = Requests(client.control / "requests")
    still_waits(client, start.run(PREAD, vmo.path, client.control / "requests"), vmo)
    requests.close()


@pytest.mark.parametrize("file", ["supply_pages", "op_range", "second"])
def test_a_pager_waits_if_another_process_has_any_of_its_files_open(
    client: PagerClient, start: Readers, file: str
) -> None:
    vmo = client.create()
    os.mkfifo(client.control / "second", 0o600)
    let_go(client)
    held = os.open(client.control / file, os.O_RDONLY | os.O_NONBLOCK)
    reader = start.run(PREAD, vmo.path, client.control / "requests")
    still_waits(client, reader, vmo)
    os.close(held)


def test_a_pager_waits_if_another_process_supplies_straight(client: PagerClient, start: Readers) -> None:
    vmo = client.create()
    let_go(client)
    supply = os.open(client.control / "supply" / vmo.name, os.O_WRONLY)
    reader = start.run(PREAD, vmo.path, client.control / "requests")
    wait_for(lambda: client.stat("requests_outstanding") == 1, "it waits")
    time.sleep(PATIENCE)
    os.pwrite(supply, pattern.make(KEY, 0, PAGE_SIZE), 0)
    data = reader.next()
    assert isinstance(data, bytes)
    os.close(supply)


@pytest.mark.parametrize("script", [THREAD, CHILD_READS])
def test_a_pager_that_can_go_on_meanwhile_waits(
    client: PagerClient, start: Readers, script: str, tmp_path: Path
) -> None:
    vmo = client.create()
    let_go(client)
    fifo = tmp_path / "never"
    os.mkfifo(fifo)
    script = script.replace("sys.stdin.read()", f"open({str(fifo)!r})")
    still_waits(client, start.run(script, vmo.path, client.control / "requests"), vmo)
