"""The end of the daemon, asked for or not: everybody who waits gets an error at once, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import NIGHTLY
from tests.support.mounted import Commands, Mounted, Mounter, vmofs_command, vmofs_environment, wait_for
from tests.support.pager_client import Background, PagerClient, ReaderProcess, Readers
from tests.support.pager_process import PagerProcesses, seconds_of
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE
from vmofs_mount.cli import doctor
from vmofs_mount.front import unmounting
from vmofs_mount.linux import knobs
from vmofs_mount.linux.procfs import descendants, process_state, thread_states

KEY = 11 * pattern.KEY_STEP
ROUNDS = 100 if NIGHTLY else 5
READERS = 8
PAGES = 2**18
"""So many that hardly any is read twice. Dropping pages instead would wait for a lock of the whole machine."""
DEADLINE = 2.0
GONE = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.EBADFD, -signal.SIGBUS}

_READS_UNTIL_IT_FAILS = r"""
import mmap, os, random, sys
path, how = sys.argv[1], sys.argv[2]
fd = os.open(path, os.O_RDONLY)
size = os.fstat(fd).st_size
mapping = mmap.mmap(fd, size, prot=mmap.PROT_READ)
print("open", flush=True)
try:
    while True:
        offset = random.randrange(size // 4096) * 4096
        data = mapping[offset : offset + 4096] if how == "mmap" else os.pread(fd, 4096, offset)
        if len(data) != 4096 or int.from_bytes(data[:8], "little") % (1 << 40) != offset // 8:
            sys.exit("wrong bytes")
except OSError as error:
    print("errno", error.errno, flush=True)
"""


@pytest.fixture
def serve() -> Iterator[PagerProcesses]:
    pagers = PagerProcesses()
    yield pagers
    pagers.close()


def mount_again(path: Path) -> int:
    """Mount as a user does, on what a dead daemon left; return the new daemon."""
    subprocess.run(vmofs_command("mount", path), env=vmofs_environment(), check=True, timeout=20)
    return int(os.getxattr(path, "user.vmofs.pid"))


def test_after_kill_9_of_the_daemon_readers_get_errors_and_a_new_mount_works(
    place: Path, readers: Readers, serve: PagerProcesses
) -> None:
    random_numbers = random.Random(9)  # noqa: S311 - nothing secret
    daemon, took = mount_again(place), []
    for turn in range(ROUNDS):
        pager = PagerClient(place, f"p{turn}")
        vmo = pager.create(size=PAGES * PAGE_SIZE)
        os.mkfifo(pager.control / "nobody", 0o600)
        waiting = pager.create("waiting", options="port=nobody")
        server = serve(pager.control, KEY)
        stuck = readers("pread", waiting.path, 0) if turn % 2 else readers("mmap", waiting.path, 0)
        started = [
            readers.run(_READS_UNTIL_IT_FAILS, vmo.path, "mmap" if number % 2 else "pread") for number in range(READERS)
        ]
        for reader in started:
            assert reader.process.stdout is not None
            assert reader.process.stdout.readline() == b"open\n"
        time.sleep(random_numbers.random() * 0.1)
        server.stop()
        began = time.monotonic()
        os.kill(daemon, signal.SIGKILL)
        for reader in (stuck, *started):
            assert reader.failure() in GONE
        daemon = mount_again(place)
        new = PagerClient(place, f"n{turn}")
        fresh = new.create()
        new.supply(fresh, key=KEY)
        pattern.check(fresh.path.read_bytes(), KEY)
        took.append(time.monotonic() - began)
        new.close()
        server.kill()
        left = [process_state(reader.process.pid) for reader in (stuck, *started)]
        assert set(left) <= {"", "Z"}, left
    took.sort()
    said = f"{ROUNDS} rounds, {took[ROUNDS // 2]:.2f} s in the middle and at most {took[-1]:.2f} s"
    sys.stderr.write(f"{said} from the kill to a page of the new mount\n")
    assert took[-1] < (2 if NIGHTLY else 6)  # the gate may share the machine with seven others
    os.kill(daemon, signal.SIGTERM)
    wait_for(lambda: str(place) not in Path("/proc/mounts").read_text(), "the mount is gone")


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user may lack the means to break a connection")
def test_a_killed_daemon_ends_the_waits_although_a_thread_of_it_waits_for_a_page(place: Path, readers: Readers) -> None:
    daemon = mount_again(place)
    pager = PagerClient(place)
    reader, evicting = let_a_thread_wait_for_a_page(daemon, pager, readers)
    os.kill(daemon, signal.SIGKILL)
    assert reader.failure() in GONE
    wait_for(lambda: process_state(daemon) in {"", "Z"}, "the daemon is gone")
    with suppress(OSError):
        evicting.result()
    pager.close_commands()


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user may lack the means to break a connection")
@pytest.mark.parametrize("command", ["mount", "umount"])
def test_what_is_left_of_a_daemon_that_was_killed_with_its_guardian_is_cleaned_up(
    place: Path, readers: Readers, command: str
) -> None:
    """As a control group is killed, or by ``pkill -9 vmofs``. Nobody answers: the kernel waits for a dead thread."""
    daemon = mount_again(place)
    pager = PagerClient(place)
    reader, evicting = let_a_thread_wait_for_a_page(daemon, pager, readers)
    [guardian] = descendants(daemon)
    with connection_that_ends(place):
        os.kill(guardian, signal.SIGKILL)
        os.kill(daemon, signal.SIGKILL)
        time.sleep(1)
        assert reader.is_waiting()
        began = time.monotonic()
        subprocess.run(vmofs_command(command, place), env=vmofs_environment(), check=True, timeout=20)
        assert time.monotonic() - began < 5
        assert reader.failure() in GONE
        wait_for(lambda: process_state(daemon) in {"", "Z"}, "the daemon is gone")
    with suppress(OSError):
        evicting.result()
    pager.close_commands()
    if command == "mount":
        os.kill(int(os.getxattr(place, "user.vmofs.pid")), signal.SIGTERM)
    wait_for(lambda: str(place) not in Path("/proc/mounts").read_text(), "the mount is gone")


@pytest.mark.parametrize("command", ["mount", "umount"])
def test_a_stopped_daemon_is_told_from_a_dead_one(
    mount: Mounted, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(unmounting, "WAIT_SECONDS", 1.0)
    mount.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(unmounting.UnmountError, match=r"does not answer within 1 s: .*/abort"):
            (unmounting.unmount if command == "umount" else unmounting.remove_stale_mounts)(str(mount.path))
    finally:
        mount.process.send_signal(signal.SIGCONT)
    PagerClient(mount.path).close()


def test_the_doctor_says_so_when_a_daemon_is_stopped(mount: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "WAIT_SECONDS", 0.5)
    mount.process.send_signal(signal.SIGSTOP)
    try:
        [finding] = doctor.examine_mount(str(mount.path))
    finally:
        mount.process.send_signal(signal.SIGCONT)
    assert finding.verdict is doctor.Verdict.BAD
    assert f"{mount.path} does not answer within 10 s: its daemon is stopped" in finding.sentence


@pytest.mark.parametrize("command", ["mount", "umount"])
def test_ctrl_c_ends_the_wait_for_a_daemon_that_is_stopped(mount: Mounted, run: Commands, command: str) -> None:
    mount.process.send_signal(signal.SIGSTOP)
    waiting = run(*vmofs_command(command, mount.path))
    try:
        wait_for(lambda: len(list(Path(f"/proc/{waiting.pid}/task").iterdir())) == 2, "a thread asks")
        waiting.send_signal(signal.SIGINT)
        assert waiting.communicate(timeout=5)[1] == b""
        assert waiting.returncode == 128 + signal.SIGINT
    finally:
        mount.process.send_signal(signal.SIGCONT)


@contextmanager
def connection_that_ends(place: Path) -> Iterator[None]:
    """Break the connection of a mount in the end, whatever happened: without that nobody who waits could be killed."""
    abort = knobs.open_abort(os.minor(place.stat().st_dev))
    try:
        yield
    finally:
        os.write(abort, b"1")
        os.close(abort)


def let_a_thread_wait_for_a_page(
    daemon: int, pager: PagerClient, readers: Readers
) -> tuple[ReaderProcess, Background[str]]:
    """Let a thread of the daemon wait for a page that a READ has locked; return who reads and who evicts the page."""
    vmo = pager.create(size=2 * PAGE_SIZE)
    pager.supply(vmo, PAGE_SIZE)
    reader = readers("pread", vmo.path, 0, 2 * PAGE_SIZE)
    wait_for(lambda: pager.stat("requests_outstanding") == 1, "both pages are locked")
    evicting = Background(lambda: pager.command("evict", f"{vmo.name} {PAGE_SIZE} {PAGE_SIZE}"))
    wait_for(lambda: "D" in thread_states(daemon), "a thread of the daemon waits for a page")
    return reader, evicting


@pytest.mark.alone
def test_while_the_pager_is_stopped_readers_time_out_and_all_else_goes_on(
    mounter: Mounter, readers: Readers, serve: PagerProcesses
) -> None:
    mount = mounter(f"deadline={DEADLINE}")
    pager = PagerClient(mount.path)
    vmo = pager.create(size=64 * PAGE_SIZE)
    server = serve(pager.control, KEY).wait_open()
    assert len(vmo.path.read_bytes()) == 64 * PAGE_SIZE
    pager.command("evict", f"{vmo.name} 0 {64 * PAGE_SIZE}")
    server.stop()
    fd = os.open(vmo.path, os.O_RDONLY)
    began = time.monotonic()
    reads = [Background(lambda page=page: os.pread(fd, PAGE_SIZE, page * PAGE_SIZE)) for page in range(8)]  # type: ignore[misc]
    victims = [
        readers(kind, vmo.path, page * PAGE_SIZE)
        for page, kind in enumerate(("pread", "mmap", "sendfile", "direct"), 32)
    ]
    for victim in victims:
        wait_for(victim.is_waiting, "the reader waits")
    looks: list[tuple[str, Callable[[], object]]] = [
        ("stat of a file", vmo.path.stat),
        ("stat of a FIFO", (pager.control / "requests").stat),
        ("ls -l", lambda: [entry.stat() for entry in os.scandir(vmo.path.parent)]),
        *((name, (pager.control / name).read_bytes) for name in ("pending", "stats", "deadline", "../log")),
    ]
    times = {what: sorted(seconds_of(look) for _ in range(20)) for what, look in looks}
    assert "READ" in (pager.control / "pending").read_text()
    assert pager.stat("requests_outstanding") > 0
    assert max(victim.kill() for victim in victims) < 1
    assert [read.errno(DEADLINE + 5) for read in reads] == [errno.ETIMEDOUT] * 8
    took = time.monotonic() - began
    middle = {what: f"{seconds[10] * 1e3:.2f} (at most {seconds[-1] * 1e3:.1f})" for what, seconds in times.items()}
    sys.stderr.write(f"deadline {DEADLINE} s: {took:.2f} s; ms in the middle of 20: {middle}\n")
    assert DEADLINE <= took <= DEADLINE * 1.1 + (0 if NIGHTLY else 0.5)  # the gate may share the machine
    assert max(seconds[10] for seconds in times.values()) < 0.01
    server.go_on()

    def answered() -> bool:
        try:
            pattern.check(os.pread(fd, PAGE_SIZE, 48 * PAGE_SIZE), KEY, 48 * PAGE_SIZE)
        except TimeoutError:
            return False
        return True

    wait_for(answered, "new reads work")
    server.kill()
    os.close(fd)
    pager.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_waits_at_once_with_an_error(
    mount: Mounted, readers: Readers, number: signal.Signals
) -> None:
    pager = PagerClient(mount.path)
    vmo = pager.create(size=8 * PAGE_SIZE)
    started = [readers(kind, vmo.path, page * PAGE_SIZE) for page, kind in enumerate(("pread", "mmap", "direct") * 2)]
    wait_for(lambda: pager.stat("requests_outstanding") == 6, "all wait")
    began = time.monotonic()
    mount.process.send_signal(number)
    outcomes = [reader.failure() for reader in started]
    assert set(outcomes) <= GONE, outcomes
    assert mount.process.wait(10) == 0
    assert time.monotonic() - began < 5
    assert not mount.is_mounted()
    assert "nothing was dirty" in mount.log()


def test_what_was_dirty_is_reported(mount: Mounted) -> None:
    pager = PagerClient(mount.path)
    vmo = pager.create(size=8 * PAGE_SIZE)
    pager.supply(vmo, 0, 8 * PAGE_SIZE)
    with vmo.path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"x", 0)
        os.pwrite(file.fileno(), b"x", 5 * PAGE_SIZE)
    pager.stop_reading()
    for fd in pager._commands.values():
        os.close(fd)
    done = subprocess.run(
        vmofs_command("umount", "--discard", mount.path),
        env=vmofs_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    said = "2 dirty pages of 1 VMOs were not written back by their pagers and are gone"
    assert (done.returncode, done.stderr) == (0, f"vmofs: {said}\n")
    assert mount.process.wait(10) == 0
    assert said in mount.log()


def test_unmounting_leaves_no_process_and_no_fifo_reader_behind(mounter: Mounter, serve: PagerProcesses) -> None:
    mount = mounter()
    pager = PagerClient(mount.path)
    pager.create()
    server = serve(pager.control, KEY).wait_open()
    wait_for(lambda: pager.stat("fifos_attached") == 1, "the FIFO is attached")
    mount.process.send_signal(signal.SIGTERM)
    assert mount.process.wait(10) == 0
    assert not mount.is_mounted()
    # The pager sees the end of its FIFO; what it tries next is an error, not a wait.
    with suppress(subprocess.TimeoutExpired):
        assert server.process.wait(10) != 0
    assert server.process.poll() is not None
    server.kill()
