"""A WRITE that must not hold others up is answered before it is carried out; nothing that it brings is lost."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import Mounted, wait_for
from tests.support.pager_client import PagerClient, Vmo
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PacketCommand

_STORES = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
mapping = mmap.mmap(fd, 0)
for line in sys.stdin:
    word = line.strip()
    if word == "flush":
        try:
            mapping.flush()
            print("ok", flush=True)
        except OSError as error:
            print(error.errno, flush=True)
    elif word == "load":
        print(bytes(mapping[:5]).decode(), flush=True)
    else:
        mapping[:5] = word.encode()
        print("stored", flush=True)
"""


class Storer:
    """A process that stores through a mapping, and writes back what it stored."""

    def __init__(self, vmo: Vmo) -> None:
        command = [sys.executable, "-c", _STORES, str(vmo.path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def is_busy(self) -> bool:
        """Return whether the process sleeps in the kernel, and not for the next word."""
        place = Path(f"/proc/{self.process.pid}/wchan").read_text()
        return place != "0" and "pipe" not in place

    def ask(self, word: str) -> str:
        self.tell(word)
        return self.answer()


@pytest.fixture
def vmo(pager: PagerClient) -> Vmo:
    vmo = pager.create("v", PAGE_SIZE, "trap_dirty")
    pager.supply(vmo, 0, PAGE_SIZE)
    return vmo


@pytest.fixture
def storer(vmo: Vmo) -> Iterator[Storer]:
    storer = Storer(vmo)
    assert storer.ask("store") == "stored"
    yield storer
    storer.process.kill()
    storer.process.communicate()


def rename(vmo: Vmo) -> None:
    """Rename the file, which waits for its lock with the directory locked, and rename it back."""
    other = vmo.path.with_name("other")
    vmo.path.rename(other)
    other.rename(vmo.path)


def content_by_another_name(pager: PagerClient, vmo: Vmo) -> bytes:
    reference = pager.vmo("r")
    with (pager.mount / "control/vmo_create_child").open("w") as commands:
        commands.write(f"reference {vmo.name} {reference.name} 0 0\n")
    content = reference.path.read_bytes()[:5]
    reference.path.unlink()
    return content


def consent(pager: PagerClient, vmo: Vmo) -> None:
    assert pager.command("op_range", f"DIRTY {vmo.name} 0 {PAGE_SIZE}") == "ZX_OK\n"


def test_a_store_that_waits_for_consent_is_not_lost_when_the_file_is_renamed(
    pager: PagerClient, vmo: Vmo, storer: Storer
) -> None:
    storer.tell("flush")
    assert pager.requests.next().command is PacketCommand.DIRTY
    rename(vmo)
    assert storer.answer() == "4"  # EINTR: it is not written back yet
    assert storer.ask("load") == "store"
    assert vmo.path.read_bytes()[:5] == b"store"
    assert content_by_another_name(pager, vmo) != b"store"
    consent(pager, vmo)
    assert storer.ask("flush") == "ok"
    assert content_by_another_name(pager, vmo) == b"store"


def test_the_last_of_several_stores_wins(pager: PagerClient, vmo: Vmo, storer: Storer) -> None:
    for word in ("first", "again"):
        assert storer.ask(word) == "stored"
        storer.tell("flush")
        if word == "first":
            assert pager.requests.next().command is PacketCommand.DIRTY
        wait_for(storer.is_busy, "the store is being written back")
        rename(vmo)
        assert storer.answer() == "4"
        assert vmo.path.read_bytes()[:5] == word.encode()
    consent(pager, vmo)
    assert storer.ask("flush") == "ok"
    assert content_by_another_name(pager, vmo) == b"again"


def test_what_a_killed_process_stored_is_not_lost(pager: PagerClient, vmo: Vmo, storer: Storer) -> None:
    storer.tell("flush")
    assert pager.requests.next().command is PacketCommand.DIRTY
    storer.process.send_signal(signal.SIGKILL)
    storer.process.wait(10)
    consent(pager, vmo)
    wait_for(lambda: content_by_another_name(pager, vmo) == b"store", "it is carried out")
    assert vmo.path.read_bytes()[:5] == b"store"


def test_a_store_that_is_refused_after_all_is_told_once_by_fsync(
    shared_mount: Mounted, pager: PagerClient, vmo: Vmo, storer: Storer
) -> None:
    shared_mount.expected_log.append("what was written to pages .* is lost")
    before = content_by_another_name(pager, vmo)
    storer.tell("flush")
    assert pager.requests.next().command is PacketCommand.DIRTY
    rename(vmo)
    assert storer.answer() == "4"
    assert pager.command("op_range", f"FAIL {vmo.name} 0 {PAGE_SIZE} ZX_ERR_NO_SPACE") == "ZX_OK\n"
    assert storer.ask("flush") == str(errno.ENOSPC)
    assert storer.ask("flush") == "ok"
    wait_for(lambda: vmo.path.read_bytes()[:5] == before, "the pages are as they were")


def test_a_change_of_size_waits_for_what_was_taken(pager: PagerClient) -> None:
    vmo = pager.create("v", PAGE_SIZE, "trap_dirty resizable")
    pager.supply(vmo, 0, PAGE_SIZE)
    storer = Storer(vmo)
    assert storer.ask("store") == "stored"
    storer.tell("flush")
    assert pager.requests.next().command is PacketCommand.DIRTY
    rename(vmo)
    assert storer.answer() == "4"
    truncating = subprocess.Popen(["truncate", "-s", "0", vmo.path])
    with pytest.raises(subprocess.TimeoutExpired):
        truncating.wait(0.2)
    consent(pager, vmo)
    assert truncating.wait(10) == 0
    assert vmo.path.read_bytes() == b""
    storer.process.kill()
    storer.process.communicate()
