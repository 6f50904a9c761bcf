"""READs that wait for a pager: which of their readers were killed, and who is held up behind them in the kernel.

A reader that waits for the page of a READ ahead of time dies at once when it is killed. A reader that waits for the
answer to a READ of its own does not: with ``O_DIRECT``, or for a page that is in the cache without content, since its
READ failed or it is just being dropped. So the processes of READs are looked at, and a READ whose process was killed is
let go: answered EINTR.

The kernel has the pages of a READ locked until it is answered. A reader can be killed, but its READ stays. Other
readers behind it can be killed as well. These cannot, and have the file locked:

- a process that writes to one of the pages, before its WRITE is sent: vmofs never hears of it;
- a process that has changed the size: the answer to SETATTR makes the kernel wait for every page of the file;
- behind these two, a process that removes or renames the file, with its directory locked, and so everybody who uses
  that directory.

So SETATTR is not answered while a READ of the file waits (``wait_until_free``). And a READ is let go in three cases:

- its process was killed;
- its process has ended, and another one that has the file open sleeps uninterruptibly or was killed;
- the directory of the file is locked while somebody is behind the READ who may have the file locked, or is locked for
  so long that this has to be assumed. Another user may be the one who locks the directory.

That reaches no reader who still waits: the kernel asks again by itself for a page whose READ ahead of time failed, but
only once. A READ that may be a second one (``again``) is let go only if its own process was killed, or has ended and
somebody is held up for sure, or for a directory that others wait for.

It does not always help at once: the reader may have the page locked again before the one behind it wakes. So no READ is
let go for the sake of others while SETATTR waits here. The one who has the file locked is then the one who waits for
the answer to SETATTR. It gets that answer, and it would only be sent behind the next READ.
"""

# Rules
#
# 1. A READ is noted before it waits (`began`), and forgotten before it is answered (`ended`).
# 2. A READ is let go only when somebody is held up, or when its own process was killed. The kernel asks again by itself
#    only once, so to let READs go without need would give a reader an error that no pager gave.
# 3. A READ that may be the second one (`again`) is not asked for a third time. It is let go only for the reasons that
#    the docstring names.
# 4. While SETATTR of the size waits here, no READ of a process that lives is let go for the sake of others.
# 5. /proc is read in worker threads, for half a second at most where a process may keep its files locked (`is_behind`).
#
# How it works
#
#     a READ waits --> `KillWatch`: its process was killed --------------------------------> let go
#         |
#         +--> the file may be written to, or its size is being changed: `_watch` looks
#                 |--> a reader was killed, or has ended while somebody is held up --------> let go
#                 |--> another process that has the file open was killed ------------------> let go
#                 +--> `LockedDirectories`: its directory is locked --> `_judge`
#                         |--> a process that has the file open is behind the READ --------> let go
#                         +--> locked for 3 s, and nobody is seen to be the reason --------> let go, all of them
#
# To be let go is EINTR for the handler. A reader does not see it: the kernel asks again by itself, once.
#
# What is not nice
#
# The kernel knows who waits for whom, and tells nobody. All of this is a guess from /proc, and each constant is a
# compromise between a look too early, which costs time, and one too late, which holds somebody up.
#
# What else changes with this file
#
# kill_watch.py and locked_directories.py beside it; `run_unless_killed` and `wait_until_unread` in files/vmo_file.py;
# "The kernel's locks" in mount/CONCURRENCY.md. Tests: tests/fuse/test_behind_a_read.py,
# tests/fuse/test_directory_locks.py, tests/fuse/test_faults_in_calls.py.

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import trio

from vmofs.status import BadStateError
from vmofs_mount.cache.waiting_reads import WaitingRead, WaitingReads
from vmofs_mount.linux.procfs import descendants, has_ended, is_behind, is_dying, is_stuck, state_of
from vmofs_mount.loop.engine import Engine
from vmofs_mount.loop.lanes import Lanes
from vmofs_mount.tree.inodes import VmoFile
from vmofs_mount.waits.kill_watch import KILL_SECONDS, KillWatch
from vmofs_mount.waits.locked_directories import LockedDirectories

_REST_PER_LOOK = 10
"""With many processes a look takes long; so many times as long the next one is waited for."""

