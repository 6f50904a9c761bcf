"""The whole contract done in two worlds, the core and the naive model, and compared.

Each method does one thing in both, compares what came of it, and returns it. ``compare`` compares everything that can
be seen, and some things that cannot. ``fuse/contract_mount.py`` adds a mount as a third world.
"""

from __future__ import annotations

from typing import Any

from tests.oracle.children_model import ModelClone, look
from tests.oracle.contract_model import ContractModel
from tests.oracle.dirty_model import DirtyVmo
from tests.oracle.model import OK, REAL, ModelAux
from tests.support.contract_calls import (
    ROOT_ONLY,
    Call,
    Member,
    Pinned,
    Side,
    Tree,
    core_access,
    model_access,
    outcome,
    pages_of,
)
from tests.support.payers import Payers, Unwilling
from tests.support.stale_copies import Caches
from vmofs.core.pages.pins import Pin
from vmofs.core.requests.request import Packet
from vmofs.core.requests.system import System
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.children import create_child
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import CloneVmo, PagerView, PagerVmo
from vmofs.status import Status
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, Key, PageRange
from vmofs.vocabulary import ChildKind, PagerOp

LANE = "lane"


Readable = PagerVmo | CloneVmo | PagerView | AuxVmo


class Worlds:
    """Two pagers with a port each, their VMOs, and what hangs on them; and the calls that wait."""

    shown_pages = 16
    """How many pages of each VMO are looked at."""

    def __init__(self) -> None:
        self.system, self.model = System(), ContractModel()
        self.payers = Payers()
        self.sides = [Side.make(self.system, number) for number in range(2)]
        self.trees: list[Tree] = []
        self.members: list[Member] = []
        self.calls: list[Call] = []
        self.pins: list[Pinned] = []
        self.caches = Caches(self.system, self.shown_pages)
        self.written: set[object] = set()
        self.now = 0.0
        self.serial = 0
        self.count = 0

    def close(self) -> None:
        """Close all: nothing is left."""
        for call in self.calls:
            call.core.cancel()
        for pinned in self.pins:
            pinned.pin.unpin()
        for member in self.members:
            member.core.close()
        assert self.system.frames.statistics().used == 0
        assert self.system.statistics().objects == 0
        self.payers.check_empty()
        self.system.frames.close()

    def possible(self, name: str, member: Member, where: tuple[int, int] = (0, 0), way: str = "") -> bool:  # noqa: ARG002
        """Whether a call can be made now in all worlds."""
        return True

    def kept_aux(self) -> list[AuxVmo]:
        """Return the anonymous VMOs that outlive a call."""
        return []

    def new_key(self) -> int:
        """Return the key of contents that nothing has had before."""
        self.serial += 1
        return self.serial * pattern.KEY_STEP

    # VMOs

    def make_root(self, side: Side, size: int, options: VmoOptions) -> Member | Status:
        """Make a VMO of a pager."""
        key, payer = self.count, self.payers.next()
        core = outcome(lambda: side.core.create_vmo(side.port, Key(key), size, options, payer))
        if not isinstance(core, PagerVmo):
            assert core is Status.BAD_STATE
            assert side.closed
            return core
        assert not side.closed
        model = DirtyVmo(
            side.model_port,
            key,
            size,
            trap_dirty=options.trap_dirty,
            unbounded=options.unbounded,
            resizable=options.resizable,
        )
        self.trees.append(Tree(side, core, self.model.create_root(side.model, model), resizable=options.resizable))
        return self._add(Member(self.trees[-1], core, model, self.count))

    def _add(self, member: Member) -> Member:
        self.count += 1
        self.members.append(member)
        return member

    def make_child(self, of: Member, kind: ChildKind, first: int, count: int, flags: str) -> Member | Status:
        """Make a child of any kind; for a reference ``first`` and ``count`` are 0."""
        flag: dict[str, Any] = {flags: True} if flags else {}
        payer = self.payers.next()
        where = first * PAGE_SIZE, count * PAGE_SIZE
        frozen = _is_left_frozen(of)
        core = outcome(lambda: create_child(of.core, kind, *where, account=payer, **flag))
        is_view = kind in {ChildKind.SLICE, ChildKind.REFERENCE}
        if is_view:
            made: DirtyVmo | ModelClone | Status = self._expected_view(of, kind, first, count, flags)
        else:
            made = self._expected_clone(of, kind, first, count, flags, frozen=frozen)
        if isinstance(made, Status):
            assert core is made
            return made
        assert not isinstance(core, Status), core
        member = Member(of.tree, core, made, self.count, no_write=flags == "no_write")  # type: ignore[arg-type]
        if is_view:
            member.no_write |= of.no_write
            member.shift = of.shift + first
            member.slice_pages = count if kind is ChildKind.SLICE else None
        return self._add(member)

    def _expected_clone(
        self, of: Member, kind: ChildKind, first: int, count: int, flags: str, *, frozen: bool
    ) -> ModelClone | Status:
        is_slice = of.slice_pages is not None
        if is_slice and first + count > (of.slice_pages or 0):
            return Status.OUT_OF_RANGE
        family = of.tree.model.family
        made = outcome(lambda: family.clone(of.model, kind, of.shift + first, count, slice_=is_slice, frozen=frozen))
        assert isinstance(made, ModelClone | Status)
        if isinstance(made, ModelClone):
            made.resizable, made.no_write = flags == "resizable", flags == "no_write"
        return made

    def _expected_view(
        self, of: Member, kind: ChildKind, first: int, count: int, flags: str
    ) -> DirtyVmo | ModelClone | Status:
        if kind is ChildKind.SLICE:
            if flags == "resizable" or first + count > of.core.size_pages:
                return Status.INVALID_ARGS
            if of.resizable:
                return Status.NOT_SUPPORTED
        elif of.slice_pages is not None or (flags == "resizable" and not of.resizable):
            return Status.NOT_SUPPORTED
        of.use()
        return of.model

    def close_member(self, member: Member) -> None:
        """Close a VMO; an open call would keep it open, so those are killed, and its pins are lifted."""
        for call in [call for call in self.calls if call.member is member]:
            self.kill(call)
        for pinned in [pinned for pinned in self.pins if pinned.member is member]:
            self.unpin(pinned)
        self.members.remove(member)
        member.core.close()
        if self.model.close(member.tree.model, member.model):
            self.trees.remove(member.tree)

    def close_side(self, side: Side) -> None:
        """Close a pager."""
        side.closed = True
        side.core.close()
        self.model.close_pager(side.model)

    # Calls that may wait

    def start(self, member: Member, name: str, where: tuple[int, int], data: bytes = b"", way: str = "") -> Call | None:
        """Start a call, unless it is impossible now."""
        if not member.shows_root and name in ROOT_ONLY:
            return None
        if not member.shows_root and name in {"zero", "commit", "prefetch", "set_size"}:  # the model knows whole pages
            where = where[0] - where[0] % PAGE_SIZE, where[1] - where[1] % PAGE_SIZE
        if not self.possible(name, member, where, way):
            return None
        core = core_access(member, name, where, data)
        call = Call(member, name, where, data, way, core, model_access(self.model, member, name, where, data))
        if name == "write":
            self.written.add(member.core)
        call.core.start(self.now)
        self.model.start(call.model, self.now)
        self.calls.append(call)
        return call

    def run(self) -> None:
        """Let those who woke look again."""
        self.written |= {call.member.core for call in self.calls if call.name == "write"}
        ended = self.system.run_ready(self.now)
        expected = self.model.run(self.now)
        assert {id(access) for access in ended} == {id(self.access_of(c)) for c in self.calls if c.model in expected}

    def access_of(self, call: Call) -> object:
        """Return the access in the core."""
        return call.core

    def kill(self, call: Call) -> None:
        """Kill who waits."""
        self.calls.remove(call)
        call.core.cancel()
        self.model.cancel(call.model)

    def unpin(self, pinned: Pinned) -> None:
        """Lift a pin."""
        self.pins.remove(pinned)
        pinned.pin.unpin()
        vmo = pinned.member.root
        vmo.pins.remove(pinned.pages)
        vmo.pinned = {page for other in vmo.pins for page in other}

    def expire(self, age: int) -> None:
        """Let requests of this age fail."""
        assert len(self.system.expire(self.now - age)) == len(self.model.expire(self.now - age))

    # Pager calls

    def supply(self, member: Member, where: tuple[int, int], holes: set[int]) -> None:
        """Supply pages and, at ``holes``, markers."""
        key = self.new_key()
        pages = [
            None if page in holes else pattern.make_pages(key, PageRange(page, page + 1))
            for page in range(where[1] // PAGE_SIZE)
        ]
        self.supply_pages(member, where, pages)

    def supply_pages(self, member: Member, where: tuple[int, int], pages: list[bytes | None]) -> object:
        """Supply pages, None for a marker; return those that were filled or the error."""
        side = member.tree.side
        aux = AuxVmo(self.system, where[1], account=self.payers.next())
        for page, data in enumerate(pages):
            if data is not None:
                aux.write_nowait(page * PAGE_SIZE, data)
        filled = outcome(lambda: pages_of(side.core.supply_pages(member.core, *where, aux, 0)))
        aux.close()
        assert filled == (self.model_supply(member, where, pages) if member.is_root else Status.INVALID_ARGS)
        return filled

    def model_supply(self, member: Member, where: tuple[int, int], pages: list[bytes | None]) -> object:
        """Supply pages to the model alone."""
        aux = ModelAux(list(pages))
        return outcome(lambda: self.model.supply(member.tree.side.model, member.root, *where, aux, 0))

    def op_range(self, member: Member, op: PagerOp, where: tuple[int, int], data: int) -> object:
        """Answer or announce something."""
        side = member.tree.side
        done = outcome(lambda: side.core.op_range(op, member.core, *where, data))
        if not member.is_root or side.closed:
            assert done is Status.INVALID_ARGS
            return done
        vmo = member.root
        calls = {
            PagerOp.FAIL: lambda: self.model.fail(side.model, vmo, *where, data),
            PagerOp.DIRTY: lambda: self.model.op_dirty(vmo, *where, data),
            PagerOp.WRITEBACK_BEGIN: lambda: self.model.begin(vmo, *where, data),
            PagerOp.WRITEBACK_END: lambda: self.model.end_writeback(vmo, *where, data),
        }
        assert done == outcome(calls[op])
        return done

    def evict(self, member: Member, where: tuple[int, int]) -> object:
        """Evict a range; return the pages."""
        side = member.tree.side
        done = outcome(lambda: pages_of(side.core.evict(member.core, *where)))
        assert done == (
            outcome(lambda: self.model.evict(side.model, member.root, *where))
            if member.is_root
            else Status.INVALID_ARGS
        )
        return done

    def detach(self, member: Member) -> object:
        """Detach a VMO; return the pages that were dropped."""
        side = member.tree.side
        done = outcome(lambda: pages_of(side.core.detach_vmo(member.core)))
        assert done == (
            outcome(lambda: self.model.detach(side.model, member.root)) if member.is_root else Status.INVALID_ARGS
        )
        return done

    def reset_modified(self, member: Member) -> object:
        """Query and reset "modified"."""
        side, vmo = member.tree.side, member.root
        done = outcome(lambda: side.core.query_vmo_stats(member.core, reset=True))
        if not member.is_root or side.closed:
            assert done is Status.INVALID_ARGS
            return done
        assert done == vmo.modified
        vmo.modified = False
        return done

    def dequeue(self, side: Side, lane: str = LANE) -> Packet | None:
        """Dequeue a packet."""
        packet, expected = side.port.dequeue(lane), self.model.dequeue(side.model_port, lane)
        assert (packet is None) == (expected is None)
        if packet is not None and expected is not None:
            assert (packet.command, packet.key) == (expected.command, expected.vmo.key)
            assert packet.length == len(expected.pages) * PAGE_SIZE
            assert not expected.pages or packet.offset == expected.pages[0] * PAGE_SIZE
        return packet

    def lose_worker(self, side: Side, lane: str = LANE) -> None:
        """Deliver again what a worker had."""
        assert side.port.requeue_delivered(lane) == self.model.requeue_delivered(side.model_port, lane)

    # The same in both worlds

    def compare(self) -> None:
        """Compare everything that can be seen, and some things that cannot."""
        self.system.check()
        for side in self.sides:
            side.port.check()
            side.core.check()
        shown: dict[Readable, list[bytes | None]] = {
            vmo: [read_page(vmo, page) for page in range(min(self.shown_pages, vmo.size_pages))]
            for vmo in (*(member.core for member in self.members), *self.kept_aux())
        }
        self.caches.compare(list(shown), self.written, lambda vmo, page: shown[vmo][page])
        self.written = set()
        for tree in self.trees:
            self._compare_root(tree)
        for member in self.members:
            compare_content(member, shown[member.core])
        self._compare_requests()
        self._compare_calls()

    def _compare_requests(self) -> None:
        assert [(r.source.key, r.command, list(range(*r.range)), r.pending_count) for r in self.system.requests] == [
            (r.vmo.key, r.command, r.pages, r.count) for r in self.model.requests
        ]
        assert [[(list(range(*w.range)), w.wanted, w.latched) for w in r.waiters()] for r in self.system.requests] == [
            [(w.pages, w.wanted, w.latched) for w in r.waiters] for r in self.model.requests
        ]

    def _compare_root(self, tree: Tree) -> None:
        core, model, pager = tree.core, tree.model.vmo, tree.side.core
        assert (core.size_pages, core.stream_size) == (model.size_pages, model.stream_size)
        assert (core.modified, core.source.state) == (model.modified, model.attachment)
        shown = range(min(self.shown_pages, core.size_pages))
        assert [core.state_at(page) for page in shown] == [model.state(page) for page in shown]
        assert core.committed_pages == sum(page.state in REAL for page in model.pages.values())
        assert set(pages_of(list(core.pinned))) == model.pinned
        window = len(shown) * PAGE_SIZE
        records = outcome(lambda: [(r.start, r.pages, zero) for r, zero in pager.query_dirty_ranges(core, 0, window)])
        expected = self.model.dirty_ranges(model, 0, window)
        assert records == (Status.INVALID_ARGS if tree.side.closed else expected)

    def _compare_calls(self) -> None:
        """Compare who has ended, and how; forget those."""
        for call in self.calls:
            assert call.core.done == (call.model.outcome is not None)
            assert (self.access_of(call) in self.system.woken) == (call.model in self.model.woken)
            if not call.core.done:
                continue
            result, expected = outcome(call.core.result), call.model.outcome
            if isinstance(result, Pin):
                self.pins.append(Pinned(result, call.member, pages_of([result.pages])))
                result = OK
            assert (OK if result is None else result) == expected
        self.calls = [call for call in self.calls if not call.core.done]


def compare_content(member: Member, pages: list[bytes | None]) -> None:
    """Compare what one VMO shows."""
    core, model = member.core, member.model
    if isinstance(model, ModelClone) and member.slice_pages is None:
        assert (core.size_pages, core.stream_size) == (model.size, model.size * PAGE_SIZE)
    for page, data in enumerate(pages):
        shown = look(model, page + member.shift)
        assert data == (shown if isinstance(shown, bytes) else None), (member.number, page)


def read_page(vmo: Readable, page: int) -> bytes | None:
    """Return a page if it is there."""
    data = vmo.read_nowait(page * PAGE_SIZE, PAGE_SIZE)
    return None if data is None else bytes(data)


def _is_left_frozen(member: Member) -> bool:
    """Return whether a clone is the last below a hidden node, whose pages the one who pays for it does not take.

    It is still cloned as if others saw these pages: a child sees less of later writes than it otherwise might.
    """
    if not isinstance(member.model, ModelClone) or len(member.model.group) > 1:
        return False
    node = member.core.node
    is_left = node.parent is not None and node.parent.hidden
    assert not is_left or isinstance(node.runs.account, Unwilling)
    return is_left
