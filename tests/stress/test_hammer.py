"""A user who does everything at random, beside a pager and its readers, who must not notice.

``VMOFS_HAMMER_SECONDS`` says for how long (3; with ``VMOFS_NIGHTLY=1`` 6), ``VMOFS_HAMMER_SEED`` with which seed.
"""

# ruff: noqa: S311 - nothing here is a secret

from __future__ import annotations

import faulthandler
import gc
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import NIGHTLY
from tests.support.hammer import Hammer, shared_writer
from tests.support.identity import Actor, Who, reachable_mount
from tests.support.mounted import Mounted, wait_for
from tests.support.pager_client import metric
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE

SECONDS = float(os.environ.get("VMOFS_HAMMER_SECONDS", "6" if NIGHTLY else "3"))
SEED = int(os.environ.get("VMOFS_HAMMER_SEED", str(random.randrange(2**32))))
PAGES = 256
MAY_GROW_KIB = 6 * 1024
"""An idle daemon gives back what is free; what is left of the growth are small objects, and their memory in pieces that
are not all free. What is held is compared to the number."""

IDLE_SECONDS = 5.0
"""After so long an idle daemon has given back what is free, if the machine is not very slow."""

HELD = ("nodes", "objects", "pagers", "frames_used", "requests_outstanding", "waiters")

USERS = [Who(f"user{number}", 2100 + number, 2100 + number) for number in range(2)]

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others"),
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="/dev/fuse cannot be used here"),
]


class WorkingPager:
    """A pager that works, and a reader who checks every byte. Both stop when told to, or at the first error."""

    def __init__(self, mount: Path) -> None:
        self._control = mount / "control" / "work"
        self._control.mkdir()
        (self._control / "deadline").write_text("300")
        (mount / "vmo" / "work").mkdir()
        self.path = mount / "vmo" / "work" / "file"
        self._command("create_vmo", f"vmo/work/file {PAGES * PAGE_SIZE} mode=644")
        self._supply = os.open(self._control / "supply" / "work" / "file", os.O_WRONLY)
        self.pages_read = 0
        self.slowest = 0.0
        self.errors: list[BaseException] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._guarded, args=(work,)) for work in (self._serve, self._read)]
        for thread in self._threads:
            thread.start()

    def _command(self, file: str, line: str) -> None:
        (self._control / file).write_text(f"{line}\n", encoding="ascii")

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the test raises it again
            self.errors.append(error)
            self._stopped.set()

    def _serve(self) -> None:
        with (self._control / "requests").open("rb", buffering=0) as requests:
            while True:
                for line in requests.read(4096).decode().splitlines():
                    command, _key, offset, length, _name = line.split()
                    if command == "READ":
                        data = pattern.make(1, int(offset), int(length))
                        os.pwrite(self._supply, data, int(offset))
                    elif command == "COMPLETE":
                        return

    def _read(self) -> None:
        generator = random.Random(SEED)
        fd = os.open(self.path, os.O_RDONLY)
        try:
            while not self._stopped.is_set():
                page = generator.randrange(PAGES)
                began = time.monotonic()
                data = os.pread(fd, PAGE_SIZE, page * PAGE_SIZE)
                self.slowest = max(self.slowest, time.monotonic() - began)
                assert data == pattern.make(1, page * PAGE_SIZE, PAGE_SIZE), f"page {page} has other bytes"
                self.pages_read += 1
                if generator.random() < 0.1:
                    self._command("evict", f"vmo/work/file 0 {PAGES * PAGE_SIZE}")
        finally:
            os.close(fd)

    def finish(self) -> None:
        """End both."""
        self._stopped.set()
        self._threads[1].join(30)
        self._command("detach_vmo", "vmo/work/file")
        self._threads[0].join(30)
        os.close(self._supply)
        assert not any(thread.is_alive() for thread in self._threads)
        self.path.unlink()
        self._control.rmdir()
        self.path.parent.rmdir()


def remove_all(mount: Path) -> None:
    """Remove what the users left, as root."""
    for path in (mount / "control").iterdir():
        if path.is_dir():
            path.rmdir()
        else:  # everybody may write to some of them, and so give them attributes
            for attribute in os.listxattr(path):
                os.removexattr(path, attribute)
    for top in ("vmo", "aux"):
        for directory, directories, files in os.walk(mount / top, topdown=False):
            for name in files:
                Path(directory, name).unlink()
            for name in directories:
                path = Path(directory, name)
                if path.is_symlink():  # to a directory
                    path.unlink()
                else:
                    path.rmdir()


