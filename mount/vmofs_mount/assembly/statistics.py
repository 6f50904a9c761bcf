"""What ``control/stats`` says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from vmofs.core.requests.system import System
from vmofs.wire.metrics import format_labelled_metrics, format_metrics
from vmofs_mount.cache.page_cache import PageCache
from vmofs_mount.observe.dirty import Dirty
from vmofs_mount.observe.event_log import EventLog
from vmofs_mount.pagers.known_pagers import KnownPagers
from vmofs_mount.tree.tree import Tree


class Statistics:
    """The counters of a mount."""

    def __init__(self, system: System, tree: Tree, known: KnownPagers, cache: PageCache, log: EventLog) -> None:
        self._system = system
        self._tree = tree
        self._known = known
        self._cache = cache
        self._log = log

    def text(self) -> Iterator[str]:
        """Yield what everybody sees; counting what is dirty takes long."""
        dirty = Dirty(0, 0)
        for counted in self._known.count_dirty():
            dirty = counted
            yield ""
        system = self._system.statistics()
        frames = asdict(system.frames)
        values = {
            "frames_used": frames["used"],
            "frames_peak": frames["peak"],
            "frames_held": frames["held"],
            "frames_limit": frames["limit"] or 0,
            **({} if self._system.eviction is None else asdict(self._system.eviction.statistics())),
            "objects": system.objects,
            "requests_outstanding": system.requests_outstanding,
            "waiters": system.waiters,
            "nodes": self._tree.node_count,
            "pagers": sum(1 for _ in self._known),
            "dirty_pages": dirty.pages,
            "dirty_vmos": dirty.vmos,
            "log_lines_total": self._log.lines_total,
            **self._tree.limits.statistics(),
            **{f"pagecache_{name}": value for name, value in asdict(self._cache.statistics()).items()},
        }
        yield format_metrics("vmofs", values)

    def of_user(self, asked_by: int) -> str:
        """Return what users hold, as far as it is the business of who asks."""
        return format_labelled_metrics("vmofs", self._tree.limits.of_users(asked_by), "uid")
