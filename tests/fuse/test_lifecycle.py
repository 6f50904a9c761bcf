"""Mounting and unmounting with the ``vmofs`` command, and all the ways in which a daemon ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.mounted import END_SECONDS, Mounted, Mounter, vmofs_command, vmofs_environment, wait_for
from tests.support.pager_client import Background, PagerClient, ReaderProcess
from vmofs import __version__
from vmofs.units import PAGE_SIZE
from vmofs_mount.front import unmounting
from vmofs_mount.linux import knobs
from vmofs_mount.linux.procfs import process_state
from vmofs_mount.observe.dirty import Dirty

ENDED = {errno.EBADFD, errno.ECONNABORTED, errno.ENOTCONN}
"""What who waits is told when the mount ends."""


def vmofs(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        vmofs_command(*arguments), env=vmofs_environment(), capture_output=True, text=True, timeout=30, check=False
    )


def test_mount_returns_when_the_mount_answers_and_umount_when_the_daemon_is_gone(place: Path) -> None:
    done = vmofs("mount", place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (place / "control" / "version").read_text().startswith("vmofs ")
    daemon = int(os.getxattr(place, "user.vmofs.pid"))
    done = vmofs("umount", place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not _runs(daemon)
    assert list(place.iterdir()) == []


def test_the_daemon_leaves_the_terminal_and_the_directory(place: Path) -> None:
    assert vmofs("mount", place).returncode == 0
    daemon = os.getxattr(place, "user.vmofs.pid").decode()
    assert Path(f"/proc/{daemon}/cwd").readlink() == Path("/")
    assert {Path(f"/proc/{daemon}/fd/{fd}").readlink() for fd in range(3)} == {Path("/dev/null")}
    assert os.getsid(int(daemon)) == int(daemon)
    assert vmofs("umount", place).returncode == 0


def test_the_log_option_names_a_file(place: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert vmofs("mount", "-o", f"log={log}", place).returncode == 0
    os.kill(int(os.getxattr(place, "user.vmofs.pid")), signal.SIGTERM)
    wait_for(lambda: "SIGTERM" in log.read_text(encoding="utf-8"), "the signal is logged")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts(mount: Mounted, number: signal.Signals) -> None:
    mount.process.send_signal(number)
    assert mount.process.wait(10) == 0
    assert not mount.is_mounted()


def test_a_signal_unmounts_while_files_are_open(mount: Mounted) -> None:
    fd = os.open(mount.path / "aux" / "file", os.O_WRONLY | os.O_CREAT)
    try:
        mount.process.send_signal(signal.SIGTERM)
        assert mount.process.wait(10) == 0
        assert not mount.is_mounted()
        with pytest.raises(OSError, match=r"not connected|abort"):
            os.write(fd, b"x")
    finally:
        with suppress(OSError):
            os.close(fd)


def test_a_busy_mount_says_so(mount: Mounted) -> None:
    with (mount.path / "aux" / "file").open("wb"):
        done = vmofs("umount", mount.path)
    assert done.returncode == 1
    assert "busy" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("is_dirty", [False, True], ids=["clean", "dirty"])
def test_umount_ends_the_waits_of_readers_at_once_and_tells_what_was_dirty(mount: Mounted, *, is_dirty: bool) -> None:
    pager = PagerClient(mount.path)
    vmo = pager.create(size=4 * PAGE_SIZE)
    if is_dirty:
        pager.supply(vmo, 0, 2 * PAGE_SIZE)
        with vmo.path.open("r+b", buffering=0) as file:
            file.write(bytes(2 * PAGE_SIZE))
    readers = [ReaderProcess.reading(way, vmo.path, 3 * PAGE_SIZE) for way in ("pread", "mmap")]
    try:
        wait_for(lambda: all(reader.is_waiting() for reader in readers), "both wait")
        pager.close_commands()
        began = time.monotonic()
        done = vmofs("umount", "--discard", mount.path)
        assert done.returncode == 0
        told = "vmofs: 2 dirty pages of 1 VMOs were not written back by their pagers and are gone\n" if is_dirty else ""
        assert (done.stdout, done.stderr) == ("", told)
        assert not mount.is_mounted()
        assert not _runs(mount.pid)
        # The kernel asks once more before it tells a reader, and may then find that the mount has gone.
        assert readers[0].failure() in ENDED
        assert readers[1].failure() == -signal.SIGBUS
        assert time.monotonic() - began < END_SECONDS / 2
    finally:
        for reader in readers:
            reader.close()


def test_umount_ends_the_wait_of_an_fsync(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    vmo = pager.create(options="writeback")
    pager.supply(vmo)
    pager.close_commands()
    with vmo.path.open("r+b", buffering=0) as file:
        file.write(bytes(PAGE_SIZE))
        sync = Background(lambda: os.fsync(file.fileno()))
        wait_for(lambda: pager.pending() != [], "it waits")
        assert "1 dirty pages of 1 VMOs" in vmofs("umount", "--discard", mount.path).stderr
        assert sync.errno() in ENDED
    assert not mount.is_mounted()


def test_umount_of_a_mount_whose_daemon_ends_meanwhile(mount: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen(["true"])
    process = os.pidfd_open(ended.pid)
    ended.wait()
    with monkeypatch.context() as patched:
        patched.setattr(os, "getxattr", lambda *_: str(ended.pid).encode())
        patched.setattr(os, "pidfd_open", lambda _: process)
        assert unmounting.unmount(str(mount.path)) == Dirty(0, 0)
    assert mount.process.wait(10) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(process)


def test_a_pager_that_waits_for_requests_keeps_a_mount_busy(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    assert pager.requests.is_quiet()
    wait_for(lambda: pager.stat("fifos_attached") == 1, "it is served")
    done = vmofs("umount", mount.path)
    assert done.returncode == 1
    assert "busy" in done.stderr
    pager.close()


def test_who_did_not_mount_is_told_that_he_may_not_unmount(mount: Mounted) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be others")
    code = (
        "import os, sys; from vmofs_mount.cli.main import main; os.setresuid(1001, 1001, 1001); "
        "sys.exit(main(['umount', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, mount.path], env=vmofs_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        1,
        f"vmofs: {mount.path} was mounted by uid 0: only he and root may unmount it\n",
    )
    assert mount.is_mounted()


def test_looking_at_fifos_does_not_keep_a_mount_from_being_unmounted(place: Path) -> None:
    for _ in range(5):  # each lookup of a FIFO makes the daemon look whether somebody reads it
        assert vmofs("mount", place).returncode == 0
        (place / "control" / "p").mkdir()
        assert (place / "control" / "p" / "requests").is_fifo()
        done = vmofs("umount", place)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_stale_mount_is_replaced(place: Path) -> None:
    assert vmofs("mount", place).returncode == 0
    os.kill(int(os.getxattr(place, "user.vmofs.pid")), signal.SIGKILL)
    wait_for(lambda: not _answers(place), "the mount is stale")
    assert vmofs("mount", place).returncode == 0
    assert (place / "control" / "version").exists()
    assert vmofs("umount", place).returncode == 0
    assert str(place) not in Path("/proc/mounts").read_text(encoding="utf-8")


def test_umount_takes_a_stale_mount_away(place: Path) -> None:
    assert vmofs("mount", place).returncode == 0
    os.kill(int(os.getxattr(place, "user.vmofs.pid")), signal.SIGKILL)
    wait_for(lambda: not _answers(place), "the mount is stale")
    assert vmofs("umount", place).returncode == 0
    assert str(place) not in Path("/proc/mounts").read_text(encoding="utf-8")


def _runs(pid: int) -> bool:
    """Return whether a process runs; one that only waits for its parent to notice does not."""
    return process_state(pid) not in {"", "Z"}


def _answers(path: Path) -> bool:
    try:
        os.statvfs(path)
    except OSError:
        return False
    return True


def test_errors_are_one_sentence(mount: Mounted, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    cases = {
        ("mount", str(tmp_path / "none")): "does not exist",
        ("mount", str(file)): "is no directory",
        ("mount", str(mount.path)): "mounted at",
        ("mount", "-o", "nonsense", str(tmp_path)): "unknown mount option 'nonsense'",
        ("mount", "-o", "deadline=soon", str(tmp_path)): "number of seconds",
        ("mount", "-o", "log=/none/x", str(tmp_path)): "log cannot be written",
        ("umount", str(tmp_path)): "no vmofs is mounted",
    }
    for arguments, sentence in cases.items():
        done = vmofs(*arguments)
        assert done.returncode == 1, arguments
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_kernel_is_told_to_read_ahead_one_page_and_to_let_many_requests_wait(mount: Mounted) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may change these settings")
    minor = os.minor(mount.path.stat().st_dev)
    assert Path(f"/sys/class/bdi/0:{minor}/read_ahead_kb").read_text(encoding="ascii") == "4\n"
    connections = Path("/sys/fs/fuse/connections")
    if (connections / str(minor)).exists():
        assert (connections / str(minor) / "max_background").read_text(encoding="ascii") == "65535\n"


def test_an_aborted_connection_ends_the_daemon_and_the_mount(mount: Mounted) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root sees the connections")
    minor = os.minor(mount.path.stat().st_dev)
    with knobs._connections() as directory:
        knobs._write(directory, f"{minor}/abort", "1")
    mount.expected_log.append("the connection to the kernel broke")
    assert mount.process.wait(10) == 0
    assert not mount.is_mounted()


def test_the_version_is_said_by_all_names_of_the_program() -> None:
    for command in ([*vmofs_command(), "-V"], [sys.executable, "-m", "vmofs", "--version"]):
        done = subprocess.run(command, env=vmofs_environment(), capture_output=True, text=True, check=True)
        assert done.stdout == f"vmofs {__version__}\n"


def test_version_is_fast() -> None:
    assert min(seconds_of_version() for _ in range(5)) < 0.5  # the machine may do something else, but not all the time


def seconds_of_version() -> float:
    began = time.monotonic()
    assert vmofs("--version").stdout.startswith("vmofs ")
    return time.monotonic() - began


def test_a_mount_that_is_unmounted_at_once_ends_well(mounter: Mounter) -> None:
    for _ in range(5):
        mount = mounter()
        mount.umount()
        assert mount.process.wait(10) == 0
