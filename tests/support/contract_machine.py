"""Random sequences of every operation of the contract, on several pagers, VMOs, and children of all kinds.

A rule draws what is to be done, and has it done in all worlds, which compare what came of it; ``compare`` then compares
the worlds themselves. In ``model/`` these are the core and the naive model, in ``fuse/`` a mount is the third.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.oracle.model import ModelRequest
from tests.support.contract_calls import ROOT_ONLY, Member
from tests.support.contract_worlds import Worlds
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import Status
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import ChildKind, PacketCommand, PagerOp

PAGES = 8
"""Pages of a VMO at first."""

MOST_MEMBERS = 8
MOST_ROOTS = 3

PICK = st.integers(0, 23)  # taken modulo the number of what there is
RAGGED = st.sampled_from([(0, 0)] * 6 + [(8, 0), (0, 8), (8, 16), (16, -32)])
SIZES = st.builds(
    lambda pages, more: max(0, pages * PAGE_SIZE + more), st.integers(0, PAGES + 4), st.sampled_from([0, 0, 8, -8])
)
DATA = st.sampled_from([0] * 12 + [1, 2])
CODES = st.sampled_from([Status.IO, Status.IO, Status.BAD_STATE, Status.NO_SPACE, Status.NO_MEMORY])
CALLS = st.sampled_from(["commit", "commit", "prefetch", "always_need", "dont_need", "decommit"])
SNAPSHOTS = st.sampled_from(
    [ChildKind.SNAPSHOT_AT_LEAST_ON_WRITE, ChildKind.SNAPSHOT_MODIFIED, ChildKind.SNAPSHOT_MODIFIED, ChildKind.SNAPSHOT]
)
FLAGS = st.sampled_from(["", "", "no_write", "resizable"])
WAYS = st.sampled_from(["direct", "file", "mapping"])
KINDS = st.builds(
    lambda trap, kind: VmoOptions(trap_dirty=trap, resizable=kind == "resizable", unbounded=kind == "unbounded"),
    st.booleans(),
    st.sampled_from(["", "resizable", "unbounded"]),
)


@st.composite
def page_ranges(draw: st.DrawFn) -> tuple[int, int]:
    """Return offset and length in bytes of whole pages, few of them mostly, seldom beyond the end."""
    start = draw(st.sampled_from([0, 0, 1, 1, 2, 3, 4, 5, PAGES - 1]))
    pages = draw(st.sampled_from([1, 2, 3, 1, 2, 3, 4, 5, PAGES, 0]))
    if draw(st.integers(0, 9)):
        pages = min(pages, PAGES - start)
    return start * PAGE_SIZE, pages * PAGE_SIZE


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int]:
    """Return offset and length in bytes, seldom with ragged ends."""
    offset, length = draw(page_ranges())
    ragged = draw(RAGGED)
    return offset + ragged[0], max(0, length + ragged[1])


def mostly_the_first(members: list[Member], pick: int) -> Member:
    """Return one of several VMOs: much must happen to one of them before it is in a state that is worth a look."""
    return members[0 if pick % 2 else pick // 2 % len(members)]


class ContractMachine(RuleBasedStateMachine):
    """Two pagers with a port each, up to three VMOs, and what hangs on them."""

    def __init__(self) -> None:
        super().__init__()
        self.worlds = self.make_worlds()

    def make_worlds(self) -> Worlds:
        """Make the worlds."""
        return Worlds()

    def teardown(self) -> None:
        """Leave nothing."""
        self.worlds.close()

    @invariant()
    def compare(self) -> None:
        """Compare the worlds."""
        self.worlds.compare()

    # What there is

    @initialize(first=KINDS, second=KINDS, supplied=st.booleans())
    def begin(self, first: VmoOptions, second: VmoOptions, supplied: bool) -> None:
        """Make a VMO of each pager, and a clone of the first."""
        for side, options in zip(self.worlds.sides, (first, second), strict=True):
            self.worlds.make_root(side, PAGES * PAGE_SIZE, options)
        if supplied:
            self.worlds.supply(self.member(0), (0, PAGES * PAGE_SIZE), set())
        self.worlds.make_child(self.member(0), ChildKind.SNAPSHOT_MODIFIED, 0, PAGES, "resizable")

    def has_room(self) -> bool:
        """Whether there may be more VMOs."""
        return 0 < len(self.worlds.members) < MOST_MEMBERS

    @precondition(lambda self: self.has_room() and len(self.worlds.trees) < MOST_ROOTS)
    @rule(pager=PICK, size=SIZES, options=KINDS)
    def create_vmo(self, pager: int, size: int, options: VmoOptions) -> None:
        """Make a VMO."""
        self.worlds.make_root(self.worlds.sides[pager % 2], size, options)

    @precondition(has_room)
    @rule(
        parent=PICK,
        kind=SNAPSHOTS,
        first=st.sampled_from([0, 0, 0, 1, 2, 5]),
        count=st.sampled_from([1, 2, 3, PAGES, PAGES, 20]),
        flags=FLAGS,
    )
    def clone(self, parent: int, kind: ChildKind, first: int, count: int, flags: str) -> None:
        """Make a snapshot."""
        self.worlds.make_child(self.member(parent), kind, first, count, flags)

    @precondition(has_room)
    @rule(parent=PICK, first=st.integers(0, 4), count=st.integers(1, 4), flags=FLAGS, reference=st.booleans())
    def view(self, parent: int, first: int, count: int, flags: str, reference: bool) -> None:
        """Make a slice or a reference."""
        if reference:
            self.worlds.make_child(self.member(parent), ChildKind.REFERENCE, 0, 0, flags)
        else:
            self.worlds.make_child(self.member(parent), ChildKind.SLICE, first, count, flags)

    @precondition(lambda self: len(self.worlds.members) > 1)
    @rule(pick=PICK, sure=st.integers(0, 2))
    def close(self, pick: int, sure: int) -> None:
        """Close a VMO, now and then; clones outlive their roots."""
        member = self.member(pick)
        if sure == 2 and self.worlds.possible("close", member):
            self.worlds.close_member(member)

    @rule(pager=PICK, sure=st.integers(0, 60))
    def close_pager(self, pager: int, sure: int) -> None:
        """Close a pager, seldom; for good."""
        side = self.worlds.sides[pager % 2]
        if sure == 60 and not side.closed:
            self.worlds.close_side(side)

    def member(self, pick: int) -> Member:
        """Return one of the open VMOs."""
        return self.worlds.members[pick % len(self.worlds.members)]

    def of_root(self, pick: int) -> Member:
        """Return one of the open VMOs that show a root's memory, mostly the first, if there is any."""
        found = [member for member in self.worlds.members if member.shows_root]
        return mostly_the_first(found, pick) if found else self.member(pick)

    def root(self, pick: int) -> Member:
        """Return mostly the first open root, sometimes another, seldom another VMO, which is none of the pager's."""
        found = [member for member in self.worlds.members if member.is_root]
        return self.member(pick) if pick % 12 == 11 or not found else mostly_the_first(found, pick)

    def root_of(self, request: ModelRequest) -> Member | None:
        """Return the open root that a request is of."""
        return next((member for member in self.worlds.members if member.is_root and member.model is request.vmo), None)

    # Calls that may wait

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK, where=ranges(), way=WAYS)
    def read(self, pick: int, where: tuple[int, int], way: str) -> None:
        """Start a read."""
        self.worlds.start(self.member(pick), "read", where, way=way)

    @precondition(lambda self: self.worlds.model.requests)
    @rule(request=PICK, skipped=st.integers(-2, 3), pages=st.integers(1, 4), way=WAYS)
    def read_the_same(self, request: int, skipped: int, pages: int, way: str) -> None:
        """Start a read that meets what somebody asked for."""
        asked = self.request(request)
        member = self.root_of(asked)
        if member is not None:
            where = max(0, asked.pages[0] + skipped) * PAGE_SIZE, pages * PAGE_SIZE
            self.worlds.start(member, "read", where, way=way)

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK, where=ranges(), way=WAYS)
    def write(self, pick: int, where: tuple[int, int], way: str) -> None:
        """Start a write."""
        data = pattern.make(self.worlds.new_key(), *where)
        self.worlds.start(self.member(pick), "write", where, data, way)

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK, where=ranges())
    def zero(self, pick: int, where: tuple[int, int]) -> None:
        """Start a ZERO."""
        self.worlds.start(self.member(pick), "zero", where)

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK, size=SIZES)
    def set_size(self, pick: int, size: int) -> None:
        """Start a resize."""
        self.worlds.start(self.member(pick), "set_size", (size, 0))

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK, size=SIZES)
    def set_stream_size(self, pick: int, size: int) -> None:
        """Start moving the boundary of the content."""
        member = self.of_root(pick)
        if member.slice_pages is None:  # that of a slice is its own, and the naive model has none
            self.worlds.start(member, "set_stream_size", (size, 0))

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK, where=ranges(), name=CALLS)
    def op_on_vmo(self, pick: int, where: tuple[int, int], name: str) -> None:
        """Start COMMIT, PREFETCH or a hint."""
        self.worlds.start(self.of_root(pick) if name in ROOT_ONLY else self.member(pick), name, where)

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK, where=ranges(), write=st.booleans())
    def pin(self, pick: int, where: tuple[int, int], write: bool) -> None:
        """Start a pin."""
        self.worlds.start(self.of_root(pick), "pin_write" if write else "pin", where)

    @precondition(lambda self: self.worlds.pins)
    @rule(pin=PICK)
    def unpin(self, pin: int) -> None:
        """Lift a pin."""
        self.worlds.unpin(self.worlds.pins[pin % len(self.worlds.pins)])

    @rule()
    def run(self) -> None:
        """Let those who woke look again."""
        self.worlds.run()

    @precondition(lambda self: self.worlds.calls)
    @rule(call=PICK, sure=st.integers(0, 4))
    def kill(self, call: int, sure: int) -> None:
        """Kill one who waits."""
        if sure == 4:
            self.worlds.kill(self.worlds.calls[call % len(self.worlds.calls)])

    @rule(seconds=st.integers(0, 2), age=st.integers(3, 8))
    def time_passes(self, seconds: int, age: int) -> None:
        """Let old requests expire."""
        self.worlds.now += seconds
        self.worlds.expire(age)

    # What a pager does

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK, where=page_ranges(), holes=st.sets(st.integers(0, PAGES)))
    def supply(self, pick: int, where: tuple[int, int], holes: set[int]) -> None:
        """Supply pages and markers."""
        self.worlds.supply(self.root(pick), where, holes)

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK, op=st.sampled_from(PagerOp), where=page_ranges(), data=DATA, code=CODES)
    def op_range(self, pick: int, op: PagerOp, where: tuple[int, int], data: int, code: Status) -> None:
        """Do any operation on any range."""
        self.worlds.op_range(self.root(pick), op, where, code if op is PagerOp.FAIL else data)

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK, record=PICK, cut=st.integers(0, 2), ends=st.sampled_from(["both", "both", "begin", "end"]))
    def write_back(self, pick: int, record: int, cut: int, ends: str) -> None:
        """Begin or end the writeback of a dirty range, or of its first pages, or do both."""
        member = self.root(pick)
        if not member.is_root:
            return
        window = min(PAGES, member.root.size_pages) * PAGE_SIZE
        records = self.worlds.model.dirty_ranges(member.root, 0, window)
        if records:
            start, pages, zero = records[record % len(records)]
            where = start * PAGE_SIZE, max(1, pages - cut) * PAGE_SIZE
            if ends != "end":
                self.worlds.op_range(member, PagerOp.WRITEBACK_BEGIN, where, int(zero))
            if ends != "begin":
                self.worlds.op_range(member, PagerOp.WRITEBACK_END, where, 0)

    @precondition(lambda self: self.worlds.model.requests)
    @rule(request=PICK, cut=st.tuples(st.integers(0, 3), st.integers(0, 3)), fail=st.sampled_from([False] * 4 + [True]))
    def answer(self, request: int, cut: tuple[int, int], fail: bool) -> None:
        """Do what a request asks for, or a part of it; then let those who woke run."""
        asked = self.request(request)
        member = self.root_of(asked)
        if member is None:
            return
        pages = asked.pages[min(cut[0], len(asked.pages) - 1) :]
        pages = pages[: max(1, len(pages) - cut[1])]
        where = pages[0] * PAGE_SIZE, len(pages) * PAGE_SIZE
        if fail:
            self.worlds.op_range(member, PagerOp.FAIL, where, Status.IO)
        elif asked.command is PacketCommand.READ:
            self.worlds.supply(member, where, set())
        else:
            self.worlds.op_range(member, PagerOp.DIRTY, where, 0)
        self.worlds.run()

    def request(self, pick: int) -> ModelRequest:
        """Return one of the requests that are outstanding."""
        return self.worlds.model.requests[pick % len(self.worlds.model.requests)]

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK, where=ranges())
    def evict(self, pick: int, where: tuple[int, int]) -> None:
        """Evict a range."""
        self.worlds.evict(self.root(pick), where)

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK, sure=st.integers(0, 9))
    def detach(self, pick: int, sure: int) -> None:
        """Detach a VMO, seldom."""
        if sure == 9:
            self.worlds.detach(self.root(pick))

    @precondition(lambda self: self.worlds.members)
    @rule(pick=PICK)
    def reset_stats(self, pick: int) -> None:
        """Query and reset "modified"."""
        self.worlds.reset_modified(self.root(pick))

    @rule(side=PICK)
    def dequeue(self, side: int) -> None:
        """Dequeue a packet."""
        self.worlds.dequeue(self.worlds.sides[side % 2])

    @rule(side=PICK)
    def lose_worker(self, side: int) -> None:
        """Deliver again what a worker had."""
        self.worlds.lose_worker(self.worlds.sides[side % 2])