_MOST_AT_ONCE = 128
"""READs that are let go in one turn."""

_PATIENCE_SECONDS = 0.01
"""How long a READ waits before anybody is looked for who may be behind it. Most are answered sooner."""

_UNEXPLAINED_SECONDS = 3.0
"""How long a directory may be locked while no process is seen to be behind any READ there, nor to list it. One that has
inherited the file, or was given it, is not seen. After that time all READs in the directory are let go."""

_JUDGE_SECONDS = 0.5

_SETTLE_SECONDS = 0.005
"""How often it is looked, after SETATTR was answered, whether a READ that came later holds up who changed the size."""


class LetGoError(BadStateError):
    """A call is answered since its process was killed, or so that others can go on.

    EINTR, which no status of Zircon's stands for: most programs then simply make the call again.
    """


class _Seen(NamedTuple):
    """Which readers have ended, who of all was killed, and whether somebody else sleeps uninterruptibly."""

    ended: set[int]
    dying: set[int]
    somebody_stuck: bool


class ReadWatch:
    """The READs of all files that wait. Tasks run in ``spawn``'s nursery.

    ``openers`` are the processes that have each file open, if any.
    """

    def __init__(
        self,
        engine: Engine,
        spawn: Callable[..., None],
        directories: LockedDirectories,
        killed: KillWatch,
        openers: Mapping[VmoFile, Iterable[int]],
        reads: WaitingReads,
    ) -> None:
        self._engine = engine
        self._spawn = spawn
        self._directories = directories
        self._killed = killed
        self._openers = openers
        self._reads = reads
        self._changing: Counter[VmoFile] = Counter()  # whose size somebody waits to change
        self._watched: set[VmoFile] = set()
        self._locked: WeakKeyDictionary[VmoFile, tuple[float, float]] = WeakKeyDictionary()  # from when to when
        self._judged: set[VmoFile] = set()
        self._lookers = Lanes(8)

    def began(self, read: WaitingRead) -> None:
        """Learn of a READ that waits."""
        if not read.handle.has_page_cache:
            # Of one by libaio the kernel does not tell that its process was killed, which waits for the answer.
            self._watch_process(read)
        elif read.handle.file.writer_count:
            # A process that may write may be about to wait for a page of this READ, with the file locked.
            self.watch(read.handle.file)

    def interrupted(self, read: WaitingRead) -> None:
        """Let a READ go if who waits for it was killed, now or later: the kernel tells of a first signal only."""
        if not read.is_watched:
            self._watch_process(read)
        self._killed.look()

    def _watch_process(self, read: WaitingRead) -> None:
        read.is_watched = True
        self._killed.add(read, read.thread or read.handle.process, lambda: self._let_go(read.handle.file, [read]))

    def ended(self, read: WaitingRead) -> None:
        """Learn that a READ whose process is watched is about to be answered."""
        self._killed.remove(read)

    async def wait_until_free(self, file: VmoFile) -> None:
        """Wait until no READ of a file waits, to answer SETATTR before the next await."""
        self._changing[file] += 1
        try:
            while self._reads.waits(file):
                self.watch(file)
                await self._reads.wait_until_free(file)
                await trio.sleep(_SETTLE_SECONDS)  # readers who were behind that READ are about to ask themselves
        finally:
            self._changing[file] -= 1
            if not self._changing[file]:
                del self._changing[file]

    def size_answered(self, file: VmoFile, thread: int) -> None:
        """Note that SETATTR is about to be answered: a READ may come before the kernel has acted on the answer."""
        if file.open_count:
            self._spawn(self._see_through, file, thread)

    async def _see_through(self, file: VmoFile, thread: int) -> None:
        await trio.sleep(_SETTLE_SECONDS)
        # SETATTR is answered. A thread that is in state D now most likely waits for a page that a READ has locked.
        while self._reads.waits(file) and await self._state_of(file, thread) == "D":
            self._let_go(file, [read for read in self._reads.of(file) if not read.again])
            await trio.sleep(_SETTLE_SECONDS)

    def watch(self, file: VmoFile) -> None:
        """Look from now on who is held up by the READs of a file, as long as somebody may be."""
        if file not in self._watched and self._is_critical(file):
            self._watched.add(file)
            self._spawn(self._watch, file)

    def _is_critical(self, file: VmoFile) -> bool:
        """Return whether READs wait, and somebody may wait for them who has the file locked."""
        return self._reads.waits(file) and (file.writer_count > 0 or file in self._changing)

    async def _watch(self, file: VmoFile) -> None:
        try:
            await trio.sleep(_PATIENCE_SECONDS)
            if not self._is_critical(file):
                return
            with self._directories.watch(file, lambda: self._directory_locked(file)):
                while self._is_critical(file):
                    began = trio.current_time()
                    await self._let_the_dead_go(file)
                    await trio.sleep(max(KILL_SECONDS, _REST_PER_LOOK * (trio.current_time() - began)))
        finally:
            self._watched.discard(file)
        # A READ may have come since the loop has looked. Not after a cancellation: the next one would be cancelled too.
        self.watch(file)

    async def _let_the_dead_go(self, file: VmoFile) -> None:
        # Taken before the await; the READs are looked up again behind it.
        readers = {read.handle.process for read in self._reads.of(file)}
        openers = {opener for opener in self._openers.get(file, ()) if opener not in readers}
        seen = await self._lookers.run(file.uid, lambda: _look_at(readers, openers))
        is_changing = file in self._changing

        def may_go(read: WaitingRead) -> bool:
            if read.handle.process in seen.dying:
                return True
            if read.handle.process in seen.ended:  # but somebody may have inherited what it had open, and wait
                return bool(seen.dying) or is_changing or (seen.somebody_stuck and not read.again)
            return bool(seen.dying) and not is_changing and not read.again

        self._let_go(file, filter(may_go, self._reads.of(file)))

    def _directory_locked(self, file: VmoFile) -> None:
        """Note that the directory of a file was seen locked: it may be because of this file, or of another."""
        now = trio.current_time()
        since, last = self._locked.get(file, (now, now))
        # Seen again within a tenth of a second: it counts as locked all the time.
        self._locked[file] = (since if now - last < KILL_SECONDS else now, now)
        if file not in self._judged:
            self._judged.add(file)
            self._spawn(self._judge, file)

    async def _judge(self, file: VmoFile) -> None:
        """Let READs go that somebody is behind who has the file locked, perhaps a process that is not known here."""
        try:
            openers = set(self._openers.get(file, ()))
            # If the look takes too long, somebody is taken to be behind: a process that keeps others from looking.
            found = True
            with trio.move_on_after(_JUDGE_SECONDS):  # a process can keep others from looking at it
                found = await self._lookers.run(file.uid, lambda: _is_anybody_behind(openers))
            since, last = self._locked.get(file, (0.0, 0.0))
            # Who changes the size, and so has the file locked, then waits for our answer, and gets it.
            unexplained = last - max(since, self._directories.explained_at) > _UNEXPLAINED_SECONDS
            if found:
                self._directories.blame(file.uid)
            if (found or unexplained) and file not in self._changing:
                self._let_go(file, self._reads.of(file))
        finally:
            self._judged.discard(file)

    def _let_go(self, file: VmoFile, reads: Iterable[WaitingRead]) -> None:
        waiting = (read for read in reads if not read.access.done)
        for read in list(islice(waiting, _MOST_AT_ONCE)):  # the next look finds the others
            # Its handler runs later. `done` tells the next look that this one is on its way.
            self._engine.abort(read.access, LetGoError(f"others who use {file.path} must go on"))

    async def _state_of(self, file: VmoFile, thread: int) -> str:
        return await self._lookers.run(file.uid, lambda: state_of(Path(f"/proc/{thread}")))


def _family(openers: set[int]) -> set[int]:
    return {child for opener in openers for child in (opener, *descendants(opener))}


def _is_anybody_behind(openers: set[int]) -> bool:
    """Return whether a process that may have a file open waits in the kernel, and not just for what it reads."""
    return any(map(is_behind, _family(openers)))


def _look_at(readers: set[int], openers: set[int]) -> _Seen:
    """Look at processes that have a file open. In a worker thread."""
    ended = {process for process in readers if has_ended(process)}
    family = _family(openers)
    dying = {process for process in (readers - ended) | family if is_dying(process)}
    return _Seen(ended, dying, any(map(is_stuck, family)))
