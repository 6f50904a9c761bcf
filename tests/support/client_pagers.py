"""Pagers for tests of the client library, each of one or several patterned objects; and a server that is cleaned up."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from vmofs.client import Data, Object, Pager, Server, serve
from vmofs.testing import pattern

PAGE = 4096
KEY = pattern.KEY_STEP


class Patterned(Pager):
    """Objects whose content is the pattern of their place in the list; a test says what is done before each read."""

    def __init__(self, *objects: Object, before: Callable[[int], None] = lambda _: None) -> None:
        self.listed = list(objects) or [Object("x", 3_000_000)]
        self.before = before
        self.calls: list[tuple[str, int, int]] = []
        self.closed: list[str] = []

    def key(self, name: str) -> int:
        """Return the key of the pattern of an object."""
        return KEY * (1 + [obj.name for obj in self.listed].index(name))

    def objects(self) -> Iterable[Object]:
        """Return what there is."""
        return self.listed

    def read(self, obj: Object, offset: int, length: int) -> Data:
        """Return the pattern."""
        self.calls.append((obj.name, offset, length))
        self.before(len(self.calls))
        return pattern.make(self.key(obj.name), offset, length)

    def close(self, obj: Object) -> None:
        """Note it."""
        self.closed.append(obj.name)


class Coroutine(Patterned):
    """The same by a coroutine function."""

    async def read(self, obj: Object, offset: int, length: int) -> bytes:  # type: ignore[override]
        """Return the pattern."""
        return bytes(Patterned.read(self, obj, offset, length))


class Serving:
    """Serves pagers in this process, each under a name of its own; removes them at the end."""

    def __init__(self, mount: Path, name: str) -> None:
        self.mount, self.name = mount, name
        self.servers: list[Server] = []

    def __call__(self, pager: Pager, *, name: str = "", hard: bool = False) -> Server:
        """Serve a pager."""
        server = Server(self.mount, pager, name=name or f"{self.name}{len(self.servers)}", hard=hard)
        server.start()
        self.servers.append(server)
        return server

    def close(self) -> None:
        """Remove what is left."""
        for server in self.servers:
            server.stop()
        for server in self.servers:
            if server.directory.is_there:
                server.remove()
        assert open_below(self.mount) == []


def open_below(directory: Path) -> list[str]:
    """Return what this process has open below a directory."""
    links = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of this listing
            links.append(str(fd.readlink()))
    return [link for link in links if link.startswith(f"{directory}/")]


def main() -> None:
    """Serve one object in a process of its own: MOUNT PAGER NAME SIZE SECONDS, the last for each read."""
    mount, pager, name, size, seconds = sys.argv[1:]

    def say() -> None:
        print("ready", flush=True)  # noqa: T201 - who started us waits for it

    patterned = Patterned(Object(name, int(size)), before=lambda _: time.sleep(float(seconds)))
    serve(mount, patterned, name=pager, ready=say)


if __name__ == "__main__":
    main()
