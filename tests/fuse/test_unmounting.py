"""After an unmount the daemon ends, by whatever way and whoever was killed before; or it says who holds the mount."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounted import Commands, Mounted, Mounter, vmofs_command, wait_for
from tests.support.pager_client import Background, PagerClient, ReaderProcess, Readers
from vmofs.units import PAGE_SIZE
from vmofs_mount.front import unmounting
from vmofs_mount.linux.mountinfo import mount_at

WAYS: dict[str, Callable[[Path], list[str]]] = {
    "umount": lambda path: ["umount", str(path)],
    "umount -l": lambda path: ["umount", "-l", str(path)],
    "fusermount3 -uz": lambda path: ["fusermount3", "-u", "-z", str(path)],
    "vmofs umount": lambda path: vmofs_command("umount", path),
}
END_SECONDS = 10.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may unmount so, and make namespaces")


def let_a_drop_wait(mount: Mounted, readers: Readers) -> ReaderProcess:
    """Let a thread of the daemon drop a page that the READ of the returned reader has locked. All else is closed."""
    pager = PagerClient(mount.path)
    vmo = pager.create(size=2 * PAGE_SIZE)
    pager.supply(vmo, PAGE_SIZE)
    reader = readers("pread", vmo.path, 0, 2 * PAGE_SIZE)
    wait_for(lambda: pager.stat("requests_outstanding") == 1, "both pages are locked")
    assert pager.command("evict", f"{vmo.name} {PAGE_SIZE} {PAGE_SIZE}") == "ZX_OK pages=1 held=1\n"
    wait_for(lambda: "D" in thread_states(mount.pid), "a thread waits for a page")
    pager.close_commands()
    return reader


def thread_states(process: int) -> str:
    """Return the states of the threads of a process."""
    stats = Path(f"/proc/{process}/task").glob("*/stat")
    return "".join(path.read_text().rpartition(")")[2].split()[0] for path in stats)


def namespace_of(process: int) -> Path:
    """Return what stands for the mount namespace of a process."""
    return Path(f"/proc/{process}/ns/mnt").readlink()


def check_that_it_ends(mount: Mounted, *commands: subprocess.Popen[bytes]) -> None:
    """Check that the daemon ends soon, and who unmounts."""
    deadline = time.monotonic() + END_SECONDS
    for process in (*commands, mount.process):
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pytest.fail(f"{process.args!r} did not end: {mount.held_by()}")
    assert mount.process.returncode == 0
    assert not mount.is_mounted()


@pytest.mark.parametrize("way", WAYS)
def test_a_reader_who_was_killed_does_not_keep_an_unmount_from_ending(
    mounter: Mounter, readers: Readers, run: Commands, way: str
) -> None:
    """A thread of the daemon waits for the page of his READ, who unmounts for the thread."""
    mount = mounter("deadline=0")
    mount.expected_log.append("threads wait for pages")
    let_a_drop_wait(mount, readers).kill()
    command = run(*WAYS[way](mount.path))
    check_that_it_ends(mount, command)
    assert command.returncode == 0


@pytest.mark.parametrize("way", ["umount -l", "fusermount3 -uz"])
def test_the_last_reader_who_dies_after_a_lazy_unmount_does_not_hang(
    mounter: Mounter, readers: Readers, way: str
) -> None:
    mount = mounter("deadline=0")
    mount.expected_log.append("threads wait for pages")
    reader = let_a_drop_wait(mount, readers)
    subprocess.run(WAYS[way](mount.path), check=True, timeout=END_SECONDS)
    wait_for(lambda: "still held by process" in mount.log(), "it says who holds the mount")
    assert f"process {reader.process.pid} (python" in mount.log()
    reader.process.kill()
    check_that_it_ends(mount)
    assert reader.process.wait(END_SECONDS) == -signal.SIGKILL


def test_a_message_that_waits_for_an_unmount_does_not_keep_others_waiting(
    mounter: Mounter, readers: Readers, run: Commands
) -> None:
    """The daemon goes on answering, and with that it ends what the unmount waits for."""
    mount = mounter("deadline=1")
    mount.expected_log.append("threads wait for pages")
    let_a_drop_wait(mount, readers).kill()
    command = run(*WAYS["umount"](mount.path))
    main = Path(f"/proc/{mount.pid}/task/{mount.pid}/stat")
    while command.poll() is None and mount.process.poll() is None:
        assert main.read_text().rpartition(")")[2].split()[0] != "D", mount.held_by()
        time.sleep(0.01)
    check_that_it_ends(mount, command)


_TELLS_IN_THE_MAIN_THREAD = """
import trio
from vmofs_mount.cache.attributes import Attributes
async def announce(self):
    while True:
        await trio.sleep(0.05)
        self._kernel.drop_attributes(1)
