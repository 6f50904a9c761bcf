"""VMOs in two worlds, the core and the naive model, and the same calls on both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.oracle.children_model import ModelClone, ModelCloneCommit, ModelCloneRead, ModelCloneWrite
from tests.oracle.contract_model import (
    ContractModel,
    ModelCloneSetSize,
    ModelCloneZero,
    ModelDone,
    ModelRefused,
    ModelRoot,
)
from tests.oracle.dirty_model import (
    DirtyVmo,
    ModelAlwaysNeed,
    ModelCommit,
    ModelPin,
    ModelPrefetch,
    ModelSetSize,
    ModelSetStreamSize,
    ModelZero,
)
from tests.oracle.model import ModelAccess, ModelPager, ModelPort, ModelRead, ModelVmo, ModelWrite
from vmofs.core import operations
from vmofs.core.pager import Pager
from vmofs.core.pages.pins import Pin
from vmofs.core.requests.access import Access
from vmofs.core.requests.port import Port
from vmofs.core.requests.system import System
from vmofs.core.vmos.vmo import CloneVmo, PagerView, PagerVmo
from vmofs.status import Status, VmoError
from vmofs.units import PAGE_SIZE, PageRange
from vmofs.vocabulary import VmoOp

WRITES = {"write", "zero", "set_size", "set_stream_size", "commit", "pin_write"}
"""Calls that a view made with NO_WRITE refuses."""

RANGES = {"read", "zero", "commit", "decommit", "prefetch", "always_need", "dont_need", "pin", "pin_write"}
"""Calls with offset and length."""

ROOT_ONLY = {"set_stream_size", "always_need", "dont_need", "pin", "pin_write"}
"""Calls that the naive model of clones does not have."""

OPS = {name.name.lower(): name for name in VmoOp}


@dataclass(eq=False)
class Side:
    """One pager with its port, in both worlds."""

    core: Pager
    port: Port
    model: ModelPager
    model_port: ModelPort
    number: int
    closed: bool = False

    @classmethod
    def make(cls, system: System, number: int) -> Side:
        """Make a pager and a port."""
        return cls(Pager(system), Port(system), ModelPager(), ModelPort(), number)


@dataclass(eq=False)
class Tree:
    """One root in both worlds. ``resizable`` is what it was made with."""

    side: Side
    core: PagerVmo
    model: ModelRoot
    resizable: bool


@dataclass(eq=False)
class Member:
    """One open VMO: a root, a clone, or a view; ``shift`` is where a slice begins in what it shows, in pages."""

    tree: Tree
    core: PagerVmo | CloneVmo | PagerView
    model: DirtyVmo | ModelClone
    number: int
    shift: int = 0
    slice_pages: int | None = None
    no_write: bool = False

    @property
    def is_root(self) -> bool:
        """Whether this is what the pager calls act on."""
        return isinstance(self.core, PagerVmo)

    @property
    def root(self) -> DirtyVmo:
        """The root of the family, in the model."""
        return self.tree.model.vmo

    @property
    def shows_root(self) -> bool:
        """Whether this is the root's memory."""
        return not isinstance(self.model, ModelClone)

    @property
    def resizable(self) -> bool:
        """Whether slices of it are refused."""
        of_model = self.tree.resizable if self.shows_root else getattr(self.model, "resizable", False)
        return self.slice_pages is None and of_model

    def use(self) -> None:
        """Count one more view of the memory."""
        if isinstance(self.model, ModelClone):
            self.model.users += 1
        else:
            self.tree.model.users += 1


@dataclass(eq=False, repr=False)
class Call:
    """A call in progress in both worlds. ``where`` is its offset in bytes (or a size), ``data`` what it writes.

    ``way``: how a program reads or writes; for the core it is all the same.
    """

    member: Member
    name: str
    where: tuple[int, int]
    data: bytes
    way: str
    core: Access[Any]
    model: ModelAccess

    def __repr__(self) -> str:
        return f"{self.name} {self.where} {self.way} on VMO {self.member.number}"

    @property
    def pages(self) -> PageRange:
        """What it touches."""
        return PageRange.of_bytes(self.where[0], len(self.data) or self.where[1])


