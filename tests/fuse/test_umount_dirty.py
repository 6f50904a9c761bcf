"""``vmofs umount`` loses nothing in silence: it has written back what is dirty, or refuses and says what that is."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from contextlib import suppress

from tests.support.mounted import Mounted, vmofs_command, vmofs_environment, wait_for
from tests.support.pager_client import Background, PagerClient, Vmo
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PacketCommand

SECONDS = 20.0


def umount(mount: Mounted, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        vmofs_command("umount", *options, mount.path),
        env=vmofs_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


def dirty_vmo(pager: PagerClient, name: str, pages: int, options: str = "writeback") -> Vmo:
    """Make a VMO all of whose pages are dirty."""
    vmo = pager.create(name, pages * PAGE_SIZE, options)
    pager.supply(vmo, 0, pages * PAGE_SIZE)
    with vmo.path.open("r+b", buffering=0) as file:
        assert file.write(os.urandom(pages * PAGE_SIZE)) == pages * PAGE_SIZE
    return vmo


def attach(pager: PagerClient) -> None:
    assert pager.requests.is_quiet()
    wait_for(lambda: pager.stat("fifos_attached") == 1, "it is served")


def write_back(pager: PagerClient, vmo: Vmo, offset: int, length: int) -> None:
    for op in ("WRITEBACK_BEGIN", "WRITEBACK_END"):
        assert pager.command("op_range", f"{op} {vmo.name} {offset} {length}").startswith("ZX_OK")


def answer_until_clean(pager: PagerClient, vmo: Vmo) -> None:
    """Write back what is asked for, the size too, page by page, then go: a FIFO that is read keeps a mount busy."""
    request = pager.requests.next()
    assert request.command is PacketCommand.WRITEBACK
    for offset in range(request.offset, request.offset + request.length, PAGE_SIZE):
        write_back(pager, vmo, offset, PAGE_SIZE)
        time.sleep(0.3)
    pager.stop_reading()
    pager.close_commands()


def test_umount_asks_for_what_is_dirty_and_waits_for_it(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    vmo = dirty_vmo(pager, "file", 3)
    attach(pager)
    pagers_work = Background(lambda: answer_until_clean(pager, vmo))
    done = umount(mount)
    pagers_work.result()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert mount.process.wait(SECONDS) == 0
    assert "nothing was dirty" in mount.log()


def test_umount_waits_for_a_pager_that_writes_back_unasked(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    vmo = dirty_vmo(pager, "file", 4, options="")
    attach(pager)

    def write_all_back() -> None:
        for page in range(4):
            time.sleep(0.3)
            write_back(pager, vmo, page * PAGE_SIZE, PAGE_SIZE)
        pager.stop_reading()
        pager.close_commands()

    pagers_work = Background(write_all_back)
    done = umount(mount)
    pagers_work.result()
    assert (done.returncode, done.stderr) == (0, "")


def test_umount_refuses_at_once_where_nobody_writes_back_and_names_what_is_dirty(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    for number in range(7):
        dirty_vmo(pager, f"f{number}", number + 1)
    pager.close_commands()
    began = time.monotonic()
    done = umount(mount)
    assert time.monotonic() - began < 3
    assert done.returncode == 1
    assert mount.is_mounted()
    assert done.stderr.startswith(f"vmofs: {mount.path} was not unmounted, since pages are dirty: ")
    assert sum(f"vmo/{pager.name}/f{number} ({number + 1})" in done.stderr for number in range(7)) == 5
    assert "2 more files" in done.stderr
    assert f"nobody reads the requests of pager {pager.name}" in done.stderr
    assert done.stderr.count("\n") == 1
    done = umount(mount, "--discard")
    said = "28 dirty pages of 7 VMOs were not written back by their pagers and are gone"
    assert (done.returncode, done.stderr) == (0, f"vmofs: {said}\n")
    assert mount.process.wait(SECONDS) == 0


def test_umount_refuses_when_a_pager_does_nothing_for_a_while(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    dirty_vmo(pager, "file", 1, options="")
    attach(pager)
    done = umount(mount)
    assert (done.returncode, "no page was written back for 5 s" in done.stderr) == (1, True), done.stderr
    assert f"vmo/{pager.name}/file (1)" in done.stderr
    pager.close()


def test_umount_refuses_with_the_error_of_a_pager_that_cannot_write_back(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    vmo = dirty_vmo(pager, "file", 1)
    attach(pager)
    refusal = Background(pager.requests.next)
    command = Background(lambda: umount(mount))
    refusal.result()
    pager.fail(vmo, 0, PAGE_SIZE, "ZX_ERR_NO_SPACE")
    done = command.result()
    assert done.returncode == 1
    assert f"fsync of vmo/{pager.name}/file: No space left on device" in done.stderr
    assert vmo.xattr("dirty_pages") == "1"
    pager.close()


def test_a_pager_that_dies_meanwhile_is_not_waited_for(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    dirty_vmo(pager, "file", 1)
    attach(pager)
    command = Background(lambda: umount(mount))
    assert pager.requests.next().command is PacketCommand.WRITEBACK
    pager.stop_reading()
    done = command.result()
    assert (done.returncode, "nobody reads the requests" in done.stderr) == (1, True), done.stderr
    pager.close()


def test_a_pager_that_is_done_may_go_before_others_are(mount: Mounted) -> None:
    quick, slow = PagerClient(mount.path), PagerClient(mount.path)
    vmos = [dirty_vmo(pager, "file", 1, options="") for pager in (quick, slow)]
    for pager in (quick, slow):
        attach(pager)
    command = Background(lambda: umount(mount))
    time.sleep(1)
    for pager, vmo in zip((quick, slow), vmos, strict=True):
        write_back(pager, vmo, 0, PAGE_SIZE)
        pager.stop_reading()
        pager.close_commands()
        time.sleep(1)
    done = command.result()
    assert (done.returncode, done.stderr) == (0, "")


def test_what_has_lost_its_name_is_dirty_too(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    vmo = dirty_vmo(pager, "gone", 2)
    with (mount.path / "control/vmo_create_child").open("w") as commands:
        commands.write(f"reference {vmo.name} {pager.vmo('child').name} 0 0\n")
    vmo.path.unlink()
    attach(pager)
    done = umount(mount)
    assert done.returncode == 1
    assert "what has no name any more, or cannot be seen (2)" in done.stderr
    pager.close()


def test_the_progress_is_shown_on_a_terminal_and_ctrl_c_ends_the_wait(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    dirty_vmo(pager, "file", 3)
    attach(pager)
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        vmofs_command("umount", mount.path), env=vmofs_environment(), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b""
    deadline = time.monotonic() + SECONDS
    while b"3 dirty pages" not in said and time.monotonic() < deadline:
        said += os.read(ours, 1000)
    command.send_signal(signal.SIGINT)
    assert command.wait(SECONDS) == 130
    with suppress(OSError):  # EIO: the end
        while data := os.read(ours, 1000):
            said += data
    os.close(ours)
    assert said.startswith(b"\r\x1b[Kwaiting until pagers have written 3 dirty pages back")
    assert said.endswith(b"\r\x1b[K")
    assert mount.is_mounted()
    pager.close()


def test_a_busy_mount_names_who_holds_it(mount: Mounted) -> None:
    with (mount.path / "aux" / "file").open("wb") as file:
        done = umount(mount)
        descriptor = file.fileno()
    assert done.returncode == 1
    assert f"{mount.path} is busy: it is held by process {os.getpid()} (" in done.stderr
    assert f"by descriptor {descriptor}\n" in done.stderr