Attributes._announce = announce
"""


def test_the_guardian_ends_a_mount_whose_main_thread_waits_for_an_unmount(
    mounter: Mounter, readers: Readers, run: Commands
) -> None:
    """It never should; so it is made to here."""
    mount = mounter("deadline=0", code=_TELLS_IN_THE_MAIN_THREAD)
    mount.expected_log += ["the connection to the kernel broke", "the main thread stood still in fuse_"]
    let_a_drop_wait(mount, readers).kill()
    command = run(*WAYS["umount"](mount.path))
    wait_for(lambda: thread_states(mount.pid).count("D") == 2, "the main thread waits for the unmount")
    check_that_it_ends(mount, command)
    assert "the main thread stood still in fuse_" in mount.log()


def test_a_mount_that_is_held_by_a_namespace_is_served_on_and_it_is_said_by_whom(mount: Mounted, run: Commands) -> None:
    holder = run("unshare", "--mount", "--propagation", "unchanged", "sleep", "60")
    wait_for(lambda: namespace_of(holder.pid) != namespace_of(os.getpid()), "it has a namespace of its own")
    command = run(*WAYS["vmofs umount"](mount.path))
    _, told = command.communicate(timeout=END_SECONDS)
    phrase = f"held by the mount namespace of process {holder.pid} (sleep), at {mount.path}"
    assert (command.returncode, told.decode()) == (
        1,
        f"vmofs: unmounted here, but its daemon goes on: it is {phrase}\n",
    )
    wait_for(lambda: phrase in mount.log(), "the daemon says so too")
    assert mount.process.poll() is None
    holder.kill()
    check_that_it_ends(mount)


def test_a_mount_that_is_bound_elsewhere_is_served_there_until_it_is_unmounted_there(
    mount: Mounted, tmp_path: Path, run: Commands
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["mount", "--bind", mount.path, other], check=True)
    try:
        command = run(*WAYS["vmofs umount"](mount.path))
        _, told = command.communicate(timeout=END_SECONDS)
        assert command.returncode == 1
        assert f"it is held by the mount at {other}\n" in told.decode()
        wait_for(lambda: f"still held by the mount at {other}" in mount.log(), "the daemon says so too")
        (other / "aux" / "file").write_bytes(b"served")
        assert (other / "aux" / "file").read_bytes() == b"served"
    finally:
        done = subprocess.run(["umount", other], check=False)
    assert done.returncode == 0
    check_that_it_ends(mount)


def test_an_unmount_among_others_is_noticed(mount: Mounted, tmp_path: Path) -> None:
    """The kernel tells of changes, not of each."""
    for _ in range(5):
        subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
        subprocess.run(["umount", tmp_path], check=True)
    with (mount.path / "aux" / "file").open("wb"):
        subprocess.run(WAYS["umount -l"](mount.path), check=True, timeout=END_SECONDS)
        wait_for(lambda: f"still held by process {os.getpid()}" in mount.log(), "it says who holds the mount")
    check_that_it_ends(mount)


def test_a_namespace_that_goes_last_does_not_hang(mounter: Mounter, readers: Readers, run: Commands) -> None:
    """Whoever was in it last removes the mount, and nobody is seen to hold it while he waits for us."""
    mount = mounter("deadline=0")
    mount.expected_log.append("threads wait for pages")
    reader = let_a_drop_wait(mount, readers)
    holder = run("unshare", "--mount", "--propagation", "unchanged", "sleep", "60")
    wait_for(lambda: namespace_of(holder.pid) != namespace_of(os.getpid()), "it has a namespace of its own")
    reader.kill()
    subprocess.run(WAYS["umount"](mount.path), check=True, timeout=END_SECONDS)
    holder.kill()
    check_that_it_ends(mount)
    assert holder.wait(END_SECONDS) == -signal.SIGKILL


def test_after_a_lazy_unmount_files_that_are_open_are_served_until_they_are_closed(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    vmo = pager.create(size=2 * PAGE_SIZE)
    aux = pager.stage(b"x" * PAGE_SIZE)
    pager.supply(vmo, PAGE_SIZE)
    assert pager.requests.is_quiet()
    wait_for(lambda: pager.stat("fifos_attached") == 1, "it is served")
    with vmo.path.open("rb", buffering=0) as file:
        subprocess.run(WAYS["umount -l"](mount.path), check=True, timeout=END_SECONDS)
        assert not mount.is_mounted()
        wait_for(lambda: f"still held by process {os.getpid()}" in mount.log(), "it says who holds the mount")
        read = Background(lambda: os.pread(file.fileno(), PAGE_SIZE, 0))
        pager.take_read(vmo, 0)
        pager.command("supply_pages", f"{vmo.name} 0 {PAGE_SIZE} {aux.name} 0")
        assert read.result() == b"x" * PAGE_SIZE
    assert mount.process.poll() is None
    pager.stop_reading()
    pager.close_commands()
    check_that_it_ends(mount)


_LISTS_INTO_A_MISSING_PAGE = r"""
import ctypes, mmap, os, sys
vmo = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(vmo, 4096)
directory = os.open(sys.argv[2], os.O_RDONLY | os.O_DIRECTORY)
libc = ctypes.CDLL(None, use_errno=True)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
GETDENTS = {"x86_64": 217, "aarch64": 61}[os.uname().machine]
if libc.syscall(GETDENTS, directory, ctypes.c_void_p(address), 4096) < 0:
    print("errno", ctypes.get_errno(), flush=True)