class Pinned(NamedTuple):
    """A pin that holds pages."""

    pin: Pin
    member: Member
    pages: list[int]


def outcome(call: Callable[[], object]) -> object:
    """Return what the call returns, or the status of its error."""
    try:
        return call()
    except VmoError as error:
        return error.status


def pages_of(parts: list[PageRange]) -> list[int]:
    """Return page numbers."""
    return [page for part in parts for page in range(*part)]


def core_access(member: Member, name: str, where: tuple[int, int], data: bytes) -> Access[Any]:
    """Return a call on a VMO of the core, not started."""
    core = member.core
    if name in OPS:
        return operations.op_range(OPS[name], core, *where)
    if name == "write":
        return core.write(where[0], data)
    if name in {"set_size", "set_stream_size"}:
        access: Access[Any] = getattr(core, name)(where[0])
        return access
    if name == "read":
        return core.read(*where)
    return core.pin(*where, write=name == "pin_write")


def model_access(world: ContractModel, member: Member, name: str, where: tuple[int, int], data: bytes) -> ModelAccess:
    """Return the same call on the model."""
    length = len(data) or where[1]
    if member.no_write and not isinstance(member.core, CloneVmo) and name in WRITES:
        return ModelRefused(member.root, Status.ACCESS_DENIED)
    if member.slice_pages is not None:
        if name == "set_size":
            return ModelRefused(member.root, Status.UNAVAILABLE)
        if where[0] + length > member.slice_pages * PAGE_SIZE:
            return ModelRefused(member.root, Status.OUT_OF_RANGE)
    at = where[0] + member.shift * PAGE_SIZE
    if isinstance(member.model, ModelClone):
        return _of_clone(member, member.model, name, (at, where[1]), data)
    return _of_root(world, member.model, name, (at, where[1]), data)


def _of_clone(member: Member, clone: ModelClone, name: str, where: tuple[int, int], data: bytes) -> ModelAccess:
    size = clone.size * PAGE_SIZE
    make: dict[str, Callable[[], ModelAccess]] = {
        "read": lambda: ModelCloneRead(clone, *where),
        "write": lambda: ModelCloneWrite(clone, where[0], data),
        "set_size": lambda: ModelCloneSetSize(member.tree.model.family, clone, where[0]),
        "zero": lambda: ModelCloneZero(clone, *where),
        "commit": lambda: ModelCloneCommit(clone, *where, forks=True),
        "prefetch": lambda: ModelCloneCommit(clone, *where, forks=False),
        "decommit": lambda: _decommit(clone.root, size, where),
    }
    return make[name]()


def _of_root(world: ContractModel, vmo: DirtyVmo, name: str, where: tuple[int, int], data: bytes) -> ModelAccess:
    size = vmo.size_pages * PAGE_SIZE
    make: dict[str, Callable[[], ModelAccess]] = {
        "read": lambda: ModelRead(vmo, *where),
        "write": lambda: ModelWrite(vmo, where[0], data),
        "set_size": lambda: ModelSetSize(world, vmo, where[0]),
        "set_stream_size": lambda: ModelSetStreamSize(world, vmo, where[0]),
        "zero": lambda: ModelZero(world, vmo, *where),
        "commit": lambda: ModelCommit(world, vmo, *where),
        "prefetch": lambda: ModelPrefetch(world, vmo, *where),
        "always_need": lambda: ModelAlwaysNeed(world, vmo, *where),
        "pin": lambda: ModelPin(world, vmo, *where, write=False),
        "pin_write": lambda: ModelPin(world, vmo, *where, write=True),
        "dont_need": lambda: _at_once(vmo, size, where, None),
        "decommit": lambda: _decommit(vmo, size, where),
    }
    return make[name]()


def _decommit(root: ModelVmo, size: int, where: tuple[int, int]) -> ModelAccess:
    return _at_once(root, size, where, Status.NOT_SUPPORTED if where[1] else None)


def _at_once(root: ModelVmo, size: int, where: tuple[int, int], status: Status | None) -> ModelAccess:
    if sum(where) > size:
        status = Status.OUT_OF_RANGE
    return ModelDone(root, *where) if status is None else ModelRefused(root, status)
