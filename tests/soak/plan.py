"""What a soak does, drawn from its seed alone and not from how earlier steps ended: a seed tells the whole plan."""

from __future__ import annotations

import random
from typing import NamedTuple

from vmofs.units import PAGE_SIZE

MOST_PAGES = 40
"""Of a file that one worker has for itself."""

KINDS = {
    "read": 30,
    "crowd": 4,
    "hold": 2,
    "held_read": 12,
    "write": 22,
    "store": 6,
    "truncate": 6,
    "stream_size": 4,
    "zero": 5,
    "commit": 2,
    "prefetch": 3,
    "hint": 2,
    "evict": 6,
    "supply": 4,
    "cycle": 8,
    "fsync": 3,
    "pin": 2,
    "rename": 2,
    "child": 3,
    "child_read": 6,
    "child_write": 5,
    "child_drop": 2,
    "killed_reader": 1,
    "detach": 1,
}
"""What is done with a file, and how often: parts of the sum."""


class Op(NamedTuple):
    """One step with one file. Numbers are cut to the file as it is then; ``way`` decides all that is open."""

    number: int
    kind: str
    offset: int
    length: int
    way: int

    def __str__(self) -> str:
        return f"{self.number}: {self.kind} {self.offset:#x}+{self.length:#x} way {self.way}"


class Options(NamedTuple):
    """How a file is made."""

    pages: int
    tail: int
    words: str

    @property
    def size(self) -> int:
        """Its size at the beginning."""
        return max(0, self.pages * PAGE_SIZE - self.tail)

    def __str__(self) -> str:
        return f"create_vmo {self.size} {self.words}".rstrip()


def draw_options(numbers: random.Random) -> Options:
    """Return how the next file is made."""
    words = [word for word in ("trap_dirty", "writeback", "noevict") if numbers.random() < 0.4]
    words += numbers.choice([[], [], ["resizable"], ["resizable"], ["unbounded"]])
    pages = numbers.choice([1, 2, 3, 5, 8, 16, MOST_PAGES, numbers.randrange(MOST_PAGES)])
    return Options(pages, numbers.choice([0, 0, 1, 100, PAGE_SIZE - 1]), " ".join(words))


def draw_op(numbers: random.Random, number: int) -> Op:
    """Return the next step."""
    (kind,) = numbers.choices(list(KINDS), list(KINDS.values()))
    offset = numbers.randrange(MOST_PAGES * PAGE_SIZE)
    if numbers.random() < 0.4:
        offset -= offset % PAGE_SIZE
    length = numbers.choice(
        [
            1,
            8,
            numbers.randrange(1, PAGE_SIZE),
            PAGE_SIZE,
            PAGE_SIZE,
            2 * PAGE_SIZE,
            numbers.randrange(1, 24 * PAGE_SIZE),
        ]
    )
    return Op(number, kind, offset, length, numbers.randrange(1 << 16))


def numbers_for(seed: int, *names: object) -> random.Random:
    """Return random numbers of their own for a part of the plan."""
    return random.Random("/".join(map(str, (seed, *names))))  # noqa: S311 - nothing secret
