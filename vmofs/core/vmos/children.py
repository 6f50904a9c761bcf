"""Making children of VMOs. Zircon: zx_vmo_create_child; zircon-pager 2.12. How they share pages is ``cow_pages``.

In a pager family a snapshot sees the root until it writes: there is no way to freeze what the root does not have yet.
Only what a *clone* has modified can be frozen (SNAPSHOT_MODIFIED): those pages move into a hidden node, and the clone
and its snapshot go on side by side. That is possible as long as nothing hangs below the clone, and nothing but the root
or hidden nodes above it. Among anonymous VMOs every snapshot freezes everything, whatever it is called.
"""

from __future__ import annotations

from vmofs.core.pages.account import Account
from vmofs.core.vmos.aux import AuxPages, AuxView, AuxVmo
from vmofs.core.vmos.cow_pages import CowPages
from vmofs.core.vmos.pager_pages import PagerPages
from vmofs.core.vmos.vmo import CloneVmo, PagerView, PagerVmo
from vmofs.core.vmos.vmo_pages import ClonePages
from vmofs.status import BadStateError, InvalidArgsError, NoMemoryError, NotSupportedError, OutOfRangeError
from vmofs.units import MAX_VMO_BYTES, PAGE_SIZE, UINT64_MAX, PageRange, is_page_aligned, page_count
from vmofs.vocabulary import AuxKind, ChildKind

Vmo = PagerVmo | CloneVmo | PagerView | AuxVmo | AuxView
"""All there is: what a name in a command may stand for, where a VMO is asked for."""


MOST_CHILDREN = 512
"""Of one memory that one payer may have."""

MOST_GENERATIONS = 256


def create_child(
    parent: Vmo,
    kind: ChildKind,
    offset: int,
    size: int,
    *,
    no_write: bool = False,
    resizable: bool = False,
    account: Account | None = None,
) -> Vmo:
    """Make a child that shows ``size`` bytes of its parent from ``offset`` on, zeros where the parent ends before.

    Costs the same whatever the size. ``size`` is the child's stream size; its size is that, rounded up to pages. After
    a failure nothing has changed.

    Raises:
        OutOfRangeError: the size is above the largest VMO, or the range overflows or leaves a slice.
        InvalidArgsError: NO_WRITE and RESIZABLE together; the offset is not page aligned; a slice that is to be
            resizable or does not lie inside its parent; a reference with an offset or a size; a snapshot of contiguous
            memory.
        NotSupportedError: the parent cannot have such a child: a two-way snapshot of a pager VMO, of a slice, of a
            clone that has children or hangs below another; a slice of a resizable VMO; a reference to a slice, or a
            resizable one to a VMO that is not; a snapshot of, or reference to, physical memory.
        BadStateError: pages of the parent are pinned, and it would have to share them both ways.
        NoMemoryError: the last page of an anonymous snapshot must be cut, and there is no memory for a copy; who pays
            has too many children of this memory, or there are too many generations.

    ``account``: who pays for what the child does not share.

    Zircon: zx_vmo_create_child. Its rights are the edge's affair; NO_WRITE is kept by the child, and by all slices of
    and references to it, which are the same memory. A snapshot of it can be written to again.
    """
    if size > MAX_VMO_BYTES:
        raise OutOfRangeError(f"size {size} is above the largest VMO, {MAX_VMO_BYTES}")
    if no_write and resizable:
        raise InvalidArgsError("a child that cannot be written to cannot be resizable")
    if kind is ChildKind.SLICE:
        child = _slice(parent, offset, size, account, no_write=no_write or parent.no_write, resizable=resizable)
    elif kind is ChildKind.REFERENCE:
        child = _reference(parent, offset, size, account, no_write=no_write or parent.no_write, resizable=resizable)
    else:
        child = _snapshot(parent, kind, offset, size, account, no_write=no_write, resizable=resizable)
    parent.lineage.add(child.lineage)
    return child


def _slice(parent: Vmo, offset: int, size: int, account: Account | None, *, no_write: bool, resizable: bool) -> Vmo:
    if resizable:
        raise InvalidArgsError("a slice cannot be resizable")
    _check_aligned(offset)
    end = parent.size_pages * PAGE_SIZE
    if offset + page_count(size) * PAGE_SIZE > end:
        raise InvalidArgsError(f"slice {offset}+{size} does not lie inside the parent of {end} bytes")
    if parent.resizable:
        raise NotSupportedError("a resizable VMO cannot have slices")
    if isinstance(parent, AuxVmo | AuxView):  # pages lie inside, but what a file has may end within the last
        size = max(0, min(size, parent.size_bytes - offset))
    _check_family(parent.node, account)
    make = PagerView if parent.node.kind is None else AuxView
    return make(parent.node, parent.start + offset, size, no_write=no_write, account=account)


