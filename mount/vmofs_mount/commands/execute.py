"""What all commands have in common: finding who carries one out, answering when that can be seen, and the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from vmofs.status import Status
from vmofs.wire.commands import Command, OpRange
from vmofs.wire.results import add_held, format_result
from vmofs_mount.cache.page_cache import DROP_SECONDS, PageCache
from vmofs_mount.files.command_file import CommandHandle, Waiting
from vmofs_mount.loop.engine import Engine
from vmofs_mount.observe.event_log import EventLog
from vmofs_mount.tree.inodes import AuxFile, VmoFile, vmo_of

OK = format_result(Status.OK)

_LOGGED_CHARACTERS = 500
"""Of a command in ``control/log``: a line may be 64 KiB long."""

Method = Callable[[Any, CommandHandle], Awaitable[str | Waiting]]
"""Carries out one kind of command."""


class Commands:
    """Carries out commands by the methods of several parts, and logs what became of them."""

    def __init__(self, engine: Engine, cache: PageCache, log: EventLog, *parts: dict[type[Command], Method]) -> None:
        self._engine = engine
        self._cache = cache
        self._log = log
        self._methods = {command: method for part in parts for command, method in part.items()}

    async def execute(self, command: Command, handle: CommandHandle) -> str | Waiting:
        """Carry out one command and return its result text, or what remains to be waited for.

        It is answered, whatever the answer, when what it changed or took of the files that it names has gone from the
        page cache, as far as nobody owes that: whoever reads then sees it. Otherwise the answer says ``held=N``, of the
        file that it took pages from; but not of a VMO that is being written back, whose zeros became absent: whoever
        still sees them sees what was written.

        Raises:
            VmoError: it failed.
        """
        named: list[VmoFile | AuxFile] = []
        handle.named = named
        held = 0
        try:
            with self._engine.change():
                result = await self._methods[type(command)](command, handle)
        finally:
            if self._cache.is_behind:
                held = await self._wait_dropped(named)
        if not isinstance(result, str):
            return partial(self._rest, named, result)
        return result if isinstance(command, OpRange) else add_held(result, held)

    async def _rest(self, named: list[VmoFile | AuxFile], rest: Waiting) -> str:
        held = 0
        try:
            with self._engine.change():
                result = await rest()
        finally:
            held = await self._wait_dropped(named)
        return add_held(result, held)

    async def _wait_dropped(self, files: list[VmoFile | AuxFile]) -> int:
        """Wait for all files, and return what is left of the last: of a supply that is the aux."""
        held = 0
        for file in files:
            held = await self._cache.wait_dropped_everywhere(vmo_of(file), DROP_SECONDS)
        return held

    def note(self, handle: CommandHandle, line: str, result: str) -> None:
        """Log what became of a line."""
        shown = line.strip()
        if len(shown) > _LOGGED_CHARACTERS:
            shown = f"{shown[:_LOGGED_CHARACTERS]}..."
        self._log.add("command", f"uid={handle.identity.uid} {handle.file.path} {shown} -> {result}")
