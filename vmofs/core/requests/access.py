"""Accesses: calls that may have to wait for a pager, without any I/O or thread of their own.

What such a call does is written down as a generator, top to bottom, as Zircon's kernel does it in one thread. Where it
lacks pages it yields a ``Need``; the access then waits at a page request, and when it is woken the generator looks
again: nothing is assumed to have stayed as it was. A failure is thrown into the generator.

Where there is much to do, it yields None now and then: others may have their turn. Then, too, nothing is assumed.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Generic, NamedTuple, ParamSpec, TypeVar

from vmofs.core.requests.request import Waiter
from vmofs.status import Status, VmoError
from vmofs.units import PageRange
from vmofs.vocabulary import PacketCommand

if TYPE_CHECKING:
    from vmofs.core.requests.page_source import PageSource
    from vmofs.core.requests.request import PageRequest

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Need(NamedTuple):
    """What an access lacks. ``wanted`` is set by those who can go on as soon as that one page is there."""

    source: PageSource
    command: PacketCommand
    range: PageRange
    wanted: int | None = None


Steps = Generator[Need | None, None, T_co]
"""The body of an access: yields what it lacks, None to rest, returns its result, raises VmoError."""


def without_waiting(steps: Steps[T]) -> T:
    """Carry out a call that only rests, in one go."""
    while True:
        try:
            need = next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
        assert need is None, need


def at_once(call: Callable[P, Steps[T]]) -> Callable[P, T]:
    """Make of a call that only rests one that does everything in one go and returns its result."""

    @functools.wraps(call)
    def do(*args: P.args, **kwargs: P.kwargs) -> T:
        return without_waiting(call(*args, **kwargs))

    return do


def as_access(call: Callable[P, Steps[T]]) -> Callable[P, Access[T]]:
    """Make of a call one that returns it as an access, to be started."""

    @functools.wraps(call)
    def make(*args: P.args, **kwargs: P.kwargs) -> Access[T]:
        return Access(call(*args, **kwargs))

    return make


class Access(Generic[T_co]):
    """One call in progress. Start it; when it is not done, ``System.run_ready`` returns it once it is.

    ``token`` and ``origin`` belong to the edge: whatever it needs to wake the caller, and who that is. If it sets
    ``may_rest``, a call that has much to do stops in between, and ``is_resting``: then the edge is to call ``go_on``.
    """

    __slots__ = (
        "__weakref__",
        "_error",
        "_steps",
        "_value",
        "_waiter",
        "done",
        "is_resting",
        "may_rest",
        "origin",
        "token",
    )

    def __init__(self, steps: Steps[T_co]) -> None:
        self._steps = steps
        self._value: list[T_co] = []
        self._error: VmoError | None = None
        self._waiter: Waiter | None = None
        self.done = False
        self.may_rest = False
        self.is_resting = False
        self.token: object = None
        self.origin: object = None

    def start(self, now: float) -> bool:
        """Run until the call is finished or must wait; return whether it is finished. ``now`` is in seconds."""
        return self.step(now)

    def go_on(self, now: float) -> bool:
        """Do as ``start`` does, after a rest."""
        self.is_resting = False
        return self.step(now)

    def result(self) -> T_co:
        """Return what the finished call returns.

        Raises:
            VmoError: the call failed.
        """
        if self._error is not None:
            # Not itself: an error refers to the frames that it comes through, those have the access, and with it they
            # would stay, and what was to be written, until the garbage is collected.
            raise copy.copy(self._error)
        return self._value[0]

    def cancel(self) -> None:
        """End the call without a result, as when its thread is killed: its request goes to others or is withdrawn."""
        self._steps.close()
        self._finish()

    def abort(self, error: VmoError) -> None:
        """End a call that waits with an error of the edge's; its request goes to others or is withdrawn."""
        self._error = error
        self.cancel()

    @property
    def waits_for(self) -> Waiter | None:
        """The waiter by which this access is blocked; None when it is not."""
        return self._waiter

    def step(self, now: float) -> bool:
        """Look again after a wake-up; return whether the call is finished. For ``start`` and ``run_ready`` only."""
        waiter = self._waiter
        try:
            if waiter is not None and waiter.latched is not None:
                need = self._steps.throw(_failure(waiter))
            else:
                need = next(self._steps)
            while need is None and not self.may_rest:
                need = next(self._steps)
        except StopIteration as stop:
            self._value.append(stop.value)
            self._finish()
        except VmoError as error:
            self._error = error.with_traceback(None)
            self._finish()
        else:
            if need is None:
                self._rest()
            else:
                self._wait(need, now)
        return self.done

    def wait_at(self, request: PageRequest) -> None:
        """Wait for one page, without having started, at a request that was made of a miss. For ``PageSource`` only."""
        waiter = self._waiter = Waiter(self, request.range, request.range.start)
        waiter.request = request
        if request.primary is None:
            request.primary = waiter
        else:
            request.overlap(waiter)

    def _rest(self) -> None:
        """Wait for nobody."""
        self.is_resting = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and waiter.request is not None:
            waiter.request.source.leave(waiter)

    def _wait(self, need: Need, now: float) -> None:
        waiter = self._waiter
        if waiter is not None and waiter.request is not None:
            request = waiter.request
            same = request.source is need.source and request.command is need.command
            if same and need.range.start in request.range and waiter.latched is None:
                waiter.wanted = need.wanted  # woken early: goes on waiting on the same request
                return
            request.source.leave(waiter)
        self._waiter = Waiter(self, need.range, need.wanted)
        need.source.wait(self._waiter, need.command, now)

    def _finish(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and waiter.request is not None:
            waiter.request.source.leave(waiter)
        self.done = True


def _failure(waiter: Waiter) -> VmoError:
    status = waiter.latched
    assert status is not None
    sentences = {
        Status.TIMED_OUT: "no pager answered for pages {} within the deadline",
        Status.BAD_STATE: "the pager failed pages {}, or it is gone",
    }
    sentence = sentences.get(status, "the pager failed pages {}").format(waiter.range)
    return VmoError.of(status, f"{sentence}: {waiter.reason}" if waiter.reason else sentence)
