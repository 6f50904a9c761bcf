"""A read on the short path of a miss, as an edge has one."""

from __future__ import annotations

from vmofs.core.requests.access import Access
from vmofs.core.requests.request import Waiter
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.units import PAGE_SIZE


class ShortRead:
    """A read of one page that began on the short path. It looks like the access that it may become."""

    def __init__(self, vmo: PagerVmo, offset: int) -> None:
        self._vmo = vmo
        self._offset = offset
        self._data: bytes | None = None
        self.access: Access[bytes] | None = None

    def become_access(self) -> Access[object]:
        """Be an access from now on."""
        assert self.access is None
        assert self._data is None
        self.access = self._vmo.read(self._offset, PAGE_SIZE)
        return self.access

    def answer(self, data: bytes) -> None:
        """End with the bytes that were supplied."""
        assert self.access is None
        assert self._data is None
        self._data = data

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._data is not None if self.access is None else self.access.done

    @property
    def waits_for(self) -> Waiter | None:
        """What the access waits for."""
        return None if self.access is None else self.access.waits_for

    def result(self) -> bytes:
        """Return what was read."""
        if self.access is not None:
            return self.access.result()
        assert self._data is not None
        return self._data

    def cancel(self) -> None:
        """End without a result: a reader who leaves is an access first."""
        if not self.done:
            self._vmo.source.port.promote()
            assert self.access is not None
            self.access.cancel()


def short_read(vmo: PagerVmo, offset: int, lane: object, now: float) -> tuple[ShortRead, bool] | None:
    """Start a read of an absent page on the short path; return it, and whether its packet goes to the lane."""
    read = ShortRead(vmo, offset)
    sent = vmo.miss(offset, read, lane, now)
    return None if sent is None else (read, sent)
