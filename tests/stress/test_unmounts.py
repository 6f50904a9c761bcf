"""Mounts that are unmounted while everybody works there and is killed: nobody hangs, and every daemon ends.

``VMOFS_NIGHTLY=1`` does 200 rounds; ``VMOFS_UNMOUNT_SEED`` says with which seed.
"""

# ruff: noqa: S311 - nothing here is a secret

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from tests.conftest import NIGHTLY
from tests.support.mounted import Mounted, Mounter, vmofs_command, vmofs_environment
from vmofs_mount.linux.procfs import state_of

ROUNDS = 200 if NIGHTLY else 8
AT_ONCE = 4
SEED = int(os.environ.get("VMOFS_UNMOUNT_SEED", str(random.randrange(2**32))))
END_SECONDS = 10.0
MOST_SECONDS = 5.0
"""How long a thread may be in state D: who waits for a page, or for the end of a mount."""

VMO_BYTES = 32 * 2**20
OPTIONS = "deadline=0,memory_limit=16M"

_PAGER = r"""
import os, sys
control = sys.argv[1]
requests = os.open(f"{control}/requests", os.O_RDONLY)
files, rest, block = {}, b"", bytes(1 << 20)
while True:
    data = os.read(requests, 65536)
    if not data:
        os.close(requests)
        requests, rest = os.open(f"{control}/requests", os.O_RDONLY), b""
        continue
    *lines, rest = (rest + data).split(b"\n")
    for line in lines:
        command, _, offset, _, name = line.decode().split(" ")
        if command == "READ":
            if name not in files:
                files[name] = os.open(f"{control}/supply/{name}", os.O_WRONLY)
            try:
                os.pwrite(files[name], block, int(offset) >> 20 << 20)  # 1 MiB whatever was asked for
            except OSError:
                pass  # memory is short, or it is there
"""

_USER = r"""
import mmap, os, random, sys
how, path = sys.argv[1:3]
fd = os.open(path, os.O_RDWR if how == "write" else os.O_RDONLY)
pages = os.fstat(fd).st_size // 4096
mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ) if how == "mmap" else None
while True:
    offset = random.randrange(pages) * 4096
    try:
        if how == "mmap":
            mapping[offset]
        elif how == "write":
            os.pwrite(fd, b"x" * 100, offset)
        else:
            os.pread(fd, 4096 * random.choice((1, 1, 8)), offset)
    except OSError:
        pass  # memory is short
"""

_EVICTOR = r"""
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
while True:
    os.write(fd, sys.argv[2].encode())
"""

WAYS = {
    "umount": ["umount"],
    "umount -l": ["umount", "-l"],
    "fusermount3 -uz": ["fusermount3", "-u", "-z"],
    "vmofs umount --discard": vmofs_command("umount", "--discard"),
}
LAZY = {"umount -l", "fusermount3 -uz"}

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may unmount so"),
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="/dev/fuse cannot be used here"),
]


