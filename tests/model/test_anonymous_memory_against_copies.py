"""Random trees of anonymous memory: a snapshot is a copy, and whose copies of pages are stale is said.

Nothing of it waits, so it needs no model of requests. Children of pager VMOs are part of ``contract_machine``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.payers import Payers
from tests.support.searching import in_parts, search
from tests.support.stale_copies import Caches
from vmofs.core.pager import Pager
from vmofs.core.requests.port import Port
from vmofs.core.requests.system import System
from vmofs.core.vmos.aux import AuxView, AuxVmo
from vmofs.core.vmos.children import create_child
from vmofs.status import Status, VmoError
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, Key
from vmofs.vocabulary import ChildKind

P = PAGE_SIZE
PAGES = 8
MOST_OBJECTS = 9

PICK = st.integers(0, 15)
FIRST = st.sampled_from([0, 0, 0, 1, 2, 3, 5])
COUNT = st.sampled_from([1, 2, 3, 4, 1, 2, PAGES, 20])
SNAPSHOTS = st.sampled_from(
    [ChildKind.SNAPSHOT_AT_LEAST_ON_WRITE, ChildKind.SNAPSHOT_MODIFIED, ChildKind.SNAPSHOT_MODIFIED, ChildKind.SNAPSHOT]
)
FLAGS = st.sampled_from(["", "", "", "no_write", "resizable", "resizable"])


def outcome(call: Callable[[], object]) -> object:
    """Return what the call returns, or the status of its error."""
    try:
        return call()
    except VmoError as error:
        return error.status


class Sheet(NamedTuple):
    """One open anonymous VMO in both worlds: ``content`` is the bytes of the VMO, from ``start`` on if a slice."""

    core: AuxVmo | AuxView
    content: bytearray
    start: int = 0
    size: int | None = None


class ChildrenOfAux(RuleBasedStateMachine):
    """Anonymous memory: a snapshot is a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.system = System()
        self.payers = Payers()
        self.caches = Caches(self.system, PAGES + 4)
        self.sheets: list[Sheet] = []
        self.serial = 0
        self.written: object = None

    @initialize()
    def begin(self) -> None:
        """Make one VMO that has a size for good, and one that grows."""
        for resizable in (False, True):
            aux = AuxVmo(self.system, PAGES * P - 8, resizable=resizable, account=self.payers.next())
            self.sheets.append(Sheet(aux, bytearray(PAGES * P - 8)))

    def teardown(self) -> None:
        """Close all: nothing is left."""
        for sheet in self.sheets:
            sheet.core.close()
        assert self.system.frames.statistics().used == 0
        assert self.system.statistics().objects == 0
        self.payers.check_empty()
        self.system.frames.close()

    def sheet(self, pick: int) -> Sheet:
        """Return one of the open VMOs."""
        return self.sheets[pick % len(self.sheets)]

    @rule(pick=PICK, first=FIRST, count=COUNT, ragged=st.sampled_from([0, 0, 8]))
    def write(self, pick: int, first: int, count: int, ragged: int) -> None:
        """Write; what grows, grows."""
        core, content, start, size = self.sheet(pick)
        self.serial += 1
        offset = first * P + ragged
        data = pattern.make(self.serial * pattern.KEY_STEP, offset, count * P - 2 * ragged)
        end = offset + len(data)
        written = outcome(lambda: core.write_nowait(offset, data))
        if end > core.size_bytes:
            assert written is Status.UNAVAILABLE
            return
        assert written == len(data)
        self.written = core
        if size is None and end > len(content):
            content.extend(bytes(end - len(content)))
        content[start + offset : start + end] = data

    @rule(pick=PICK, first=FIRST, count=COUNT, ragged=st.sampled_from([0, 0, 8]), free=st.booleans())
    def zero(self, pick: int, first: int, count: int, ragged: int, free: bool) -> None:
        """Zero, or decommit."""
        core, content, start, _ = self.sheet(pick)
        offset, length = first * P + ragged, count * P - 2 * ragged
        if free:
            offset, length = first * P, count * P
        done = outcome(lambda: (core.decommit if free else core.op_zero)(offset, length))
        if offset + length > core.size_pages * P:
            assert done is Status.OUT_OF_RANGE
        elif done is None:
            end = min(start + offset + length, len(content))
            content[start + offset : end] = bytes(max(0, end - start - offset))
        else:
            assert free
            assert core.node.parent is not None

    @rule(pick=PICK, size=st.sampled_from([0, 3 * P - 8, 3 * P, 5 * P + 8, PAGES * P, 10 * P]))
    def resize(self, pick: int, size: int) -> None:
        """Cut or extend."""
        core, content, _, _ = self.sheet(pick)
        if outcome(lambda: core.set_size(size)) is None:
            del content[size:]
            content.extend(bytes(size - len(content)))
        else:
            assert not core.resizable

    @rule(pick=PICK, first=FIRST, count=COUNT)
    def commit(self, pick: int, first: int, count: int) -> None:
        """Commit; what is shown stays."""
        core = self.sheet(pick).core
        outcome(lambda: core.commit(first * P, count * P))

    @precondition(lambda self: len(self.sheets) < MOST_OBJECTS)
    @rule(
        pick=PICK,
        kind=SNAPSHOTS,
        first=FIRST,
        size=st.sampled_from([0, P, 3 * P + 8, PAGES * P, PAGES * P, 20 * P]),
        flags=FLAGS,
    )
    def snapshot(self, pick: int, kind: ChildKind, first: int, size: int, flags: str) -> None:
        """Make a snapshot; all kinds are the same."""
        core, content, _, slice_size = self.sheet(pick)
        payer, resizable = self.payers.next(), flags == "resizable"
        child = outcome(lambda: create_child(core, kind, first * P, size, resizable=resizable, account=payer))
        if slice_size is not None:
            assert child in {Status.NOT_SUPPORTED, Status.OUT_OF_RANGE}
            return
        assert isinstance(child, AuxVmo)
        copy = content[first * P : first * P + size]
        self.sheets.append(Sheet(child, copy + bytes(size - len(copy))))

    @precondition(lambda self: len(self.sheets) < MOST_OBJECTS)
    @rule(pick=PICK, first=FIRST, count=COUNT)
    def view(self, pick: int, first: int, count: int) -> None:
        """Make a slice, or a reference."""
        core, content, start, _ = self.sheet(pick)
        payer = self.payers.next()
        if count > PAGES:
            child = outcome(lambda: create_child(core, ChildKind.REFERENCE, 0, 0, account=payer))
            new = Sheet(child, content) if isinstance(child, AuxView) else None
        else:
            child = outcome(lambda: create_child(core, ChildKind.SLICE, first * P, count * P - 8, account=payer))
            length = min(count * P - 8, core.size_bytes - first * P)
            new = Sheet(child, content, start + first * P, length) if isinstance(child, AuxView) else None
        if new is not None:
            self.sheets.append(new)

    @precondition(lambda self: len(self.sheets) > 2)
    @rule(pick=PICK)
    def close(self, pick: int) -> None:
        """Close one, parent or child."""
        sheet = self.sheet(pick)
        self.sheets.remove(sheet)
        sheet.core.close()

    @rule(pick=PICK, first=FIRST, count=COUNT)
    def take(self, pick: int, first: int, count: int) -> None:
        """Supply from it; it reads as zeros then."""
        core, content, start, _ = self.sheet(pick)
        port, pager = Port(self.system), Pager(self.system)
        target = pager.create_vmo(port, Key(1), 20 * P)
        before = bytes(content[start + first * P : start + (first + count) * P])
        done = outcome(lambda: pager.supply_pages(target, 0, count * P, core, first * P))
        if isinstance(done, list):
            assert bytes(target.read_nowait(0, len(before)) or b"") == before
            content[start + first * P : start + first * P + len(before)] = bytes(len(before))
        else:
            assert core.lineage.num_children or first + count > core.size_pages
        target.close()

    @invariant()
    def compare(self) -> None:
        """Compare what is shown, and what others may have kept."""
        self.system.check()
        self.caches.compare([sheet.core for sheet in self.sheets], {self.written}, read_aux_page)
        self.written = None
        for core, content, start, size in self.sheets:
            assert core.size_bytes == (len(content) if size is None else size)
            assert bytes(core.read_nowait(0, 2**40)) == content[start : start + core.size_bytes]


def read_aux_page(vmo: AuxVmo | AuxView, page: int) -> bytes:
    """Return a page; what lies outside is zeros."""
    return bytes(vmo.read_nowait(page * P, P)).ljust(P, b"\0")


@in_parts
def test_children_of_anonymous_memory_do_what_copies_do(part: int) -> None:
    search(ChildrenOfAux, part)
