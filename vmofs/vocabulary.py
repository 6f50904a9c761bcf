"""The words of the contract that both the core and the text of the control files use. Each is said here once.

The values are the words of the command files and FIFOs; for ``PagerOp``, whose words are its names, Zircon's numbers.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple

from vmofs.units import PageRange


class PacketCommand(StrEnum):
    """What a packet asks of the pager. Zircon: ZX_PAGER_VMO_*."""

    READ = "READ"
    DIRTY = "DIRTY"
    COMPLETE = "COMPLETE"
    WRITEBACK = "WRITEBACK"
    """Ours; only for VMOs that were made with the option ``writeback``: somebody waits in fsync for these pages."""
    TOUCH = "TOUCH"
    """Ours; only for pages that the pager has marked: somebody has read these. There is nothing to answer."""


NOTES = frozenset({PacketCommand.COMPLETE, PacketCommand.TOUCH})
"""Packets that are no requests: nobody waits for an answer."""


class PagerOp(IntEnum):
    """An operation of ``op_range``. Zircon: ZX_PAGER_OP_*."""

    FAIL = 1
    DIRTY = 2
    WRITEBACK_BEGIN = 3
    WRITEBACK_END = 4


class VmoOp(StrEnum):
    """An operation of ``vmo_op_range``. Zircon: ZX_VMO_OP_*."""

    COMMIT = "commit"
    DECOMMIT = "decommit"
    ZERO = "zero"
    PREFETCH = "prefetch"
    ALWAYS_NEED = "always_need"
    DONT_NEED = "dont_need"


class ChildKind(StrEnum):
    """What a child shares with its parent. Zircon: ZX_VMO_CHILD_*."""

    SNAPSHOT = "snapshot"
    SNAPSHOT_AT_LEAST_ON_WRITE = "snapshot_at_least_on_write"
    SNAPSHOT_MODIFIED = "snapshot_modified"
    SLICE = "slice"
    REFERENCE = "reference"


class AuxKind(StrEnum):
    """How the memory of an aux came to be. Pages of the last two cannot be taken, and only these have words."""

    PLAIN = "plain"
    CONTIGUOUS = "contiguous"
    PHYSICAL = "physical"


class DirtyRange(NamedTuple):
    """One record of ``query_dirty_ranges``: pages, and whether they are zeros. Zircon: ``zx_vmo_dirty_range_t``."""

    range: PageRange
    is_zero: bool

    @property
    def offset(self) -> int:
        """Where it starts, in bytes."""
        return self.range.offset

    @property
    def length(self) -> int:
        """How long it is, in bytes."""
        return self.range.length
