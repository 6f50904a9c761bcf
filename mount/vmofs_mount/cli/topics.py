"""``vmofs help TOPIC``: the documents, which a wheel has inside, and a checkout beside the package."""

from __future__ import annotations

import pydoc
import sys
from pathlib import Path

TOPICS = {
    "semantics": ("SEMANTICS.md", "what each operation does, exactly"),
    "administration": ("ADMINISTRATION.md", "how a mount ends, limits, rights, fstab, systemd"),
    "pagers": ("PAGERS.md", "pagers in Python"),
    "answers": ("ANSWERS.md", "many answers in one write"),
    "failures": ("FAILURES.md", "what happens when something goes wrong"),
    "readers": ("READERS.md", "which pages programs read"),
}
"""The topics: file, and what it is about."""


def show(topic: str) -> None:
    """Print a document, by a pager such as less on a terminal."""
    name, _ = TOPICS[topic]
    package = Path(__file__).parents[1]
    path = package / "manual" / name
    text = (path if path.exists() else package.parent / name).read_text()
    if sys.stdout.isatty():
        pydoc.pager(text)
    else:
        sys.stdout.write(text)
