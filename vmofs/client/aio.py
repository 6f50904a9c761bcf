"""The client under trio: ``serve`` as a task, and requests as an asynchronous iterator.

Commands of ``Mount`` and its objects return at once as a rule. One that waits for pages belongs into a thread:
``await trio.to_thread.run_sync(vmo.op_range, VmoOp.COMMIT)``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import trio

from vmofs.client.mount import PagerDirectory
from vmofs.client.pager import Pager
from vmofs.client.requests import Request, Requests
from vmofs.client.serving import Server


async def serve(
    mount: str | os.PathLike[str],
    pager: Pager,
    *,
    name: str | None = None,
    hard: bool = False,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a pager until its directory is closed, or this is cancelled; coroutines of the pager run in this loop.

    For ``nursery.start``, which returns the ``Server`` when the files are there. The rest is as of
    ``vmofs.client.serve``.
    """
    server = Server(mount, pager, name=name, hard=hard, awaiter=_awaiter(trio.lowlevel.current_trio_token()))
    await trio.to_thread.run_sync(server.start)
    try:
        task_status.started(server)
        await trio.to_thread.run_sync(server.wait, abandon_on_cancel=True)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(server.stop)


@asynccontextmanager
async def requests(pager: PagerDirectory, port: str = "requests") -> AsyncIterator[AsyncIterator[Request]]:
    """Open a FIFO, and close it at the end of the block; between them ``async for`` gives each request."""
    opened = await trio.to_thread.run_sync(pager.requests, port)
    try:
        async with aclosing(_incoming(opened)) as incoming:
            yield incoming
    finally:
        opened.close()


async def _incoming(opened: Requests) -> AsyncGenerator[Request, None]:
    while True:
        await trio.lowlevel.wait_readable(opened.fileno())
        try:
            request = opened.next(0.0)
        except TimeoutError:
            continue  # a line was cut
        if request is None:
            return
        yield request
        while more := opened.buffered():
            yield more


def _awaiter(token: trio.lowlevel.TrioToken) -> Callable[[Awaitable[Any], float], Any]:
    """Return what runs coroutines of the pager in this loop, called from its threads."""

    def run(awaitable: Awaitable[Any], seconds: float) -> Any:  # noqa: ANN401 - what the coroutine returns
        async def waited() -> Any:  # noqa: ANN401 - as above
            with trio.fail_after(seconds):
                return await awaitable

        try:
            return trio.from_thread.run(waited, trio_token=token)
        except trio.TooSlowError:
            raise TimeoutError(f"a coroutine of the pager did not return within {seconds:g} s") from None

    return run
