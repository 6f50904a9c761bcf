"""Random trees of children: the core shows what naive models show, and says whose copies of pages are stale.

One machine for a pager family, in which calls wait and wake, and one for anonymous memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.oracle.children_model import (
    ModelClone,
    ModelCloneCommit,
    ModelCloneRead,
    ModelCloneWrite,
    ModelFamily,
    look,
)
from tests.oracle.model import (
    Model,
    ModelAccess,
    ModelAux,
    ModelPage,
    ModelPager,
    ModelPort,
    ModelRead,
    ModelVmo,
    ModelWrite,
    runs,
)
from tests.support.payers import Payers
from tests.support.searching import in_parts, search
from tests.support.stale_copies import Caches
from vmofs.core.pager import Pager
from vmofs.core.pages.states import PageState
from vmofs.core.requests.access import Access
from vmofs.core.requests.port import Port
from vmofs.core.requests.system import System
from vmofs.core.vmos.aux import AuxView, AuxVmo
from vmofs.core.vmos.children import create_child
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import CloneVmo, PagerView, PagerVmo
from vmofs.status import Status, VmoError
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, Key, PageRange
from vmofs.vocabulary import ChildKind, PacketCommand, PagerOp

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


class Member(NamedTuple):
    """One open VMO of the pager family, in both worlds; ``shift`` is where a slice begins, in pages."""

    core: PagerVmo | CloneVmo | PagerView
    model: ModelVmo | ModelClone
    shift: int = 0
    slice_pages: int | None = None
    no_write: bool = False


class ChildrenOfPagerVmo(RuleBasedStateMachine):
    """Every rule does one thing in both worlds; ``compare`` then compares what every VMO shows."""

    def __init__(self) -> None:
        super().__init__()
        self.system, self.model = System(), Model()
        self.payers = Payers()
        self.port, self.model_port = Port(self.system), ModelPort()
        self.pager, self.model_pager = Pager(self.system), ModelPager()
        self.accesses: list[tuple[Access[Any], ModelAccess]] = []
        self.caches = Caches(self.system, PAGES + 4)
        self.serial = 0
        self.written: object = None

    @initialize(supplied=st.booleans())
    def begin(self, supplied: bool) -> None:
        """Make a root and two clones."""
        self.resizable = not supplied
        options = VmoOptions(resizable=self.resizable)
        self.root = self.pager.create_vmo(self.port, Key(1), PAGES * P, options, self.payers.next())
        self.model_root = ModelVmo(self.model_port, 1, PAGES * P)
        self.model.create_vmo(self.model_pager, self.model_root)
        self.family = ModelFamily(self.model_root)
        self.members = [Member(self.root, self.model_root)]
        if supplied:
            self.supply(0, PAGES, set())
        self.clone(0, ChildKind.SNAPSHOT_MODIFIED, 0, PAGES, "resizable")
        self.clone(1, ChildKind.SNAPSHOT_AT_LEAST_ON_WRITE, 0, PAGES, "")

    def member(self, pick: int) -> Member:
        """Return one of the open VMOs."""
        return self.members[pick % len(self.members)]

    def teardown(self) -> None:
        """Close all: nothing is left."""
        for core, _ in self.accesses:
            core.cancel()
        for member in getattr(self, "members", []):
            member.core.close()
        assert self.system.frames.statistics().used == 0
        assert self.system.statistics().objects == 0
        self.payers.check_empty()
        self.system.frames.close()

    # The family

    @precondition(lambda self: len(self.members) < MOST_OBJECTS)
    @rule(parent=PICK, kind=SNAPSHOTS, first=FIRST, count=COUNT, flags=FLAGS)
    def clone(self, parent: int, kind: ChildKind, first: int, count: int, flags: str) -> None:
        """Make a snapshot."""
        of = self.member(parent)
        core = outcome(
            lambda: create_child(
                of.core,
                kind,
                first * P,
                count * P,
                no_write=flags == "no_write",
                resizable=flags == "resizable",
                account=self.payers.next(),
            )
        )
        is_slice = of.slice_pages is not None
        if kind is not ChildKind.SNAPSHOT and is_slice and first + count > (of.slice_pages or 0):
            assert core is Status.OUT_OF_RANGE
            return
        if kind is ChildKind.SNAPSHOT:
            assert core in {Status.OUT_OF_RANGE, Status.NOT_SUPPORTED}
            return
        model = outcome(lambda: self.family.clone(of.model, kind, of.shift + first, count, slice_=is_slice))
        if not isinstance(model, ModelClone):
            assert core is model
            return
        assert isinstance(core, CloneVmo)
        model.resizable, model.no_write = flags == "resizable", flags == "no_write"
        self.members.append(Member(core, model))

    @precondition(lambda self: len(self.members) < MOST_OBJECTS)
    @rule(parent=PICK, first=FIRST, count=COUNT, no_write=st.booleans())
    def view(self, parent: int, first: int, count: int, no_write: bool) -> None:
        """Make a slice, or a reference if ``count`` is large."""
        of = self.member(parent)
        slice_ = count < PAGES
        kind = ChildKind.SLICE if slice_ else ChildKind.REFERENCE
        where = (first * P, count * P) if slice_ else (0, 0)
        core = outcome(lambda: create_child(of.core, kind, *where, no_write=no_write, account=self.payers.next()))
        resizable = of.slice_pages is None and (
            self.resizable if isinstance(of.model, ModelVmo) else of.model.resizable
        )
        if slice_ and first + count > of.core.size_pages:
            assert core is Status.INVALID_ARGS
        elif (slice_ and resizable) or (not slice_ and of.slice_pages is not None):
            assert core is Status.NOT_SUPPORTED
        else:
            assert isinstance(core, PagerView)
            if isinstance(of.model, ModelClone):
                of.model.users += 1
            shift = of.shift + first if slice_ else 0
            no_write |= of.no_write or (isinstance(of.model, ModelClone) and of.model.no_write)
            self.members.append(Member(core, of.model, shift, count if slice_ else None, no_write))

    @precondition(lambda self: len(self.members) > 1)
    @rule(pick=PICK)
    def close(self, pick: int) -> None:
        """Close a VMO; the root stays, so that the pager can go on."""
        member = self.member(1 + pick % (len(self.members) - 1))
        self.members.remove(member)
        for core, model in list(self.accesses):  # an open call keeps its VMO open
            if getattr(model, "clone", None) is member.model:
                core.cancel()
                self.model.cancel(model)
                self.accesses.remove((core, model))
        member.core.close()
        if isinstance(member.model, ModelClone):
            self.family.close(member.model)

    # Calls on all

    @rule(pick=PICK, first=FIRST, count=COUNT, ragged=st.sampled_from([0, 0, 8]))
    def read(self, pick: int, first: int, count: int, ragged: int) -> None:
        """Start a read."""
        member = self.member(pick)
        offset, length = first * P + ragged, count * P - ragged
        if member.slice_pages is not None and first + count > member.slice_pages:
            assert self.fails_at_once(member.core.read(offset, length), Status.OUT_OF_RANGE)
            return
        at = member.shift * P + offset
        make = ModelCloneRead if isinstance(member.model, ModelClone) else ModelRead
        self.start(member.core.read(offset, length), make(member.model, at, length))  # type: ignore[arg-type]

    @rule(pick=PICK, first=FIRST, count=COUNT, ragged=st.sampled_from([0, 0, 8]))
    def write(self, pick: int, first: int, count: int, ragged: int) -> None:
        """Start a write."""
        member = self.member(pick)
        self.serial += 1
        data = pattern.make(self.serial * pattern.KEY_STEP, first * P + ragged, count * P - ragged)
        offset = first * P + ragged
        if member.no_write:
            assert self.fails_at_once(member.core.write(offset, data), Status.ACCESS_DENIED)
        elif member.slice_pages is not None and first + count > member.slice_pages:
            assert self.fails_at_once(member.core.write(offset, data), Status.OUT_OF_RANGE)
        else:
            self.written = member.core
            at = member.shift * P + offset
            make = ModelCloneWrite if isinstance(member.model, ModelClone) else ModelWrite
            self.start(member.core.write(offset, data), make(member.model, at, data))  # type: ignore[arg-type]

    @rule(pick=PICK, first=FIRST, count=COUNT)
    def zero(self, pick: int, first: int, count: int) -> None:
        """Zero whole pages, which never waits."""
        member = self.member(pick)
        access = member.core.op_zero(first * P, count * P)
        assert access.start(0)
        no_write = member.no_write or (isinstance(member.model, ModelClone) and member.model.no_write)
        expected = Status.ACCESS_DENIED if no_write else Status.OUT_OF_RANGE
        if no_write or first + count > member.core.size_pages:
            assert outcome(access.result) is expected
            return
        pages = range(member.shift + first, member.shift + first + count)
        if isinstance(member.model, ModelClone):
            member.model.zero(pages)
            return
        root = self.model_root
        gaps = [page for page in pages if root.state(page) is PageState.GAP]
        for page in pages:
            if root.state(page) is not PageState.MARKER:
                root.pages[page] = ModelPage(PageState.ZERO)
        for gap in runs(gaps):
            self.model.resolve(root, PacketCommand.READ, gap)

    @rule(pick=PICK, first=FIRST, count=COUNT)
    def commit(self, pick: int, first: int, count: int) -> None:
        """Fork pages of a clone."""
        member = self.member(pick)
        if isinstance(member.core, CloneVmo) and isinstance(member.model, ModelClone):
            self.start(member.core.commit(first * P, count * P), ModelCloneCommit(member.model, first * P, count * P))

    @rule(pick=PICK, size=st.integers(0, PAGES + 4))
    def resize(self, pick: int, size: int) -> None:
        """Set the size of the root, or of a clone, also through a reference."""
        member = self.member(pick)
        if member.no_write or member.slice_pages is not None:
            return
        access = member.core.set_size(size * P)
        assert access.start(0)
        if isinstance(member.model, ModelClone):
            model = member.model
            expected = outcome(lambda: self.family.resize(model, size))
        else:
            expected = None if self.resizable else Status.UNAVAILABLE
            if self.resizable:
                self.resize_root(size)
        assert outcome(access.result) is expected

    def resize_root(self, size: int) -> None:
        root, old = self.model_root, self.model_root.size
        self.family.cut_root(size)
        absent = [page for page in range(size, old) if root.state(page) is PageState.GAP]
        for page in range(size, old):
            root.pages.pop(page, None)
        root.stream_size = size * P
        for page in range(old, size):
            root.pages[page] = ModelPage(PageState.ZERO)
        for gap in runs(absent):
            self.model.resolve(root, PacketCommand.READ, gap)

    def fails_at_once(self, access: Access[Any], status: Status) -> bool:
        """Return whether the call fails without waiting."""
        return access.start(0) and outcome(access.result) is status

    def start(self, core: Access[Any], model: ModelAccess) -> None:
        """Start an access in both worlds."""
        core.start(0)
        self.model.start(model, 0)
        self.accesses.append((core, model))

    @rule()
    def run(self) -> None:
        """Let those who woke look again."""
        self.run_both()

    def run_both(self) -> None:
        self.written = None
        ended = self.system.run_ready(0)
        expected = self.model.run(0)
        assert {id(access) for access in ended} == {id(core) for core, model in self.accesses if model in expected}
        self.caches.kept.clear()  # who of them has written what is not known here

    # Pager calls

    @rule(first=FIRST, count=COUNT, holes=st.sets(st.integers(0, PAGES)))
    def supply(self, first: int, count: int, holes: set[int]) -> None:
        """Supply the root."""
        self.serial += 1
        aux, model = AuxVmo(self.system, count * P, account=self.payers.next()), ModelAux([None] * count)
        for page in set(range(count)) - holes:
            model.pages[page] = pattern.make_pages(self.serial * pattern.KEY_STEP, PageRange(page, page + 1))
            aux.write_nowait(page * P, model.pages[page] or b"")
        filled = outcome(lambda: self.pager.supply_pages(self.root, first * P, count * P, aux, 0))
        expected = outcome(lambda: self.model.supply(self.model_pager, self.model_root, first * P, count * P, model, 0))
        aux.close()
        assert filled == expected if isinstance(expected, Status) else isinstance(filled, list)

    @precondition(lambda self: self.model.requests)
    @rule(pick=PICK, count=st.integers(1, 4))
    def answer(self, pick: int, count: int) -> None:
        """Supply the start of what somebody wants."""
        asked = self.model.requests[pick % len(self.model.requests)]
        wanted = asked.waiters[0].wanted
        self.supply(asked.pages[0] if wanted is None else wanted, count, set())

    @rule(first=FIRST, count=COUNT)
    def fail(self, first: int, count: int) -> None:
        """Fail a range of the root."""
        where = first * P, count * P
        expected = outcome(lambda: self.model.fail(self.model_pager, self.model_root, *where, Status.IO))
        assert outcome(lambda: self.pager.op_range(PagerOp.FAIL, self.root, *where, Status.IO)) == expected

    @rule(first=FIRST, count=COUNT)
    def evict(self, first: int, count: int) -> None:
        """Evict a range of the root."""
        where = first * P, count * P
        expected = outcome(lambda: self.model.evict(self.model_pager, self.model_root, *where))
        assert isinstance(outcome(lambda: self.pager.evict(self.root, *where)), Status) == isinstance(expected, Status)

    # The same in both worlds

    @invariant()
    def compare(self) -> None:
        """Compare what is shown, what is asked, and who has ended; and what others may have kept."""
        if not hasattr(self, "members"):
            return
        self.system.check()
        self.caches.compare([member.core for member in self.members], {self.written}, read_page)
        self.written = None
        for core, model, shift, _, _ in self.members:
            assert isinstance(model, ModelVmo) or core.stream_size == core.size_pages * P
            for page in range(core.size_pages):
                shown = look(model, page + shift)
                assert read_page(core, page) == (shown if isinstance(shown, bytes) else None), page
            if isinstance(core, CloneVmo) and isinstance(model, ModelClone):
                assert core.size_pages == model.size
                private = sum(any(data) for data in model.own.values())
                assert core.committed_pages >= private
        requests = [(request.range, request.pending_count) for request in self.system.requests]
        expected = [(PageRange(r.pages[0], r.pages[-1] + 1), r.count) for r in self.model.requests]
        assert requests == expected
        for access, twin in self.accesses:
            assert access.done == (twin.outcome is not None)
            if access.done and not isinstance(twin, ModelCloneCommit):
                assert outcome(access.result) == twin.outcome
            elif access.done:
                assert outcome(access.result) == {"committed": None}.get(str(twin.outcome), twin.outcome)
        self.accesses = [(access, twin) for access, twin in self.accesses if not access.done]


def read_page(vmo: PagerVmo | CloneVmo | PagerView, page: int) -> bytes | None:
    """Return a page if it is there."""
    data = vmo.read_nowait(page * P, P)
    return None if data is None else bytes(data)


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
def test_children_of_a_pager_vmo_do_what_the_model_does(part: int) -> None:
    search(ChildrenOfPagerVmo, part)


@in_parts
def test_children_of_anonymous_memory_do_what_copies_do(part: int) -> None:
    search(ChildrenOfAux, part)