"""


@pytest.mark.parametrize("way", ["vmofs umount", "umount -l", "SIGTERM"])
def test_who_lists_a_directory_into_a_missing_page_leaves_no_thread_behind(
    mounter: Mounter, readers: Readers, run: Commands, way: str
) -> None:
    """The kernel has the directory locked meanwhile, and the thread that lets it forget names waits for that."""
    mount = mounter("deadline=0")
    mount.expected_log.append("threads wait for pages")
    pager = PagerClient(mount.path)
    vmo, gone = pager.create("v"), pager.create("gone")
    supply = pager.control / "supply" / pager.name
    assert (supply / "gone").exists()  # the kernel knows the name now
    lister = readers.run(_LISTS_INTO_A_MISSING_PAGE, vmo.path, supply)
    wait_for(lambda: pager.stat("requests_outstanding") == 1, "the page is missing")
    gone.path.unlink()
    wait_for(lambda: "D" in thread_states(mount.pid), "a thread waits for the directory")
    pager.close_commands()
    if way == "SIGTERM":
        mount.process.terminate()
        check_that_it_ends(mount)
    else:
        command = run(*WAYS[way](mount.path))
        if way == "umount -l":
            lister.kill()
        check_that_it_ends(mount, command)
    lister.process.wait(END_SECONDS)


def test_a_mount_that_has_the_number_of_one_that_is_gone_keeps_its_connection(
    mount: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To see that nobody serves a mount takes a while, in which it may go, and its number be given to another one."""
    monkeypatch.setattr(unmounting, "_is_served_by_nobody", lambda _mount: True)
    now = mount_at(str(mount.path))
    assert now is not None
    unmounting._break_if_served_by_nobody(now._replace(number=now.number + 10_000))
    assert (mount.path / "control" / "version").read_text().startswith("vmofs ")
    unmounting._break_if_served_by_nobody(now)
    mount.expected_log.append("the connection to the kernel broke")
    assert mount.process.wait(END_SECONDS) == 0
