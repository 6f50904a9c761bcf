"""The VMOs of one pager by their keys, for pagers that answer by key. A key may stand for several VMOs."""

from __future__ import annotations

from collections.abc import Iterable

from vmofs.core.vmos.vmo import PagerVmo
from vmofs.status import BadHandleError, InvalidArgsError
from vmofs.units import Key


class Keys:
    """An index. Most pagers have none: it is made when it is first asked for."""

    def __init__(self, vmos: Iterable[PagerVmo]) -> None:
        self._vmos: dict[Key, tuple[PagerVmo, ...]] = {}
        for vmo in vmos:
            self.add(vmo)

    def add(self, vmo: PagerVmo) -> None:
        """Add a VMO."""
        self._vmos[vmo.source.key] = (*self._vmos.get(vmo.source.key, ()), vmo)

    def discard(self, vmo: PagerVmo) -> None:
        """Take a VMO out."""
        left = tuple(other for other in self._vmos.pop(vmo.source.key) if other is not vmo)
        if left:
            self._vmos[vmo.source.key] = left

    def find(self, key: Key) -> PagerVmo:
        """Return the VMO with a key.

        Raises:
            BadHandleError: there is none.
            InvalidArgsError: there are several.
        """
        vmos = self._vmos.get(key, ())
        if not vmos:
            raise BadHandleError(f"no VMO of the pager has the key {key}")
        if len(vmos) > 1:
            raise InvalidArgsError(f"{len(vmos)} VMOs of the pager have the key {key}")
        return vmos[0]

    def __len__(self) -> int:
        """Return the number of VMOs."""
        return sum(map(len, self._vmos.values()))
