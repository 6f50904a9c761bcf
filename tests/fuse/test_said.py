"""What a pager says of its files, and why a request failed."""

from __future__ import annotations

import errno
import os
import select

import pytest

from tests.support.identity import Actor, reachable_mount
from tests.support.mounted import Mounted
from tests.support.pager_client import PagerClient, Readers
from tests.support.two_users import HOSTILE
from vmofs.units import PAGE_SIZE

P = PAGE_SIZE


def failed_read(pager: PagerClient, readers: Readers, reason: str = "") -> int:
    """Have a read of a VMO fail."""
    vmo = pager.vmo("v")
    reader = readers("pread", vmo.path, P)
    pager.take_read(vmo, P)
    pager.command("op_range", f"FAIL {vmo.name} {P} {P} ZX_ERR_IO_DATA_INTEGRITY {reason}")
    return reader.failure()


def test_a_file_tells_how_often_requests_failed_and_why_the_last_did(pager: PagerClient, readers: Readers) -> None:
    vmo = pager.create("v", 4 * P)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        vmo.xattr("last_error")
    assert caught.value.errno == errno.ENODATA
    assert failed_read(pager, readers) == errno.EBADMSG
    assert vmo.xattr("last_error") == "1 ZX_ERR_IO_DATA_INTEGRITY 4096 4096"
    assert failed_read(pager, readers, r"reason=503\040from\011the\040server") == errno.EBADMSG
    assert vmo.xattr("last_error") == r"2 ZX_ERR_IO_DATA_INTEGRITY 4096 4096 503 from\011the server"


def test_the_log_has_the_reason_and_pending_has_it_of_what_is_asked_for_again(
    pager: PagerClient, shared_mount: Mounted, readers: Readers
) -> None:
    vmo = pager.create("v", 4 * P)
    failed_read(pager, readers, r"reason=503\040from\040the\040server")
    log = (shared_mount.path / "control" / "log").read_text()
    assert f"FAIL {vmo.name} {P} {P} ZX_ERR_IO_DATA_INTEGRITY reason=503\\040from\\040the\\040server -> ZX_OK" in log
    readers("pread", vmo.path, 2 * P)
    pager.take_read(vmo, 2 * P)
    [line] = pager.pending()
    assert line.endswith(r" delivered=requests failed=1 reason=503\040from\040the\040server")


def test_a_command_that_waited_in_vain_tells_the_reason(pager: PagerClient) -> None:
    vmo = pager.create("v", 4 * P)
    with (pager.mount / "control" / "vmo_op_range").open("r+b", buffering=0) as commands:
        commands.write(f"prefetch {vmo.name} 0 {P}\n".encode())
        pager.take_read(vmo, 0)
        pager.command("op_range", f"FAIL {vmo.name} 0 {P} ZX_ERR_IO reason=gone")
        assert select.select([commands], [], [], 10)[0]
        assert commands.read(1000).rstrip().endswith(b": gone")


def test_source_and_version_are_said_when_a_file_is_made_or_later(pager: PagerClient) -> None:
    vmo = pager.create("v", P, r"source=https://x/a\040b version=3")
    assert (vmo.xattr("source"), vmo.xattr("version")) == ("https://x/a b", "3")
    os.setxattr(vmo.path, "user.vmofs.version", b"4")
    assert vmo.xattr("version") == "4"
    os.removexattr(vmo.path, "user.vmofs.source")
    with pytest.raises(OSError, match="No data"):
        vmo.xattr("source")
    for name in ("user.vmofs.key", "user.vmofs.last_error", "user.vmofs.other"):
        with pytest.raises(PermissionError):
            os.setxattr(vmo.path, name, b"x")
    aux = pager.stage(b"x")
    with pytest.raises(PermissionError):
        os.setxattr(aux.path, "user.vmofs.source", b"x")


def test_others_who_may_write_to_a_file_do_not_say_where_it_comes_from(hostile: Actor) -> None:
    with reachable_mount() as mount:
        client = PagerClient(mount.path)
        vmo = client.create("v", P)
        vmo.path.chmod(0o666)
        with pytest.raises(PermissionError):
            hostile(os.setxattr, str(vmo.path), "user.vmofs.source", b"elsewhere")
        os.chown(vmo.path, HOSTILE.uid, HOSTILE.gid)
        hostile(os.setxattr, str(vmo.path), "user.vmofs.source", b"here")
        assert vmo.xattr("source") == "here"
        os.chown(vmo.path, 0, 0)
        with pytest.raises(PermissionError):
            hostile(os.removexattr, str(vmo.path), "user.vmofs.source")
        client.close()


def test_what_is_said_of_a_file_is_paid_for_by_who_says_it(pager: PagerClient, shared_mount: Mounted) -> None:
    vmo = pager.create("v", P)
    before = shared_mount.user_counter("xattr_bytes", 0)
    os.setxattr(vmo.path, "user.vmofs.source", 1000 * b"x")
    assert shared_mount.user_counter("xattr_bytes", 0) >= before + 1000
    vmo.path.unlink()
    assert shared_mount.user_counter("xattr_bytes", 0) == before