class Watch:
    """Looks at the threads of processes, and notes who was in state D for long."""

    def __init__(self) -> None:
        self.processes: dict[int, str] = {}
        self.complaints: set[str] = set()
        self._since: dict[Path, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            for pid, name in list(self.processes.items()):
                with suppress(OSError):
                    for thread in Path(f"/proc/{pid}/task").iterdir():
                        self._look(thread, name)

    def _look(self, thread: Path, name: str) -> None:
        try:
            state = state_of(thread)
            place = (thread / "wchan").read_text()
        except OSError:
            state = ""
        if state != "D":
            self._since.pop(thread, None)
        elif time.monotonic() - self._since.setdefault(thread, time.monotonic()) > MOST_SECONDS:
            self.complaints.add(f"{name}: {thread} waits in {place}")


class Round:
    """One mount, and what happens there."""

    def __init__(self, mount: Mounted, watch: Watch, seed: int) -> None:
        self.mount = mount
        self.random = random.Random(seed)
        self.way = self.random.choice(list(WAYS))
        self._watch = watch
        self._started: list[subprocess.Popen[bytes]] = []

    def run(self) -> None:
        """Let everybody work, kill them, unmount, and wait for the end."""
        self._watch.processes[self.mount.pid] = f"the daemon after {self.way}"
        try:
            self._let_all_work()
            steps = [self._kill_all, self._unmount]
            if self.way in LAZY and self.random.random() < 0.5:
                steps.reverse()
            for step in steps:
                step()
            try:
                assert self.mount.process.wait(END_SECONDS) == 0, self.mount.log()
            except subprocess.TimeoutExpired:
                pytest.fail(f"the daemon did not end after {self.way}: {self.mount.held_by()}")
            assert "stood still" not in self.mount.log(), self.mount.log()
        finally:
            for process in self._started:
                process.kill()

    def _let_all_work(self) -> None:
        control = self.mount.path / "control" / "p"
        control.mkdir()
        with (control / "create_vmo").open("w") as create:
            create.write(f"vmo/v {VMO_BYTES}\nvmo/w {VMO_BYTES // 4}\n")
        (self.mount.path / "aux" / "load").write_bytes(bytes(10 * 2**20))
        self._start("pager", _PAGER, control)
        for how, name in (("pread", "v"),) * 4 + (("mmap", "v"),) * 2 + (("write", "w"),) * 2:
            self._start(how, _USER, how, self.mount.path / "vmo" / name)
        time.sleep(self.random.uniform(0.2, 0.5))
        self._start("evictor", _EVICTOR, control / "evict", f"vmo/v 0 {VMO_BYTES}\nvmo/w 0 {VMO_BYTES // 4}\n")
        time.sleep(self.random.uniform(0.05, 0.3))

    def _start(self, name: str, script: str, *arguments: object) -> None:
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", script, *map(str, arguments)])
        self._started.append(process)
        self._watch.processes[process.pid] = name

    def _kill_all(self) -> None:
        self.random.shuffle(self._started)
        for process in self._started:
            process.kill()
        for process in self._started:
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                stacks = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/stack")]
                pytest.fail(f"{process.args!r} was killed, but waits in {stacks}: {self.mount.held_by()}")

    def _unmount(self) -> None:
        deadline = time.monotonic() + END_SECONDS
        while True:
            command = subprocess.Popen(
                [*WAYS[self.way], self.mount.path], env=vmofs_environment(), stderr=subprocess.PIPE
            )
            self._watch.processes[command.pid] = self.way
            try:
                _, told = command.communicate(timeout=END_SECONDS * 2)
            except subprocess.TimeoutExpired:
                pytest.fail(f"{self.way} hangs: {self.mount.held_by()}")
            if command.returncode == 0:
                return
            assert b"busy" in told, told
            assert time.monotonic() < deadline, f"{told!r}: {self.mount.held_by()}"


def test_nobody_hangs_when_a_mount_ends_under_load(mounter: Mounter) -> None:
    sys.stderr.write(f"VMOFS_UNMOUNT_SEED={SEED}\n")
    seeds = random.Random(SEED)
    counts: Counter[str] = Counter()
    took: list[float] = []
    with Watch() as watch, ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in range(ROUNDS // AT_ONCE):
            mounts = [mounter(OPTIONS) for _ in range(AT_ONCE)]
            for mount in mounts:
                mount.expected_log.append("ending: unmounted|requests were still waiting|the connection was broken")
            rounds = [Round(mount, watch, seeds.randrange(2**32)) for mount in mounts]
            began = time.monotonic()
            sync = subprocess.Popen(["sleep", "1"] if not NIGHTLY else ["sh", "-c", "sleep 1; exec sync"])
            watch.processes[sync.pid] = "sync"
            for done in [pool.submit(each.run) for each in rounds]:
                done.result()
            sync.wait(END_SECONDS)
            took.append(time.monotonic() - began)
            counts.update(each.way for each in rounds)
            assert not watch.complaints, watch.complaints
    sys.stderr.write(f"{ROUNDS} rounds, {dict(counts)}, {max(took):.1f} s at most for {AT_ONCE}\n")
