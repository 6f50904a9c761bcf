"""zx_vmo_op_range: what a user of a VMO, not its pager, does with a range of it. For VMOs of all kinds."""

from __future__ import annotations

from collections.abc import Callable

from vmofs.core.requests.access import Access, Steps
from vmofs.core.vmos.aux import AuxVmo
from vmofs.core.vmos.children import Vmo
from vmofs.core.vmos.clone import CloneVmo
from vmofs.core.vmos.view import AuxView, PagerView
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.vocabulary import VmoOp


def op_range(op: VmoOp, vmo: Vmo, offset: int, length: int) -> Access[None]:
    """Return the operation on a range of bytes as an access, to be started; on an aux and its children it never waits.

    What it may fail with stands at the methods of the VMOs. On an aux the two hints are always good: not even their
    range is looked at. Zircon: zx_vmo_op_range.
    """
    if not isinstance(vmo, AuxVmo | AuxView):
        return _on_pager_vmo(op, vmo, offset, length)
    methods = {VmoOp.COMMIT: vmo.commit_steps, VmoOp.DECOMMIT: vmo.decommit_steps, VmoOp.ZERO: vmo.op_zero_steps}
    if op in methods:
        return Access(methods[op](offset, length))
    return Access(_at_once(vmo.prefetch if op is VmoOp.PREFETCH else _nothing, offset, length))


def _on_pager_vmo(op: VmoOp, vmo: PagerVmo | CloneVmo | PagerView, offset: int, length: int) -> Access[None]:
    may_wait = {
        VmoOp.COMMIT: vmo.commit,
        VmoOp.ZERO: vmo.op_zero,
        VmoOp.ALWAYS_NEED: vmo.always_need,
        VmoOp.PREFETCH: vmo.prefetch,
    }
    if op in may_wait:
        return may_wait[op](offset, length)
    return Access(_at_once(vmo.decommit if op is VmoOp.DECOMMIT else vmo.dont_need, offset, length))


def _at_once(call: Callable[[int, int], None], offset: int, length: int) -> Steps[None]:
    """Do something that does not wait when the access is started."""
    call(offset, length)
    yield from ()


def _nothing(_offset: int, _length: int) -> None:
    pass
