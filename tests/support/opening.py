"""A file that is open for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY, mode: int = 0o644) -> Iterator[int]:
    """Open a file for a while."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)
