"""Hints of what is needed, which anybody may give who may read a VMO: bounded for each, and paid for by its owner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmofs.status import NoMemoryError

if TYPE_CHECKING:
    from vmofs.core.vmos.vmo import PagerVmo
    from vmofs.units import PageRange

MOST_RANGES = 1024
"""Of one VMO."""


def _check(vmo: PagerVmo) -> None:
    vmo.runs.check_ranges()
    if len(vmo.always_needed) + len(vmo.unneeded) >= MOST_RANGES:
        raise NoMemoryError(f"hints were given for {MOST_RANGES} ranges, which is too many")


def _count(vmo: PagerVmo) -> None:
    vmo.runs.count_besides(len(vmo.always_needed) + len(vmo.unneeded))


def always_need(vmo: PagerVmo, pages: PageRange) -> None:
    """Protect pages from eviction for good.

    Raises:
        NoMemoryError: there are many such ranges.
    """
    _check(vmo)
    vmo.always_needed.add(pages)
    vmo.unneeded.discard(pages)
    _count(vmo)


def dont_need(vmo: PagerVmo, pages: PageRange) -> None:
    """Let pages go before others, except those that are always needed.

    Raises:
        NoMemoryError: there are many such ranges.
    """
    _check(vmo)
    for part in vmo.always_needed.missing(pages):
        vmo.unneeded.add(part)
        if vmo.recency is not None:
            vmo.recency.unneeded()
    _count(vmo)
