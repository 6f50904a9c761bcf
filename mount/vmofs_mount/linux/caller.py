"""Who made a request, as the kernel tells it."""

from __future__ import annotations

from typing import NamedTuple


class Caller(NamedTuple):
    """The process behind a request. ``pid`` is 0 when the process lives in a namespace that we do not see."""

    uid: int
    gid: int
    pid: int = 0
    umask: int = 0o022
