"""What ``df`` says of a mount with limits is what there is; and what finds no room in a file is ENOSPC."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.identity import Actor, Who, reachable_mount
from tests.support.mounted import Mounter
from tests.support.pager_client import PagerClient
from vmofs.units import PAGE_SIZE

MIB = 2**20
LIMIT = 4 * MIB
USER = Who("user", 2001, 2001)


def df(path: Path, *fields: str) -> list[int]:
    """Return what df prints, in bytes."""
    command = ["df", "-B1", f"--output={','.join(fields)}", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [int(word.rstrip("%")) for word in done.stdout.splitlines()[1].split()]


def test_df_shows_the_limit_and_what_is_left_of_it(mounter: Mounter) -> None:
    pager = PagerClient(mounter(f"memory_limit={LIMIT}").path)
    assert df(pager.mount, "size", "used", "avail", "pcent") == [LIMIT, 0, LIMIT, 0]
    aux = pager.stage(b"x" * MIB)
    assert df(pager.mount, "size", "used", "avail", "pcent") == [LIMIT, MIB, LIMIT - MIB, 25]
    aux.path.unlink()
    assert df(pager.mount, "used", "avail") == [0, LIMIT]
    pager.close()


def test_what_may_be_evicted_is_free_and_what_may_not_is_used(mounter: Mounter) -> None:
    pager = PagerClient(mounter(f"memory_limit={LIMIT}").path)
    clean, kept = pager.create("clean", MIB), pager.create("kept", MIB, "noevict")
    for vmo in (clean, kept):
        pager.supply(vmo, 0, MIB)
    assert df(pager.mount, "used", "avail") == [MIB, LIMIT - MIB]
    with clean.path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"dirty" * PAGE_SIZE, 0)
    used = MIB + 5 * PAGE_SIZE
    assert df(pager.mount, "used", "avail") == [used, LIMIT - used]
    with (pager.mount / "control/vmo_pin").open("r+b", buffering=0) as pin:
        pin.write(f"{clean.name} {MIB // 2} {PAGE_SIZE}\n".encode())
        used += PAGE_SIZE
        assert df(pager.mount, "used", "avail") == [used, LIMIT - used]
    left = LIMIT - used + PAGE_SIZE
    pager.stage(b"y" * left)  # there is no more and no less than it said
    with pytest.raises(OSError, match="No space") as caught:
        pager.stage(b"z")
    assert caught.value.errno == errno.ENOSPC
    assert df(pager.mount, "avail", "pcent") == [0, 100]
    pager.close()


def test_files_that_may_be_made_are_free_inodes(mounter: Mounter) -> None:
    mount = mounter()
    (used, free, percent) = df(mount.path, "iused", "iavail", "ipcent")
    assert used > 10
    assert free > 100_000
    assert percent <= 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others")
def test_a_user_sees_what_is_left_of_the_own_limits() -> None:
    with reachable_mount(f"memory_limit={LIMIT},user_memory={MIB},user_nodes=20") as mounted:
        user = Actor(USER)
        try:
            user((mounted.path / "aux" / "mine").write_bytes, bytes(MIB // 4))
            seen = user(os.statvfs, mounted.path)
            assert (seen.f_blocks * PAGE_SIZE, seen.f_bavail * PAGE_SIZE) == (MIB, MIB - MIB // 4)
            assert (seen.f_files, seen.f_ffree) == (20, 19)
            assert user.errno((mounted.path / "aux" / "more").write_bytes, bytes(MIB)) == "ENOSPC"
            assert df(mounted.path, "size") == [LIMIT]
        finally:
            user.close()
            for file in (mounted.path / "aux").iterdir():
                file.unlink()


def test_a_command_without_memory_says_so(mounter: Mounter) -> None:
    """Files of a full mount are ENOSPC; a command is Zircon's call, whose status is NO_MEMORY."""
    pager = PagerClient(mounter(f"memory_limit={MIB}").path)
    pager.stage(b"x" * MIB)
    vmo = pager.create()
    supply = pager.control / "supply" / "vmo" / pager.name / "v"
    with supply.open("wb", buffering=0) as file, pytest.raises(OSError, match="memory") as caught:
        file.write(b"y" * PAGE_SIZE)
    assert caught.value.errno == errno.ENOMEM
    assert vmo.xattr("clean_pages") == "0"
    pager.close()
