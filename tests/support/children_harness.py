"""What tests of children share: short calls in pages, and what a child shows as letters."""

from __future__ import annotations

from collections.abc import Callable

from tests.oracle.world import AUX_KEY, KEY, World
from vmofs.core.requests.access import Access
from vmofs.core.vmos.aux import AuxView, AuxVmo
from vmofs.core.vmos.children import Vmo, create_child
from vmofs.core.vmos.vmo import CloneVmo, PagerView, PagerVmo
from vmofs.testing import pattern
from vmofs.units import PAGE_SIZE, PageRange
from vmofs.vocabulary import ChildKind

P = PAGE_SIZE
ON_WRITE = ChildKind.SNAPSHOT_AT_LEAST_ON_WRITE
MODIFIED = ChildKind.SNAPSHOT_MODIFIED
FULL = ChildKind.SNAPSHOT

PagerLike = PagerVmo | CloneVmo | PagerView


def clone(
    parent: Vmo,
    kind: ChildKind = ON_WRITE,
    page: int = 0,
    pages: int = 8,
    *,
    resizable: bool = False,
    no_write: bool = False,
) -> CloneVmo:
    """Make a clone of pages of a pager family."""
    child = create_child(parent, kind, page * P, pages * P, resizable=resizable, no_write=no_write)
    assert isinstance(child, CloneVmo)
    return child


def slice_of(parent: Vmo, page: int, pages: int, *, no_write: bool = False) -> PagerView:
    """Make a slice of pages of a pager family."""
    child = create_child(parent, ChildKind.SLICE, page * P, pages * P, no_write=no_write)
    assert isinstance(child, PagerView)
    return child


def reference(parent: Vmo, *, resizable: bool = False) -> PagerView:
    """Make a reference in a pager family."""
    child = create_child(parent, ChildKind.REFERENCE, 0, 0, resizable=resizable)
    assert isinstance(child, PagerView)
    return child


def snapshot(parent: Vmo, page: int = 0, pages: int = 8, *, kind: ChildKind = FULL, resizable: bool = False) -> AuxVmo:
    """Make a snapshot of anonymous memory."""
    child = create_child(parent, kind, page * P, pages * P, resizable=resizable)
    assert isinstance(child, AuxVmo)
    return child


def aux_view(parent: Vmo, page: int, pages: int) -> AuxView:
    """Make a slice of anonymous memory."""
    child = create_child(parent, ChildKind.SLICE, page * P, pages * P)
    assert isinstance(child, AuxView)
    return child


def read(world: World, vmo: PagerLike, page: int, pages: int = 1) -> Access[bytes]:
    """Start reading whole pages."""
    return world.start(vmo.read(page * P, pages * P))


def write(world: World, vmo: PagerLike, page: int, pages: int = 1) -> Access[int]:
    """Start writing whole pages of the object with ``AUX_KEY``."""
    return world.start(vmo.write(page * P, pattern.make_pages(AUX_KEY, PageRange(page, page + pages))))


def zero(world: World, vmo: PagerLike, page: int, pages: int = 1) -> None:
    """Zero whole pages without waiting."""
    world.start(vmo.op_zero(page * P, pages * P)).result()


def resize(world: World, vmo: PagerLike, pages: int) -> None:
    """Set the size to whole pages; let those who woke run."""
    world.start(vmo.set_size(pages * P)).result()
    world.run()


def shows(vmo: PagerLike | AuxVmo | AuxView, pages: int = 8, *, page: int = 0, shift: int = 0) -> str:
    """Return a letter for each page: ``.`` absent, ``0`` zeros, ``r`` the root's, ``w`` written, ``?`` anything else.

    ``shift`` is where the VMO's page 0 lies in the root; what was written must have been written at its own place.
    """
    letters = []
    for at in range(page, min(page + pages, vmo.size_pages)):
        data = vmo.read_nowait(at * P, P)
        letters.append("." if data is None else _letter(bytes(data), at, shift))
    return "".join(letters)


def _letter(data: bytes, page: int, shift: int) -> str:
    known: dict[str, Callable[[], bytes]] = {
        "0": lambda: bytes(P),
        "r": lambda: pattern.make_pages(KEY, PageRange(page + shift, page + shift + 1)),
        "w": lambda: pattern.make_pages(AUX_KEY, PageRange(page, page + 1)),
        "W": lambda: pattern.make_pages(AUX_KEY, PageRange(page + shift, page + shift + 1)),
    }
    return next((letter for letter, make in known.items() if data == make()), "?")


def used(world: World) -> int:
    """Return the frames in use."""
    return world.system.frames.statistics().used
