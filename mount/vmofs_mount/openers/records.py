"""What openers serve, written down for other commands: one file of JSON for each opener."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vmofs_mount.linux.procfs import start_of
from vmofs_mount.openers.places import runtime_directory


@dataclass
class ServedFile:
    """A file that an opener serves."""

    name: str
    """Below ``vmo/``."""
    source: str
    size: int
    version: str | None = None
    link: str | None = None
    """A symbolic link to it that was made."""
    failures: int = 0
    """Reads of it that have failed."""
    last_failure: str = ""


@dataclass
class Record:
    """What one opener serves. ``number`` and ``started`` say which process it is; a number alone may be another's."""

    pager: str
    mount: str
    is_own_mount: bool
    number: int
    started: int
    request: dict[str, object] = field(default_factory=dict)
    """What was opened and how, for ``vmofs check``."""
    files: list[ServedFile] = field(default_factory=list)

    @property
    def is_alive(self) -> bool:
        """Whether the process is there."""
        return start_of(self.number) == self.started

    def path(self, file: ServedFile) -> Path:
        """Return where a file is."""
        return Path(self.mount, "vmo", file.name)


def records_directory() -> Path:
    """Return the directory of the user's records; it is made."""
    path = runtime_directory() / "vmofs-openers"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def save(record: Record) -> None:
    """Write a record; who reads at the same time sees the old one or the new one."""
    path = _path(record.pager)
    new = path.with_suffix(f".{os.getpid()}.new")
    new.write_text(json.dumps(asdict(record)))
    new.rename(path)


def load(pager: str) -> Record | None:
    """Return the record of an opener, by the name of its pager."""
    try:
        fields = json.loads(_path(pager).read_text())
        return Record(**(fields | {"files": [ServedFile(**file) for file in fields["files"]]}))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remove(record: Record) -> None:
    """Remove a record."""
    _path(record.pager).unlink(missing_ok=True)


def records() -> Iterator[Record]:
    """Yield all records of the user."""
    for path in sorted(records_directory().glob("*.json")):
        record = load(path.stem)
        if record is not None:
            yield record


def _path(pager: str) -> Path:
    return records_directory() / f"{pager}.json"
