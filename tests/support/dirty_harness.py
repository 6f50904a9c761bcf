"""What tests of dirty tracking share: the contract's notation for page states and dirty ranges, and short calls."""

from __future__ import annotations

from tests.oracle.world import World
from vmofs.core.pager import DIRTY_RANGE_IS_ZERO
from vmofs.core.pages.states import PageState
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.units import PAGE_SIZE
from vmofs.vocabulary import PagerOp

P = PAGE_SIZE

_LETTERS = {
    PageState.GAP: ".",
    PageState.CLEAN: "c",
    PageState.MARKER: "m",
    PageState.DIRTY: "d",
    PageState.AWAITING: "a",
    PageState.ZERO: "z",
    PageState.ZERO_AWAITING: "w",
    PageState.UNTRACKED: "u",
}


def states(vmo: PagerVmo, pages: int = 16) -> str:
    """Return a letter for each of the first pages: gap . clean c marker m dirty d awaiting a zero z w untracked u."""
    return "".join(_LETTERS[vmo.state_at(page)] for page in range(min(vmo.size_pages, pages)))


def dirty(world: World, vmo: PagerVmo, page: int = 0, pages: int | None = None) -> str:
    """Query dirty ranges of pages and return them as the contract writes them: ``{1,2}{3,4,Z}``."""
    length = (vmo.size_pages - page if pages is None else pages) * P
    records = world.pager.query_dirty_ranges(vmo, page * P, length)
    return "".join(f"{{{r.start},{r.pages}{',Z' if is_zero else ''}}}" for r, is_zero in records)


def ack(world: World, vmo: PagerVmo, page: int, pages: int = 1) -> None:
    """OP_DIRTY."""
    world.op(PagerOp.DIRTY, vmo, page, pages)


def begin(world: World, vmo: PagerVmo, page: int, pages: int = 1, *, zero: bool = False) -> None:
    """WRITEBACK_BEGIN."""
    world.op(PagerOp.WRITEBACK_BEGIN, vmo, page, pages, DIRTY_RANGE_IS_ZERO if zero else 0)


def end(world: World, vmo: PagerVmo, page: int, pages: int = 1) -> None:
    """WRITEBACK_END."""
    world.op(PagerOp.WRITEBACK_END, vmo, page, pages)


def clean(world: World, vmo: PagerVmo, page: int, pages: int = 1) -> None:
    """WRITEBACK_BEGIN, then WRITEBACK_END."""
    begin(world, vmo, page, pages)
    end(world, vmo, page, pages)


def grown(world: World, pages: int, to_pages: int, *, trap: bool = False) -> PagerVmo:
    """Make a VMO that has grown: its pages from ``pages`` on are a dirty zero interval."""
    vmo = resizable(world, pages, trap=trap)
    resize(world, vmo, to_pages)
    vmo.node.modified = False
    return vmo


def resizable(world: World, pages: int, *, trap: bool = False) -> PagerVmo:
    """Make a VMO that can be resized."""
    return world.vmo(pages, options=VmoOptions(resizable=True, trap_dirty=trap))


def resize(world: World, vmo: PagerVmo, pages: int) -> None:
    """Set the size to whole pages; let those who woke run."""
    world.start(vmo.set_size(pages * P)).result()
    world.run()


def zero(world: World, vmo: PagerVmo, page: int, pages: int = 1) -> None:
    """ZERO whole pages without waiting; let those who woke run."""
    world.start(vmo.op_zero(page * P, pages * P)).result()
    world.run()


def modified(world: World, vmo: PagerVmo) -> bool:
    """Query and reset "modified"."""
    return world.pager.query_vmo_stats(vmo, reset=True)
