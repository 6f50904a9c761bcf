"""What a present page costs beyond itself.

Counted from when nothing was ever supplied: what runs for the first time, and the free frames that the daemon keeps at
hand, are in it. A baseline after a warm-up would have such frames, and the pages that fill them would cost nothing.
"""

from __future__ import annotations

import mmap
import os
import random
from typing import Any

from tools.benchmarks.machine import resident_bytes
from tools.benchmarks.targets import Bench
from tools.benchmarks.vmofs_targets import Fresh, VmofsMount
from vmofs.units import PAGE_SIZE


def in_runs(bench: Bench, target: Fresh, seed: int) -> dict[str, Any]:  # noqa: ARG001 - as every measure
    """Supply a VMO in writes of 1 MiB."""
    with target.mounted(bench) as mount:
        pager, before = mount.make_pager(), resident_bytes(mount.pid)
        mount.supply_all(pager, mount.create(pager, bench.sizes.object_bytes))
        return _beyond(mount, before, bench.sizes.object_bytes // PAGE_SIZE)


def in_random_order(bench: Bench, target: Fresh, seed: int) -> dict[str, Any]:
    """Supply a VMO page by page in random order."""
    pages = bench.sizes.pages_in_random_order
    with target.mounted(bench) as mount:
        pager, before = mount.make_pager(), resident_bytes(mount.pid)
        vmo = mount.create(pager, pages * PAGE_SIZE)
        page = mmap.mmap(-1, PAGE_SIZE)
        page.write(b"\1" * PAGE_SIZE)
        out = os.open(pager / "supply" / "vmo" / vmo.name, os.O_WRONLY)
        for index in random.Random(seed).sample(range(pages), pages):  # noqa: S311
            os.pwrite(out, page, index * PAGE_SIZE)
        os.close(out)
        return _beyond(mount, before, pages)


def _beyond(mount: VmofsMount, before: int, pages: int) -> dict[str, Any]:
    return {"value": (resident_bytes(mount.pid) - before) / pages - PAGE_SIZE, "pages": pages}
