"""Taking pages away from a clone of a pager VMO, to supply them. Zircon: zx_pager_supply_pages, step 6."""

from __future__ import annotations

from collections.abc import Callable

from vmofs.core.pages.runs import Run
from vmofs.core.requests.access import Steps
from vmofs.core.vmos.checksum import check_sum
from vmofs.core.vmos.cow_pages import CowPages
from vmofs.core.vmos.vmo import PagedVmo
from vmofs.status import BadStateError, NotSupportedError
from vmofs.units import PageRange


def take_steps(
    aux: PagedVmo,
    offset: int,
    length: int,
    xxh3: int | None,
    admit: Callable[[CowPages, PageRange], None],
) -> Steps[list[Run]]:
    """Take the pages of a range (in bytes, page aligned) away from a clone; the range then reads as zeros.

    What is absent at the root is READ first, so this may wait for that pager, and fail as it says. Everything goes at
    one moment; after a failure nothing is gone. Also fails with ACCESS_DENIED (made with NO_WRITE), OUT_OF_RANGE (not
    inside), NOT_SUPPORTED (a pager VMO, or a view of one), BAD_STATE (it has children, or pinned pages in the range),
    IO_DATA_INTEGRITY (the bytes do not have the sum ``xxh3``), NO_MEMORY (for copies of pages that others see too), and
    what ``admit``, which is asked just before, raises.
    """
    while length:
        check_can_give(aux, offset, length)
        node, start = aux.node, aux.start + offset
        pages = PageRange.of_bytes(start, length)
        absent = next((found for _, found in node.find_all(pages) if found.absent), None)
        if absent is not None:
            yield absent.need()
            continue
        if xxh3 is not None:
            check_sum(node, start, length, xxh3)
        admit(node, pages)
        return node.take(pages)
    return []


def check_can_give(aux: PagedVmo, offset: int, length: int) -> None:
    """Check all but the sum, in Zircon's order.

    Raises:
        VmoError: as ``take_steps``.
    """
    aux.check_write(offset, length)
    if aux.node.has_source:
        raise NotSupportedError("the aux is itself a pager VMO")
    if aux.lineage.num_children:
        raise BadStateError(f"the aux has {aux.lineage.num_children} children")
    pinned = aux.pinned.over(PageRange.of_bytes(aux.start + offset, length))
    if pinned:
        raise BadStateError(f"aux pages {pinned[0]} are pinned")