def _reference(parent: Vmo, offset: int, size: int, account: Account | None, *, no_write: bool, resizable: bool) -> Vmo:
    if offset or size:
        raise InvalidArgsError(f"a reference is to the whole parent: offset {offset} and size {size} must be 0")
    node = parent.node
    if parent.is_slice:
        raise NotSupportedError("a slice cannot have references")
    if node.kind is not None and node.kind is not AuxKind.PLAIN:
        raise NotSupportedError(f"{node.kind.value} memory cannot have references")
    if resizable and not node.resizable:
        raise NotSupportedError("the parent is not resizable, so a reference to it cannot be")
    _check_family(node, account)
    make = PagerView if node.kind is None else AuxView
    return make(node, no_write=no_write, account=account)


def _snapshot(
    parent: Vmo, kind: ChildKind, offset: int, size: int, account: Account | None, *, no_write: bool, resizable: bool
) -> Vmo:
    node = parent.node
    if node.kind is AuxKind.PHYSICAL:
        raise NotSupportedError("physical memory cannot have snapshots")
    if node.kind is AuxKind.CONTIGUOUS:
        raise InvalidArgsError("contiguous memory cannot have snapshots")
    _check_aligned(offset)
    length = page_count(size) * PAGE_SIZE
    if offset + length > UINT64_MAX or (parent.is_slice and offset + length > parent.size_pages * PAGE_SIZE):
        raise OutOfRangeError(f"snapshot {offset}+{size} overflows, or leaves the slice")
    first = (parent.start + offset) // PAGE_SIZE
    whole = first == 0 and page_count(size) >= node.size_pages
    above, first, limit = _find_place(node, kind, first, page_count(size), account, is_slice=parent.is_slice)
    child: CloneVmo | AuxVmo
    if isinstance(node, AuxPages):
        child = AuxVmo(node.system, size, resizable=resizable, no_write=no_write, account=account)
    else:
        source = node.source
        child = CloneVmo(node.system, source, size, resizable=resizable, no_write=no_write, account=account)
    above.hang(child.node, first, limit)
    if above.hidden:
        child.node.shared_pages = node.shared_pages if whole else child.node.count_shared(PageRange(0, limit))
    if isinstance(child, AuxVmo):
        try:
            child.node.zero_tail(size)
        except NoMemoryError:
            child.close()
            raise
    return child


def _find_place(
    node: PagerPages | ClonePages | AuxPages,
    kind: ChildKind,
    first: int,
    pages: int,
    account: Account | None,
    *,
    is_slice: bool,
) -> tuple[CowPages, int, int]:
    """Decide what a snapshot is, in Zircon's order, and return the node it is to hang below, and what it shows of it.

    If it is two-way and the VMO has pages there, they are moved into a new hidden node.
    """
    in_pager_family = node.kind is None
    if kind is ChildKind.SNAPSHOT and in_pager_family:
        raise NotSupportedError("a pager VMO, and what comes of it, cannot be frozen as a whole")
    must_freeze = kind is ChildKind.SNAPSHOT or (kind is ChildKind.SNAPSHOT_MODIFIED and node.parent is not None)
    if (node.root_offset() + first + pages) * PAGE_SIZE > UINT64_MAX:
        raise InvalidArgsError("the range overflows where it lies in the root")
    below_hidden = node.parent is not None and node.parent.hidden
    two_way = must_freeze or not in_pager_family or below_hidden
    if two_way and is_slice:
        raise NotSupportedError("a slice cannot be frozen")
    if two_way and node.pinned:
        raise BadStateError(f"{node.pinned.pages} pages are pinned")
    limit = max(0, min(pages, node.size_pages - first))
    above, first, limit = node.place(first, limit, two_way=two_way)
    _check_family(above, account)
    if not two_way:
        return above, first, limit
    _check_two_way(node, above.parent)
    return (above if above.hidden else above.hide(node.size_pages)), first, limit


def _check_family(node: CowPages, account: Account | None) -> None:
    """Check that who pays has not too many children of a node: whoever writes to it looks at each, and upwards."""
    if account is None:
        return
    if node.members_of(account) >= MOST_CHILDREN:
        raise NoMemoryError(f"{account.payer} has {MOST_CHILDREN} children of this memory, which is too many")
    if node.depth() >= MOST_GENERATIONS:
        raise NoMemoryError(f"the child would be one of {MOST_GENERATIONS} generations, which is too many")


def _check_two_way(node: CowPages, above: CowPages | None) -> None:
    """Check that a hidden node can come between a node and the one above."""
    if node.children:
        raise NotSupportedError("the clone has children that see what it writes")
    if above is not None and above.parent is not None and not above.hidden:
        raise NotSupportedError("the clone hangs below another clone that it sees the writes of")


def _check_aligned(offset: int) -> None:
    if not is_page_aligned(offset):
        raise InvalidArgsError(f"offset {offset} is not page aligned")
