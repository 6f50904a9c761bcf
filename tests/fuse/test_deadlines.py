"""Requests that nobody answers in time, answers that come too late, and unmounting while requests are outstanding."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import time

import pytest

from tests.support.mounted import Mounted, Mounter, vmofs_command, vmofs_environment, wait_for
from tests.support.pager_client import Background, PagerClient, Readers, Vmo
from tests.support.writing import fails_with
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PacketCommand

KEY = 17 * pattern.KEY_STEP


def lines_about(mount: Mounted, kind: str) -> list[str]:
    """Return the lines of the log of one kind."""
    return re.findall(rf"^\S+ {kind} (.*)$", (mount.path / "control" / "log").read_text(), re.MULTILINE)


def time_out(pager: PagerClient, seconds: str = "0.3") -> Vmo:
    """Make a VMO a read of which has timed out."""
    (pager.control / "deadline").write_text(seconds)
    vmo = pager.create()
    with pytest.raises(TimeoutError):
        vmo.path.read_bytes()
    return vmo


def test_a_request_older_than_warn_is_noted_once_to_ten_percent(mounter: Mounter) -> None:
    mount = mounter("warn=1,deadline=3")
    pager = PagerClient(mount.path)
    vmo = pager.create()
    with pytest.raises(TimeoutError):
        vmo.path.read_bytes()
    for kind, least in (("slow", 1), ("expired", 3)):
        (said,) = lines_about(mount, kind)
        age = float(said.partition(" after ")[2].partition(" s")[0])
        assert said.startswith("READ ")
        assert least <= age <= least * 1.1 + 0.25, said
    pager.close()


def test_no_pager_gives_itself_longer_than_the_mount_allows(mounter: Mounter) -> None:
    pager = PagerClient(mounter("max_deadline=2.5").path)
    file = pager.control / "deadline"
    for seconds in ("2.6", "0"):
        with pytest.raises(OSError, match="Numerical result out of range"):
            file.write_text(seconds)
    assert file.read_text() == "2.5\n"
    file.write_text("2")
    assert file.read_text() == "2\n"
    pager.close()


def test_a_supply_that_comes_after_the_deadline_is_kept_for_the_next_reader(pager: PagerClient) -> None:
    vmo = time_out(pager)
    pager.supply(vmo, key=KEY)
    pattern.check(vmo.path.read_bytes(), KEY)
    assert pager.read_requests == 1
    assert pager.pending() == []


def test_a_failure_that_comes_after_the_deadline_is_told_to_nobody(pager: PagerClient) -> None:
    vmo = time_out(pager)
    pager.fail(vmo, 0, PAGE_SIZE)
    time.sleep(0.3)  # the time-out is told for that long, also to those who come later
    fd = os.open(vmo.path, os.O_RDONLY)
    assert fails_with(lambda: os.pread(fd, PAGE_SIZE, 0)) == errno.ETIMEDOUT  # its own
    assert pager.read_requests == 2
    os.close(fd)


_STORE_INTO_A_MAPPING = r"""
import mmap, os, sys
mapping = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 0)
mapping[0] = 1
print("data", flush=True)
sys.stdin.read()
"""


def test_a_close_that_waits_for_the_store_of_another_ends_with_the_deadline(pager: PagerClient, start: Readers) -> None:
    vmo = pager.create(options="trap_dirty")
    pager.supply(vmo)
    (pager.control / "deadline").write_text("0.5")
    storing = start.run(_STORE_INTO_A_MAPPING, vmo.path)
    assert storing.next() == b""
    writing = os.open(vmo.path, os.O_WRONLY)
    closing = Background(lambda: os.close(writing))
    assert pager.requests.next().command is PacketCommand.DIRTY
    assert not closing.done
    began = time.monotonic()
    try:
        closing.result()
    except OSError as error:  # that the store was not written may be told to whoever closes
        assert error.errno == errno.EIO  # noqa: PT017
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("way", ["vmofs umount", "fusermount3 -u", "umount"])
def test_unmounting_does_not_wait_for_the_request_of_a_killed_reader(mount: Mounted, start: Readers, way: str) -> None:
    pager = PagerClient(mount.path)
    vmo = pager.create()
    reader = start("pread", vmo.path, 0)
    wait_for(lambda: len(pager.pending()) == 1, "the reader waits")
    reader.kill()
    assert len(pager.pending()) == 1
    pager.close_commands()
    if way == "umount" and os.geteuid() != 0:
        pytest.skip("only root unmounts so")
    command = vmofs_command("umount") if way == "vmofs umount" else way.split()
    began = time.monotonic()
    subprocess.run([*command, str(mount.path)], env=vmofs_environment(), check=True, timeout=20)
    assert mount.process.wait(10) == 0
    assert time.monotonic() - began < 5
    assert not mount.is_mounted()