def held(mount: Path) -> dict[str, int]:
    """Return what the mount holds, for whomever."""
    text = (mount / "control/stats").read_text()
    names = [*HELD, *re.findall(r"^vmofs_(held_\w+) ", text, re.MULTILINE)]
    return {name: metric(text, f"vmofs_{name}") for name in names}


class Leftovers:
    """What a mount holds that it did not hold before."""

    def __init__(self, mount: Path, before: dict[str, int]) -> None:
        self._mount = mount
        self._before = before

    def __str__(self) -> str:
        """Return the counters that differ, as they are now."""
        return str({name: value for name, value in held(self._mount).items() if value != self._before[name]})

    def are_gone(self) -> bool:
        """Return whether there are none."""
        return held(self._mount) == self._before


def resident_kib(mounted: Mounted) -> int:
    status = Path(f"/proc/{mounted.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1])


def hammer(mount: Path, seed: int, prefix: str, seconds: float) -> tuple[Counter[str], Counter[str]]:
    return Hammer(mount, seed, prefix).run(seconds)


def hammer_with_shared_file(mount: Path, seed: int, prefix: str, seconds: float) -> tuple[Counter[str], Counter[str]]:
    fd = os.open(mount / "control" / "vmo_op_range", os.O_RDWR)
    children = []
    for number in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                shared_writer(fd, seed + number, seconds)
            finally:
                os._exit(0)
        children.append(pid)
    os.close(fd)
    result = hammer(mount, seed, prefix, seconds)
    for pid in children:
        os.waitpid(pid, 0)
    return result


def hammer_beside_a_pager(
    mounted: Mounted, actors: list[Actor], seed: int, seconds: float
) -> tuple[WorkingPager, Counter[str]]:
    """Let all users hammer beside a working pager, and remove what they left. Returns it, and how often what came."""
    pager = WorkingPager(mounted.path)
    outcomes: list[tuple[Counter[str], Counter[str]]] = []
    works = (hammer, hammer_with_shared_file)
    threads = [
        threading.Thread(
            target=lambda number=number, work=work, actor=actor: outcomes.append(
                actor(work, mounted.path, seed + number, f"h{number}_", seconds)
            )
        )
        for number, (work, actor) in enumerate(zip(works, actors, strict=True))
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + 120)
        assert len(outcomes) == len(threads), "a user hangs"
    finally:
        pager.finish()
    gc.collect()
    remove_all(mounted.path)
    assert not pager.errors, pager.errors
    assert pager.pages_read > 10 * seconds
    unexpected = sum((unexpected for _, unexpected in outcomes), Counter())
    assert not unexpected, f"seed {seed}: {unexpected}"
    return pager, sum((counts for counts, _ in outcomes), Counter())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_nobody_notices_users_who_do_everything_at_random(capsys: pytest.CaptureFixture[str]) -> None:
    faulthandler.cancel_dump_traceback_later()  # it takes as long as it is told to
    options = ["deadline=0.2,warn=0,user_memory=64M,user_nodes=2000,user_vmos=500,user_aux_files=500"]
    with reachable_mount(*options) as mounted:
        actors = [Actor(who) for who in USERS]
        try:
            # Once before, so that what is imported and cached is there.
            for number, actor in enumerate(actors):
                actor(hammer, mounted.path, SEED, f"w{number}_", 1.0)
            remove_all(mounted.path)
            wait_for(lambda: held(mounted.path)["requests_outstanding"] == 0, "all requests have timed out", 30)
            time.sleep(IDLE_SECONDS)
            held_before, before = held(mounted.path), resident_kib(mounted)
            left = Leftovers(mounted.path, held_before)
            pager, counts = hammer_beside_a_pager(mounted, actors, SEED, SECONDS)
            most = resident_kib(mounted)
            wait_for(left.are_gone, f"nothing is held that was not before, {left}", 30)
            wait_for(lambda: resident_kib(mounted) < before + MAY_GROW_KIB, "the daemon gives memory back", 30)
            time.sleep(IDLE_SECONDS)
            with capsys.disabled():
                print(  # noqa: T201 - what the night is for
                    f"\nhammer: seed {SEED}, {counts.total()} calls, {pager.pages_read} pages read beside them, "
                    f"slowest {pager.slowest:.3f} s, memory {before} -> {most} -> {resident_kib(mounted)} KiB"
                )
                print(dict(counts))  # noqa: T201
        finally:
            for actor in actors:
                actor.close()
