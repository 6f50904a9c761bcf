"""Two users who do not trust each other: whatever one of them does, the other has right answers, and in time.

The hostile one does, one after the other, what ``tests/fuse`` tries singly. The other one looks at his file, evicts,
supplies and reads pages, and reads pages that a pager of his own brings. How long each takes is compared with how long
it takes beside a user who just as well uses the machine, but leaves the mount alone: processes that compute.

``VMOFS_NIGHTLY=1`` measures for longer, bounds more tightly, and prints (``-s``) a table.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.conftest import NIGHTLY
from tests.fuse.test_behind_a_read import DEEDS, Crowd, read
from tests.fuse.test_hostile_callers import make_aux, write_for
from tests.fuse.test_shared_waiting import (
    clean,
    given_away,
    hold_drops,
    list_into_what_is_not_there,
    make_names_to_forget,
    make_pager,
    open_and_close,
    open_and_find,
    read_fifo_into_what_is_not_there,
    supply,
    wait_for_events_in_what_is_not_there,
)
from tests.fuse.test_short_turns import COMMANDS, act, make_and_remove_pagers, make_pieces, pin_and_close
from tests.fuse.test_short_turns import write_blank_lines as write_empty_lines
from tests.fuse.test_who_pays import WAYS, open_many, refused_after, remove_attributes, set_attributes
from tests.support import front_attacks
from tests.support.identity import Actor, meanwhile, reachable_mount
from tests.support.mounted import END_SECONDS, Mounted, wait_for
from tests.support.rights import command
from tests.support.two_users import HOSTILE, OTHER
from vmofs.units import PAGE_SIZE
from vmofs_mount.linux.procfs import descendants, has_ended, process_state

MEMORY = 4 * 2**20
OPTIONS = f"user_memory={MEMORY},user_nodes=20000"
PAGES = 16
STAMP = struct.Struct("<QQ")  # the number of the page, and a version: again and again to the end of the page

ROUNDS, SECONDS = (3, 1.0) if NIGHTLY else (1, 0.15)
ATTEMPTS = 1 if NIGHTLY else 3
MOST_TIMES = 3 if NIGHTLY else 10
UNFELT_SECONDS = 0.002 if NIGHTLY else 0.05
"""What takes no longer passes, however fast it was beside who only computes: one turn of the machine's scheduler."""

KINDS = ("stat", "evict, supply, read", "miss")

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others"),
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="/dev/fuse cannot be used here"),
]

Times = dict[str, list[float]]


# Who does ordinary work


