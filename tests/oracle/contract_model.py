"""The naive models put together: dirty tracking, writeback and sizes of the root, and children of all kinds."""

from __future__ import annotations

from dataclasses import dataclass

from tests.oracle.children_model import ModelClone, ModelFamily
from tests.oracle.dirty_model import DirtyModel, DirtyVmo
from tests.oracle.model import OK, ModelAccess, ModelNeed, ModelPager, ModelVmo
from vmofs.status import Status, VmoError
from vmofs.units import PAGE_SIZE


@dataclass(eq=False)
class ModelRoot:
    """A pager VMO with its children; ``users`` counts its open handle and the open views of it."""

    vmo: DirtyVmo
    pager: ModelPager
    family: ModelFamily
    users: int = 1


class ContractModel(DirtyModel):
    """The whole contract: what a root loses is lost to its clones, and the last of a family ends the root."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: dict[ModelVmo, ModelRoot] = {}

    def create_root(self, pager: ModelPager, vmo: DirtyVmo) -> ModelRoot:
        """Make a pager VMO."""
        self.create_vmo(pager, vmo)
        self.roots[vmo] = ModelRoot(vmo, pager, ModelFamily(vmo))
        return self.roots[vmo]

    def cut(self, vmo: DirtyVmo, pages: int) -> None:
        """Shrink the root: clones see zeros there for ever."""
        self.roots[vmo].family.cut_root(pages)
        super().cut(vmo, pages)

    def close(self, root: ModelRoot, memory: DirtyVmo | ModelClone) -> bool:
        """Close one handle, a view or not, of the root or of a clone; return whether the family has ended."""
        if isinstance(memory, ModelClone):
            root.family.close(memory)
        else:
            root.users -= 1
        if root.users or root.family.clones:
            return False
        self.close_vmo(root.pager, root.vmo)
        del self.roots[root.vmo]
        return True


class ModelRefused(ModelAccess):
    """A call that fails at once."""

    def __init__(self, vmo: ModelVmo, status: Status) -> None:
        super().__init__(vmo, 0, 0)
        self.status = status

    def go_on(self) -> ModelNeed | None:
        """Fail."""
        raise VmoError.of(self.status, "")


class ModelDone(ModelAccess):
    """A call that succeeds at once and shows nothing."""

    def go_on(self) -> ModelNeed | None:
        """Succeed."""
        self.outcome = OK
        return None


class ModelCloneZero(ModelAccess):
    """ZERO of whole pages of a clone (4.8): they never show the root again."""

    def __init__(self, clone: ModelClone, offset: int, length: int) -> None:
        super().__init__(clone.root, offset, length)
        self.clone = clone

    def go_on(self) -> ModelNeed | None:
        """Zero them all; nothing is needed for that."""
        self.clone.check_writable()
        self.clone.check_inside(self.offset, self.length)
        self.clone.zero(range(self.offset // PAGE_SIZE, self.end // PAGE_SIZE))
        self.outcome = OK
        return None


class ModelCloneSetSize(ModelAccess):
    """zx_vmo_set_size of a clone, to whole pages."""

    def __init__(self, family: ModelFamily, clone: ModelClone, size: int) -> None:
        super().__init__(clone.root, size, 0)
        self.family = family
        self.clone = clone

    def go_on(self) -> ModelNeed | None:
        """Cut or extend."""
        self.family.resize(self.clone, self.offset // PAGE_SIZE)
        self.outcome = OK
        return None
