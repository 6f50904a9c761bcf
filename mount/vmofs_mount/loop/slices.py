"""Work that takes long is cut into slices, between which everybody else is served. One slice at a time, user by user.

The event loop serves all users. One operation of a program is several turns of the loop: a request is taken, a thread
reports that it has dropped a page, an answer is read. If long work had a slice in each of these turns, a neighbour
would wait for several slices; and for as many times more as such work is under way. So only one slice is carried out at
a time, whoever wants one, and between two of them the loop has some turns without any.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable

import trio

SECONDS = 0.001
"""How long a slice is, of the thread's own time: while another process has the CPU, nobody is held up by this one."""

_TURNS_BETWEEN = 4
"""Turns of the loop without a slice. To take one request costs up to three of them. One that has nothing to do takes
some 20 us, so long work pays a tenth for that."""

_QUIET_SECONDS = 0.0003
"""If requests came since the last slice, the next one waits until none has come for so long: a program that does one
thing after the other needs some 0.1 ms between two of them."""

_MOST_SECONDS = 0.003
"""How long it waits for that, so that long work goes on beside somebody who never stops to ask."""


class Slices:
    """Hands out slices. Users take turns; what one user has to do is done in the order in which it asks.

    ``spawn`` starts a task for that. ``requests`` returns how many requests the kernel has sent. Nothing is held: a
    slice lasts until whoever has it awaits something.
    """

    def __init__(self, spawn: Callable[..., None], requests: Callable[[], int]) -> None:
        self.spawn = spawn
        self._requests = requests
        self._requests_before = 0
        self._waiting: dict[Hashable, deque[trio.Event]] = {}  # the user whose turn is next comes first
        self._is_handing_out = False

    def begin(self, user: Hashable, *, urgent: bool = False) -> Work:
        """Begin what may take long. The first slice is free: most work is short.

        ``urgent``: somebody waits for it, as for the answers of a pager. It only lets others have their turn.
        """
        return Work(self, None if urgent else user)

    async def wait(self, user: Hashable) -> None:
        """Wait for a slice, while everybody else is served."""
        turn = trio.Event()
        self._waiting.setdefault(user, deque()).append(turn)
        if not self._is_handing_out:
            self._is_handing_out = True
            self.spawn(self._hand_out)
        await turn.wait()

    async def _hand_out(self) -> None:
        try:
            while self._waiting:
                await self._let_others_be_served()
                user = next(iter(self._waiting))
                turns = self._waiting.pop(user)
                turns.popleft().set()
                if turns:
                    self._waiting[user] = turns  # behind all others
                self._requests_before = self._requests()
        finally:
            self._is_handing_out = False

    async def _let_others_be_served(self) -> None:
        for _ in range(_TURNS_BETWEEN):
            await trio.lowlevel.checkpoint()
        before, ends = self._requests_before, trio.current_time() + _MOST_SECONDS
        while (now := self._requests()) != before and trio.current_time() < ends:
            before = now
            await trio.sleep(_QUIET_SECONDS)


class Work:
    """Something that may take long: ``rest`` is to be awaited now and then, at the latest when a slice ``is_over``."""

    __slots__ = ("_ends", "_slices", "_user")

    def __init__(self, slices: Slices, user: Hashable | None) -> None:
        self._slices = slices
        self._user = user
        self._ends = time.thread_time() + SECONDS

    @property
    def is_over(self) -> bool:
        """Whether this slice has been long enough."""
        return time.thread_time() >= self._ends

    async def rest(self) -> None:
        """Let everybody else be served, then wait for the next slice. The world may be another one afterwards."""
        if self._user is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._slices.wait(self._user)
        self._ends = time.thread_time() + SECONDS
