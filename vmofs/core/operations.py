"""zx_vmo_op_range: what a user of a VMO, not its pager, does with a range of it. For VMOs of all kinds."""

from __future__ import annotations

from vmofs.core.requests.access import Access
from vmofs.core.vmos.children import Vmo
from vmofs.vocabulary import VmoOp


def op_range(op: VmoOp, vmo: Vmo, offset: int, length: int) -> Access[None]:
    """Return the operation on a range of bytes as an access, to be started; on an aux and its children it never waits.

    What it may fail with stands at the methods of the VMOs. On an aux the two hints are always good: not even their
    range is looked at. Zircon: zx_vmo_op_range.
    """
    steps = {
        VmoOp.COMMIT: vmo.commit_steps,
        VmoOp.DECOMMIT: vmo.decommit_steps,
        VmoOp.ZERO: vmo.op_zero_steps,
        VmoOp.PREFETCH: vmo.prefetch_steps,
        VmoOp.ALWAYS_NEED: vmo.always_need_steps,
        VmoOp.DONT_NEED: vmo.dont_need_steps,
    }
    return Access(steps[op](offset, length))
