"""What was stored through shared mappings and is still in the kernel's page cache: it comes here when it is needed.

Without a write-back cache the kernel keeps such stores as dirty pages until ``msync``, ``munmap``, or until it likes to
write them; then each comes as a WRITE. It writes them before it closes the mapping, and RELEASE of the open file comes
after that: so there can be some only while somebody has the file open for reading and writing, which ``mapper_count``
of a file counts. All others pay nothing.

Whatever takes pages or content away, or shows it by another name, brings the stores in first (``bring_in``), and then
does its step with no ``await`` in between. Dropping the pages brings them: the kernel writes dirty ones first.

A store that a pager has yet to consent to (TRAP_DIRTY), or whose page must be read first, has not happened yet for
anybody else. It is not waited for, since whoever gives the command may be that pager.
"""

from __future__ import annotations

from vmofs.core.pages.states import PageState
from vmofs.core.vmos.children import Vmo
from vmofs.core.vmos.pager_pages import PagerPages
from vmofs.status import NoMemoryError, TimedOutError
from vmofs.units import PAGE_SIZE, PageRange
from vmofs_mount.cache.page_cache import PageCache
from vmofs_mount.tree.inodes import AuxFile, VmoFile, vmo_of

_SECONDS = 5.0
"""How long stores may take to come, if no pager holds them up. A command file is locked meanwhile."""


def may_have_stores(file: VmoFile | AuxFile) -> bool:
    """Return whether ``bring_in`` may have anything to do for the VMO of a file: mostly not, and then costs nothing."""
    if file.mapper_count:
        return True
    if isinstance(file, AuxFile):
        return file.lost is not None or bool(file.aux.node.windows)
    return file.vmo.node.parent is not None or bool(file.vmo.node.windows)


class MappedStores:
    """The stores of one mount."""

    def __init__(self, cache: PageCache) -> None:
        self._cache = cache

    async def bring_in(self, vmo: Vmo, pages: PageRange, but: VmoFile | AuxFile | None = None) -> None:
        """Bring in what was stored to pages of a VMO, by whatever name of it, and of what it shows of others.

        But not through ``but``, whose stores the kernel keeps in step itself, as during SETATTR.

        Raises:
            NoMemoryError: there was none for stores to an aux, now or when the kernel wrote them back: they are gone.
            TimedOutError: the kernel does not send them.
        """
        await self._bring_in(vmo, pages, but, own=True)

    async def bring_in_for_size(self, file: VmoFile | AuxFile, size_bytes: int) -> None:
        """Bring in what was stored by other names of the memory: of this one the kernel holds it back, and cuts it.

        Raises:
            NoMemoryError, TimedOutError: as ``bring_in``.
        """
        vmo = vmo_of(file)
        first = min(size_bytes, file.size_bytes) // PAGE_SIZE
        await self.bring_in(vmo, PageRange(first, vmo.size_pages), but=file)

    async def bring_in_source(self, vmo: Vmo, offset: int, length: int) -> None:
        """Bring in what was stored to others whose pages a write will fork: only what it does not overwrite matters.

        Raises:
            TimedOutError: the kernel does not send it.
        """
        if vmo.node.parent is None:
            return
        for page in {edge // PAGE_SIZE for edge in (offset, offset + length) if edge % PAGE_SIZE}:
            await self._bring_in(vmo, PageRange(page, page + 1), None, own=False)

    async def _bring_in(self, vmo: Vmo, pages: PageRange, but: VmoFile | AuxFile | None, *, own: bool) -> None:
        shift = vmo.start // PAGE_SIZE
        shown = (pages & PageRange(0, vmo.size_pages)).moved(shift)
        for written, part in vmo.node.written_by(shown, own=own):
            file = written.owner
            if isinstance(file, VmoFile | AuxFile) and file is not but:
                if file.mapper_count:
                    await self._bring_in_file(file, part)
                if isinstance(file, AuxFile) and file.lost is not None and (lost := file.lost.over(part)):
                    raise NoMemoryError(
                        f"what was stored to pages {lost[0]} of {file.path} found no memory and is gone"
                    )

    async def _bring_in_file(self, file: VmoFile | AuxFile, pages: PageRange) -> None:
        parts = [pages] if isinstance(file, AuxFile) else _taken_at_once(file.vmo, pages)
        if not await self._cache.drop_unlocked(file, parts, _SECONDS):
            raise TimedOutError(f"what was stored to {file.path} through mappings does not come from the kernel")


def _taken_at_once(vmo: Vmo, pages: PageRange) -> list[PageRange]:
    """Return the pages whose pager need not be asked before they are written to."""
    node, shift = vmo.node, vmo.start // PAGE_SIZE
    if not (isinstance(node, PagerPages) and node.options.trap_dirty):
        return [pages]
    runs = node.runs.over(pages.moved(shift))
    return [run.range.moved(-shift) for run in runs if run.state is PageState.DIRTY]
