"""Sources as a pager, for ``vmofs.client.serve``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vmofs.client import Data, Object, Pager
from vmofs.pagers.source import Source


class SourcesPager(Pager):
    """Serves each source as a file.

    Args:
        sources: By the path of the file below ``vmo/``.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = dict(sources)

    def objects(self) -> Iterable[Object]:
        """Return an object for each source."""
        return [
            Object(name, source.size, version=source.version, source=source.url)
            for name, source in self._sources.items()
        ]

    def read(self, obj: Object, offset: int, length: int) -> Data:
        """Return a range of the source of that name."""
        return self._sources[obj.name].read(offset, length)

    def close(self, obj: Object) -> None:
        """Close the source of a file that nobody has any more."""
        source = self._sources.pop(obj.name, None)
        if source is not None:
            source.close()
