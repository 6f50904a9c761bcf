"""fsync for VMOs whose pager takes part in it: vmofs.core.vmos.sync."""

from __future__ import annotations

import pytest

from vmofs.core.pager import Pager
from vmofs.core.pages.spans import SLICE
from vmofs.core.requests.access import Access
from vmofs.core.requests.port import Port
from vmofs.core.requests.system import System
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import BadStateError, IoError, Status
from vmofs.units import PAGE_SIZE, Key
from vmofs.vocabulary import PacketCommand, PagerOp

P = PAGE_SIZE


def is_done(access: Access[None]) -> bool:
    return access.done


class Synced:
    """A resizable VMO of 8 supplied pages that was made with ``writeback``."""

    def __init__(self) -> None:
        self.system = System()
        self.port = Port(self.system)
        self.pager = Pager(self.system)
        options = VmoOptions(resizable=True, writeback=True)
        self.vmo: PagerVmo = self.pager.create_vmo(self.port, Key(1), 8 * P, options)
        self.pager.supply_pages(self.vmo, 0, 8 * P, AuxVmo(self.system, 8 * P), 0)

    def write(self, page: int, pages: int = 1) -> None:
        assert self.vmo.write(page * P, b"w" * pages * P).start(0)

    def sync(self) -> Access[None]:
        access = self.vmo.sync()
        access.start(0)
        return access

    def op(self, op: PagerOp, page: int, pages: int, data: int = 0) -> None:
        self.pager.op_range(op, self.vmo, page * P, pages * P, data)
        self.system.run_ready(0)
        self.system.check()

    def clean(self, page: int, pages: int) -> None:
        self.op(PagerOp.WRITEBACK_BEGIN, page, pages)
        self.op(PagerOp.WRITEBACK_END, page, pages)

    def packets(self) -> list[tuple[PacketCommand, int, int]]:
        found = []
        while (packet := self.port.dequeue()) is not None:
            found.append((packet.command, packet.offset // P, packet.length // P))
        return found


@pytest.fixture
def synced() -> Synced:
    return Synced()


def test_sync_of_a_clean_vmo_is_done_at_once(synced: Synced) -> None:
    assert synced.sync().done
    assert synced.packets() == []


def test_sync_of_a_vmo_without_writeback_is_done_at_once(synced: Synced) -> None:
    plain = synced.pager.create_vmo(synced.port, Key(2), P)
    synced.pager.supply_pages(plain, 0, P, AuxVmo(synced.system, P), 0)
    assert plain.write(0, b"x").start(0)
    assert plain.sync().start(0)


def test_sync_asks_for_each_dirty_range_and_ends_when_all_went_through_end(synced: Synced) -> None:
    synced.write(1)
    synced.write(4, 2)
    sync = synced.sync()
    assert synced.packets() == [(PacketCommand.WRITEBACK, 1, 1)]
    synced.clean(1, 1)
    assert synced.packets() == [(PacketCommand.WRITEBACK, 4, 2)]
    synced.clean(4, 1)
    assert not is_done(sync)
    synced.clean(5, 1)
    assert is_done(sync)
    sync.result()
    assert len(synced.vmo.node.syncs) == 0


def test_a_page_that_is_dirtied_during_the_writeback_must_go_through_another_end(synced: Synced) -> None:
    synced.write(0)
    sync = synced.sync()
    synced.op(PagerOp.WRITEBACK_BEGIN, 0, 1)
    synced.write(0)
    synced.op(PagerOp.WRITEBACK_END, 0, 1)
    assert not is_done(sync)
    synced.clean(0, 1)
    assert is_done(sync)


def test_pages_dirtied_after_its_start_do_not_concern_a_sync(synced: Synced) -> None:
    synced.write(0)
    sync = synced.sync()
    synced.write(3)
    synced.clean(0, 1)
    assert is_done(sync)


def test_a_failed_writeback_is_the_result_of_sync(synced: Synced) -> None:
    synced.write(2, 2)
    sync = synced.sync()
    synced.op(PagerOp.FAIL, 2, 2, Status.IO)
    with pytest.raises(IoError, match=r"\[2,4\)"):
        sync.result()
    assert synced.vmo.state_at(2).value == "dirty"


def test_pages_cut_off_are_no_longer_waited_for(synced: Synced) -> None:
    synced.write(7)
    sync = synced.sync()
    assert synced.vmo.set_size(4 * P).start(0)
    synced.system.run_ready(0)
    assert is_done(sync)


def test_a_changed_size_alone_is_asked_for_with_length_0(synced: Synced) -> None:
    assert synced.vmo.set_size(2 * P).start(0)
    sync = synced.sync()
    assert synced.packets() == [(PacketCommand.WRITEBACK, 0, 0)]
    synced.op(PagerOp.WRITEBACK_END, 0, 0)
    assert not is_done(sync)  # nobody has looked at the size before
    synced.clean(0, 0)
    assert is_done(sync)
    assert synced.sync().done


def test_a_size_that_changes_during_its_writeback_stays_dirty(synced: Synced) -> None:
    assert synced.vmo.set_size(2 * P).start(0)
    synced.op(PagerOp.WRITEBACK_BEGIN, 0, 0)
    assert synced.vmo.set_size(3 * P - 1).start(0)
    synced.op(PagerOp.WRITEBACK_END, 0, 0)
    assert not synced.sync().done


def test_the_writeback_of_the_size_alone_can_fail(synced: Synced) -> None:
    assert synced.vmo.set_size(2 * P).start(0)
    sync = synced.sync()
    synced.op(PagerOp.FAIL, 0, 0, Status.IO)
    with pytest.raises(IoError):
        sync.result()


def test_sync_without_a_pager_is_bad_state(synced: Synced) -> None:
    synced.write(0)
    waiting = synced.sync()
    synced.pager.detach_vmo(synced.vmo)
    synced.system.run_ready(0)
    for sync in (waiting, synced.sync()):
        with pytest.raises(BadStateError):
            sync.result()


def test_a_lower_stream_size_ends_the_wait_for_what_lay_beyond(synced: Synced) -> None:
    synced.write(6)
    sync = synced.sync()
    assert synced.vmo.set_stream_size(3 * P).start(0)
    synced.system.run_ready(0)
    assert is_done(sync)


def test_what_is_written_back_while_a_sync_still_looks_for_what_is_dirty_is_not_waited_for() -> None:
    """Such a sync waited for a page that was clean, of which nobody asked the pager for anything any more."""
    pages = 4 * SLICE
    system = System()
    pager, port = Pager(system), Port(system)
    vmo = pager.create_vmo(port, Key(1), pages * P, VmoOptions(resizable=True, writeback=True))
    pager.supply_pages(vmo, 0, pages * P, AuxVmo(system, pages * P), 0)
    for page in range(0, pages, 2):
        assert vmo.write(page * P, b"w" * P).start(0)
    sync = vmo.sync()
    sync.may_rest = True
    sync.start(0)
    assert sync.is_resting
    for op in (PagerOp.WRITEBACK_BEGIN, PagerOp.WRITEBACK_END):
        pager.op_range(op, vmo, 0, pages * P, 0)
    for _ in range(pages // SLICE):
        sync.go_on(0)
    assert is_done(sync)
    assert port.dequeue() is None
    system.check()