def stamped(page: int, version: int) -> bytes:
    return STAMP.pack(page, version) * (PAGE_SIZE // STAMP.size)


def version_of(data: bytes, page: int) -> int:
    """Return the version of a page, which must be the right page, and all of one version."""
    found, version = STAMP.unpack_from(data)
    assert data == stamped(page, version), f"page {page} has the bytes of page {found}, or not all of one version"
    return int(version)


def serve(control: str) -> None:
    """Answer all requests for ``vmo/honest1``, each with a later version. Returns at once."""

    def answer() -> None:
        with open(f"{control}/requests", "rb") as requests:  # noqa: PTH123
            for number, line in enumerate(requests, start=1):
                offset = int(line.split()[2])
                os.pwrite(into, stamped(offset // PAGE_SIZE, number), offset)

    into = os.open(f"{control}/supply/honest1", os.O_WRONLY)
    Thread(target=answer, daemon=True).start()


def evicted(commands: int, line: str) -> None:
    os.write(commands, line.encode())
    answer = os.read(commands, 1000)
    assert answer == b"ZX_OK pages=1\n", answer


def work(mount: str, seconds: float) -> Times:
    """Use two VMOs; return how long each thing took each time."""
    times: Times = {kind: [] for kind in KINDS}
    control, paths = f"{mount}/control/honest", [f"{mount}/vmo/honest{number}" for number in range(2)]
    files = [os.open(path, os.O_RDONLY) for path in paths]
    commands, into = os.open(f"{control}/evict", os.O_RDWR), os.open(f"{control}/supply/honest0", os.O_WRONLY)
    ends = time.monotonic() + seconds
    for number in itertools.count(1):
        page = number % PAGES
        offset = page * PAGE_SIZE
        began = time.monotonic()
        assert os.stat(paths[0]).st_size == PAGES * PAGE_SIZE  # noqa: PTH116
        looked = time.monotonic()
        evicted(commands, f"vmo/honest0 {offset} {PAGE_SIZE}\n")
        os.pwrite(into, stamped(page, time.monotonic_ns()), offset)
        version = version_of(os.pread(files[0], PAGE_SIZE, offset), page)
        supplied = time.monotonic()
        assert version > looked * 1e9, "an old page"
        last = version_of(os.pread(files[1], PAGE_SIZE, offset), page)
        evicted(commands, f"vmo/honest1 {offset} {PAGE_SIZE}\n")
        missed = time.monotonic()
        version = version_of(os.pread(files[1], PAGE_SIZE, offset), page)
        over = time.monotonic()
        assert version > last, "an old page"
        for kind, took in zip(KINDS, (looked - began, supplied - looked, over - missed), strict=True):
            times[kind].append(took)
        if over > ends:
            break
    for fd in (*files, commands, into):
        os.close(fd)
    return times


class Neighbour:
    """Somebody who does ordinary work: a user of the mount and his pager."""

    def __init__(self, mounted: Mounted) -> None:
        self._mount = str(mounted.path)
        self._user, self._pager = Actor(OTHER), Actor(OTHER)
        self._user(make_pager, self._mount, "honest", 2, PAGES * PAGE_SIZE)
        self._pager(serve, f"{self._mount}/control/honest")
        self._user(fill, self._mount)

    def work(self, seconds: float) -> Times:
        """Work for some time. Raises AssertionError if an answer is wrong."""
        with meanwhile(self._user, work, self._mount, seconds) as results:
            pass
        assert results, "his work failed: see above"
        (times,) = results
        assert isinstance(times, dict)
        return times

    def close(self) -> None:
        """End it."""
        for actor in (self._user, self._pager):
            actor.close()


def fill(mount: str) -> None:
    for page in range(PAGES):
        supply(mount, "honest", 0, stamped(page, 0), page * PAGE_SIZE)


# What the hostile one does. Each is carried out by a process of its own, to the first yield before anybody looks.


def computes(_mount: str) -> Iterator[None]:
    """Use the machine, and leave the mount alone."""
    yield
    while True:
        pass


def locks_pages_and_evicts_them(mount: str) -> Iterator[None]:
    hold_drops(mount, "holder", 40)
    yield
    for number in itertools.cycle(range(40)):
        command(f"{mount}/control/holder/evict", f"vmo/holder{number} 0 {PAGE_SIZE}")


def has_names_that_cannot_be_forgotten(mount: str) -> Iterator[None]:
    make_pager(mount, "lister", 2, PAGE_SIZE)
    make_pager(mount, "churn", 0, PAGE_SIZE)
    os.stat(f"{mount}/control/lister/supply/lister1")  # noqa: PTH116
    list_into_what_is_not_there(f"{mount}/control/lister/supply", f"{mount}/vmo/lister0")
    until_asked_for(mount, "lister", "lister0")
    os.unlink(f"{mount}/vmo/lister1")  # noqa: PTH108
    yield
    while True:
        make_names_to_forget(mount, "churn", 1.0)


def until_asked_for(mount: str, pager: str, vmo: str) -> None:
    pending = Path(f"{mount}/control/{pager}/pending")
    wait_for(lambda: f" vmo/{vmo} ".encode() in pending.read_bytes(), "somebody waits")


def locks_directories_of_all(mount: str) -> Iterator[None]:
    make_pager(mount, "lister", 1, PAGE_SIZE)
    yield
    for top in itertools.cycle(("vmo", "aux", "control")):
        list_into_what_is_not_there(f"{mount}/{top}", f"{mount}/vmo/lister0")
        time.sleep(0.05)


def takes_all_memory(mount: str) -> Iterator[None]:
    os.mkdir(f"{mount}/control/p")  # noqa: PTH102
    yield
    for way in itertools.cycle(WAYS):
        refused_after(way, Path(mount))
        for path in (*Path(mount, "vmo").iterdir(), *Path(mount, "aux").iterdir()):
            with suppress(OSError):
                path.unlink()


def pins_and_closes(mount: str) -> Iterator[None]:
    Path(f"{mount}/aux/pinned").write_bytes(bytes(PAGE_SIZE))
    yield
    while True:
        pin_and_close(Path(mount), 4000)


def has_very_many_pieces(mount: str) -> Iterator[None]:
    os.mkdir(f"{mount}/control/mine")  # noqa: PTH102
    make_pieces(Path(mount))
    yield
    for name in itertools.cycle(("query", "always_need", "zero")):
        assert COMMANDS[name]
        act(Path(mount), name)


def makes_and_removes_pagers(mount: str, name: str = "one") -> Iterator[None]:
    yield
    make_and_remove_pagers(f"{mount}/control", name, 1e9, look=True)


def writes_empty_lines(mount: str) -> Iterator[None]:
    yield
    while True:
        write_empty_lines(Path(mount))


def writes_commands_without_end(mount: str) -> Iterator[None]:
    make_aux(f"{mount}/aux/mine", MEMORY)
    yield
    lines = b"commit aux/mine 0 3M\ndecommit aux/mine 0 3M\n" * 20_000
    write_for(f"{mount}/control/vmo_op_range", lines, 1e9)


def loses_closes(mount: str) -> Iterator[None]:
    make_pager(mount, "noisy", 0, PAGE_SIZE)
    os.mkfifo(f"{mount}/control/noisy/second")
    fds = [open_and_find(f"{mount}/control/noisy/{name}") for name in ("requests", "second")]
    yield
    while True:
        open_and_close(fds, 2000)


def locks_an_epoll_set(mount: str) -> Iterator[None]:
    make_pager(mount, "watcher", 1, PAGE_SIZE)
    wait_for_events_in_what_is_not_there(f"{mount}/vmo/watcher0")
    until_asked_for(mount, "watcher", "watcher0")
    yield


def is_behind_reads(mount: str) -> Iterator[None]:
    """Change, write to, and remove a file whose READ waits, and be killed."""
    path = Path(f"{mount}/vmo/behind0")
    os.mkdir(f"{mount}/control/behind")  # noqa: PTH102
    yield
    for first, second in itertools.cycle(itertools.permutations(DEEDS, 2)):
        for name in ("behind0", "behind0-other"):
            command(f"{mount}/control/behind/create_vmo", f"vmo/{name} {8 * PAGE_SIZE} resizable")
        pids = [forked(deed, path) for deed in (read, first, second)]
        time.sleep(0.05)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


def forked(deed: Callable[[Path], None], path: Path) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            deed(path)
        finally:
            os._exit(0)
    return pid


def puts_attributes_on_files_of_others(mount: str) -> Iterator[None]:
    file = f"{mount}/control/vmo_op_range"
    yield
    while True:
        set_attributes(file, 1000)
        remove_attributes(file)


def opens_many_files(mount: str) -> Iterator[None]:
    yield
    while True:
        open_many(f"{mount}/control/vmo_op_range", 900)


def reads_a_fifo_of_root(mounted: Mounted, crowd: Crowd) -> None:
    """Keep a pipe locked that root has opened for him."""
    mount = str(mounted.path)
    make_pager(mount, "given", 2, PAGE_SIZE)
    (mounted.path / "vmo/given0").chmod(0o666)
    fifo = f"{mount}/control/given/requests"
    deed = (read_fifo_into_what_is_not_there, f"{mount}/vmo/given0", "read")
    crowd.pids.append(given_away(fifo, os.O_RDONLY | os.O_NONBLOCK, *deed))
    crowd.start(read, mounted.path / "vmo/given1")
    wait_for(lambda: b" vmo/given0 " in (mounted.path / "control/given/pending").read_bytes(), "the pipe is locked")


Steps = Callable[[str], Iterator[None]]


@dataclass(frozen=True)
class Attack:
    """What is done by how many processes, of which so many are busy; ``by_root``: what needs his help, before."""

    name: str
    steps: tuple[Steps, ...] = ()
    busy: int = 1
    by_root: Callable[[Mounted, Crowd], None] | None = None


ATTACKS = [
    Attack("locks pages", (locks_pages_and_evicts_them,)),
    Attack("locks a pipe", (), 0, reads_a_fifo_of_root),
    Attack("has names that stay", (has_names_that_cannot_be_forgotten,)),
    Attack("locks directories", (locks_directories_of_all,), 0),
    Attack("takes all memory", (takes_all_memory,)),
    Attack("pins", (pins_and_closes,)),
    Attack("has many pieces", (has_very_many_pieces,)),
    Attack("makes pagers", (makes_and_removes_pagers, partial(makes_and_removes_pagers, name="two")), 2),
    Attack("writes empty lines", (writes_empty_lines,)),
    Attack("writes commands", (writes_commands_without_end,)),
    Attack("loses closes", (loses_closes,)),
    Attack("locks an epoll set", (locks_an_epoll_set,), 0),
    Attack("is behind READs", (is_behind_reads,)),
    Attack("sets attributes", (puts_attributes_on_files_of_others,)),
    Attack("opens files", (opens_many_files,)),
    Attack("writes nonsense to answers", (front_attacks.writes_nonsense_to_answers,)),
    Attack("floods with interrupts", (front_attacks.floods_with_interrupts,)),
    Attack("marks and reads", (front_attacks.marks_and_reads,)),
    Attack("writes large pieces", (front_attacks.writes_large_pieces,)),
    Attack("keeps many open", (front_attacks.keeps_very_many_open,)),
]


def begin(crowd: Crowd, steps: Steps, mounted: Mounted) -> None:
    """Have a process of the hostile user do something, and wait until it has begun."""
    begun, into = os.pipe()
    try:
        crowd.start(partial(_carry_out, steps, into), mounted.path)
        os.close(into)
        assert select.select([begun], [], [], 30.0)[0]
        assert os.read(begun, 1), f"it could not be begun: {steps}"
    finally:
        os.close(begun)


def _carry_out(steps: Steps, begun: int, mount: Path) -> None:
    carried_out = steps(str(mount))
    next(carried_out)
    os.write(begun, b".")
    for _ in carried_out:
        pass
    signal.pause()


@contextmanager
def under(mounted: Mounted, attack: Attack) -> Iterator[Crowd]:
    """Do something hostile meanwhile, and clean up behind it."""
    crowd = Crowd()
    try:
        if attack.by_root is not None:
            attack.by_root(mounted, crowd)
        for steps in attack.steps:
            begin(crowd, steps, mounted)
        yield crowd
        ended = [pid for pid in crowd.pids if process_state(pid) == "Z"]
        assert not ended or attack.by_root, "he could not go on"  # who waits for himself is found, and ends
    finally:
        crowd.kill()
        for pager in [path for path in (mounted.path / "control").iterdir() if path.is_dir()]:
            if pager.name != "honest":
                clean(mounted, pager.name)
        wait_for(crowd.reap, "all have ended")
        for top in ("vmo", "aux"):
            for file in (mounted.path / top).iterdir():
                if not file.name.startswith("honest"):
                    file.unlink()


# What is measured


@pytest.fixture(scope="module")
def mounted() -> Iterator[Mounted]:
    with reachable_mount(OPTIONS) as mounted:
        yield mounted


@pytest.fixture(scope="module")
def neighbour(mounted: Mounted) -> Iterator[Neighbour]:
    neighbour = Neighbour(mounted)
    try:
        yield neighbour
    finally:
        neighbour.close()
        clean(mounted, "honest")


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    rows: list[str] = []
    yield rows
    head = f"{'99th percentile, ms':24}" + "".join(f"{kind:>28}" for kind in KINDS)
    sys.stderr.write("\n".join(["", head, *rows, ""]))


def percentile(times: list[float]) -> float:
    return sorted(times)[min(len(times) - 1, len(times) * 99 // 100)]


def over_limit(mounted: Mounted) -> list[str]:
    """Return what the hostile user has more of than he may."""
    values: dict[str, int] = {}
    for line in (mounted.path / "control/stats").read_text().splitlines():
        name, _, value = line.rpartition(" ")
        if not line.startswith("#") and value.isdecimal():
            values[name] = int(value)
    found = []
    for name, limit in values.items():
        _, is_limit, resource = name.partition("vmofs_limit_user_")
        unit = "_bytes" if resource == "memory" else ""
        held = values.get(f'vmofs_user_{resource}{unit}{{uid="{HOSTILE.uid}"}}', 0)
        if is_limit and limit and held > limit:
            found.append(f"{held} {resource} of {limit}")
    return found


@contextmanager
def limits_kept(mounted: Mounted) -> Iterator[None]:
    """Look again and again whether the hostile user has no more than he may."""
    over, found = Event(), set[str]()

    def look() -> None:
        while not over.wait(0.1):
            found.update(over_limit(mounted))

    looking = Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()
    found.update(over_limit(mounted))
    assert not found


def measured(mounted: Mounted, neighbour: Neighbour, attack: Attack) -> tuple[Times, Times]:
    """Return how long the neighbour's work took beside who only computes, and beside the attack, in turn."""
    harmless = Attack("computes", (computes,) * attack.busy)
    taken: tuple[Times, Times] = ({}, {})
    for _ in range(ROUNDS):
        for times, what in zip(taken, (harmless, attack), strict=True):
            with under(mounted, what), limits_kept(mounted):
                for kind, some in neighbour.work(SECONDS).items():
                    times.setdefault(kind, []).extend(some)
    return taken


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name.replace(" ", "_"))
def test_a_neighbour_gets_right_answers_in_time(
    mounted: Mounted, neighbour: Neighbour, table: list[str], attack: Attack
) -> None:
    for _ in range(ATTEMPTS):
        harmless, hostile = measured(mounted, neighbour, attack)
        took = {kind: (percentile(harmless[kind]), percentile(hostile[kind])) for kind in KINDS}
        cells = [f"{a * 1e3:8.2f} {b * 1e3:8.2f} {b / a:5.1f}x" for a, b in took.values()]
        table.append(f"{attack.name:24}" + "".join(f"{cell:>28}" for cell in cells))
        felt = [kind for kind, (a, b) in took.items() if b > max(UNFELT_SECONDS, MOST_TIMES * a)]
        if not felt:
            return
    pytest.fail(f"beside who {attack.name}: {table[-ATTEMPTS:]}")


def test_no_process_is_left_of_a_mount_that_was_attacked_in_all_ways() -> None:
    with reachable_mount(OPTIONS) as mounted, ExitStack() as all_ways:
        mounted.expected_log.append("threads wait for pages and hold that up")
        neighbour = Neighbour(mounted)
        all_ways.callback(neighbour.close)
        processes = [mounted.pid, *descendants(mounted.pid)]
        crowd = Crowd()
        try:
            reads_a_fifo_of_root(mounted, crowd)
            for attack in ATTACKS:
                for steps in attack.steps:
                    if attack.name not in {"has many pieces", "has names that stay"}:  # names of pagers are taken
                        begin(crowd, steps, mounted)
            neighbour.work(0.5)
        finally:
            crowd.kill()
            wait_for(crowd.reap, "all have ended")
        all_ways.close()
        mounted.umount()
        mounted.process.wait(END_SECONDS)
        assert len(processes) > 1  # with its guardian
        wait_for(lambda: all(map(has_ended, processes)), "all have ended", END_SECONDS)
