"""What one user may hold, so that no user can exhaust the mount for the others.

Who makes something grow pays for it, until the last reference to it is gone. For a file that is its owner; for
requests, open files and what these hold, and for extended attributes, whoever asked. Root is exempt, and the user who
serves the mount. A count that is reached is NO_SPACE (ENOSPC); memory, ranges and outstanding requests are NO_MEMORY
(ENOMEM).

Pages and ranges are counted by the core, in one ``Account`` for each user, which every object of his has: exactly, and
where they come and go. All else goes through ``take`` and ``give``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from weakref import WeakValueDictionary

from vmofs.core.pages.account import Account
from vmofs.status import NoMemoryError, NoSpaceError
from vmofs.units import PAGE_SIZE
from vmofs_mount.tree.inodes import AuxFile, Directory, Fifo, Node, Realm, VmoFile
from vmofs_mount.tree.special_files import PlainFifo, Socket, Symlink


class Resource(StrEnum):
    """What is limited. The value is that of the mount option, after ``user_``, and of the counter in ``stats``."""

    PAGERS = "pagers"
    VMOS = "vmos"
    AUX_FILES = "aux_files"
    FIFOS = "fifos"
    NODES = "nodes"
    DESCRIPTORS = "descriptors"
    REQUESTS = "requests"
    QUEUE_BYTES = "queue_bytes"
    XATTR_BYTES = "xattr_bytes"
    RANGES = "ranges"
    MEMORY = "memory"


DEFAULTS: Mapping[Resource, int] = MappingProxyType(
    {
        Resource.PAGERS: 256,
        Resource.VMOS: 65536,
        Resource.AUX_FILES: 65536,
        Resource.FIFOS: 256,
        Resource.NODES: 131072,
        Resource.DESCRIPTORS: 1024,  # of the daemon; less if it may have only few
        Resource.REQUESTS: 16384,  # the kernel holds at most 65535 reads outstanding, for all users together
        Resource.QUEUE_BYTES: 64 * 2**20,  # also open command files, long answers, pins, names turned into files
        Resource.XATTR_BYTES: 16 * 2**20,
        Resource.RANGES: 262144,  # some 100 bytes each, at most
    }
)
"""Per user. That of memory depends on the machine."""

FIFO_DESCRIPTORS = 2
"""What a FIFO that is read costs the daemon."""

XATTR_BYTES = 200
"""What an extended attribute takes in memory, about, besides its name and its value."""

_NO_MEMORY = {Resource.REQUESTS, Resource.QUEUE_BYTES, Resource.RANGES, Resource.MEMORY}
_IN_ACCOUNTS = {Resource.RANGES, Resource.MEMORY}


class Limits:
    """Counts by user.

    ``limits`` are those of each user, a missing or zero one is none; ``totals`` are for all users but the exempt ones,
    who are ``exempt_uid`` and root.
    """

    def __init__(
        self,
        limits: Mapping[Resource, int] = DEFAULTS,
        totals: Mapping[Resource, int] = MappingProxyType({}),
        exempt_uid: int = 0,
    ) -> None:
        self._limits = limits
        self._totals = totals
        self._exempt = {0, exempt_uid}
        self._held: dict[Resource, dict[int, int]] = {resource: {} for resource in Resource}  # by user
        self._refused: Counter[str] = Counter()
        self._accounts: WeakValueDictionary[int, Account] = WeakValueDictionary()  # whose objects have them
        self._attributes: dict[Node, dict[bytes, tuple[int, int]]] = {}  # name -> who pays, and for how much

    def account(self, uid: int) -> Account:
        """Return what counts pages and ranges of a user. For all objects that he makes."""
        account = self._accounts.get(uid)
        if account is None:
            limits: Mapping[Resource, int] = {} if uid in self._exempt else self._limits
            pages = -(-limits.get(Resource.MEMORY, 0) // PAGE_SIZE)
            account = Account(f"uid {uid}", pages, limits.get(Resource.RANGES, 0), self._refused)
            self._accounts[uid] = account
        return account

    def take(self, resource: Resource, uid: int, amount: int = 1) -> None:
        """Count something that a user is about to hold.

        Raises:
            NoSpaceError: he would hold too many.
            NoMemoryError: as above, for requests and queued commands.
        """
        by_user = self._held[resource]
        held = by_user.get(uid, 0)
        if uid not in self._exempt:
            limit = self._limits.get(resource, 0)
            if limit and held + amount > limit:
                self._refuse(resource, f"uid {uid} holds {held} of at most {limit} {resource}")
            total = self._totals.get(resource, 0)
            if total and self._of_users(resource) + amount > total:
                self._refuse(resource, f"all users hold {total} {resource}, and more are not possible")
        by_user[uid] = held + amount

    def give(self, resource: Resource, uid: int, amount: int = 1) -> None:
        """Count that he holds it no longer."""
        by_user = self._held[resource]
        left = by_user.get(uid, 0) - amount
        if left:
            by_user[uid] = left
        else:
            by_user.pop(uid, None)

    def held(self, resource: Resource, uid: int) -> int:
        """Return how much a user holds, of what is taken and given here."""
        return self._held[resource].get(uid, 0)

    def left(self, resource: Resource, uid: int) -> int | None:
        """Return how much more a user may hold, None for no limit."""
        limit = 0 if uid in self._exempt else self._limits.get(resource, 0)
        return limit - self.held(resource, uid) if limit else None

    def _of_users(self, resource: Resource) -> int:
        held = self._held[resource]
        return sum(held.values()) - sum(held.get(uid, 0) for uid in self._exempt)

    def _refuse(self, resource: Resource, sentence: str) -> None:
        self._refused[resource] += 1
        raise NoMemoryError(sentence) if resource in _NO_MEMORY else NoSpaceError(sentence)

    # Files

    def add(self, node: Node) -> None:
        """Count a new node for who made it.

        Raises:
            NoSpaceError: he has too many of that kind; nothing was counted.
        """
        uid = _maker(node)
        wanted = _resources(node)
        taken: list[Resource] = []
        try:
            for resource, amount in wanted.items():
                self.take(resource, uid, amount)
                taken.append(resource)
            if not node.NAMELESS:  # what stands for a directory shows the attributes of that
                self.xattrs_change(node, uid)  # ACLs that it inherits
        except NoSpaceError:
            for resource in taken:
                self.give(resource, uid, wanted[resource])
            raise
        if wanted:
            node.payer = uid

    def remove(self, node: Node) -> None:
        """Count what a node stands for no longer, if it was counted: its last reference is gone."""
        for uid, size in self._attributes.pop(node, {}).values():
            self.give(Resource.XATTR_BYTES, uid, size)
        if node.payer is not None:
            for resource, amount in _resources(node).items():
                if resource is not Resource.NODES:
                    self.give(resource, node.payer, amount)

    def forget(self, node: Node) -> None:
        """Count the node itself no longer: the kernel does not know it any more."""
        if node.payer is not None:
            self.give(Resource.NODES, node.payer)

    def chown(self, node: Node, uid: int) -> None:
        """Give a node to another user, whatever his limits: only root does that."""
        owner = node.payer
        if owner is None or owner == uid:
            return
        node.payer = uid
        moved = Counter(_resources(node))
        paid = self._attributes.get(node, {})
        for name, (payer, size) in paid.items():
            if payer == owner:
                paid[name] = uid, size
                moved[Resource.XATTR_BYTES] += size
        for resource, amount in moved.items():
            self.give(resource, owner, amount)
            self.give(resource, uid, -amount)
        if isinstance(node, VmoFile):
            node.vmo.charge_to(self.account(uid))
        elif isinstance(node, AuxFile):
            node.aux.charge_to(self.account(uid))

    def xattrs_change(self, node: Node, uid: int) -> None:
        """Count what the extended attributes of a node take, which a user has just changed.

        Raises:
            NoSpaceError: he would hold too much; nothing was counted.
        """
        paid = self._attributes.get(node, {})
        sizes = {name: len(name) + len(value) + XATTR_BYTES for name, value in (node.xattrs or {}).items()}
        now = {name: paid[name] if paid.get(name, (0, 0))[1] == size else (uid, size) for name, size in sizes.items()}
        if now == paid:
            return
        wanted = sum(size for name, (_, size) in now.items() if now[name] is not paid.get(name))
        freed = [(payer, size) for name, (payer, size) in paid.items() if now.get(name) is not paid[name]]
        growth = wanted - sum(size for payer, size in freed if payer == uid)
        if growth > 0:
            self.take(Resource.XATTR_BYTES, uid, growth)
        else:
            self.give(Resource.XATTR_BYTES, uid, -growth)
        for payer, size in freed:
            if payer != uid:
                self.give(Resource.XATTR_BYTES, payer, size)
        if now:
            self._attributes[node] = now
        else:
            del self._attributes[node]

    # What is shown

    def _held_by(self, uid: int) -> dict[Resource, int]:
        account = self._accounts.get(uid)
        held = {resource: self._held[resource].get(uid, 0) for resource in Resource}
        if account is not None:
            held |= {Resource.MEMORY: account.pages * PAGE_SIZE, Resource.RANGES: account.ranges}
        return held

    def of_users(self, asked_by: int) -> dict[str, dict[int, int]]:
        """Return what users hold, by the name of the counter and the user: who is exempt sees all, others themselves.

        Nobody learns by this how much others have.
        """
        known = set[int](self._accounts).union(*self._held.values())
        shown = {uid: self._held_by(uid) for uid in sorted(known) if asked_by in self._exempt or asked_by == uid}
        return {
            f"user_{resource}{'_bytes' if resource is Resource.MEMORY else ''}": {
                uid: held[resource] for uid, held in shown.items()
            }
            for resource in Resource
            if shown
        }

    def statistics(self) -> dict[str, int]:
        """Return what exempt and other users hold together, and how often a limit was met."""
        values = {f"held_{resource}": sum(held.values()) for resource, held in self._held.items()}
        values[f"held_{Resource.RANGES}"] = sum(account.ranges for account in self._accounts.values())
        del values[f"held_{Resource.MEMORY}"]  # that is frames_used
        refused = {f"refused_{resource}_total": self._refused[resource] for resource in Resource}
        limits = {f"limit_user_{resource}": self._limits.get(resource, 0) for resource in Resource}
        return {**values, **refused, **limits}

    def check(self, nodes: Iterable[Node]) -> None:
        """Assert that the counts are those of the nodes, which are all that live."""
        expected: dict[Resource, Counter[int]] = {resource: Counter() for resource in Resource}
        for node in nodes:
            for resource, amount in _resources(node).items():
                if node.payer is not None and (resource is Resource.NODES or node.nlink or node.open_count):
                    expected[resource][node.payer] += amount
            for link in node.links or ():
                expected[Resource.NODES][link.payer] += 1
        for paid in self._attributes.values():
            for uid, size in paid.values():
                expected[Resource.XATTR_BYTES][uid] += size
        for resource, counts in expected.items():
            if resource not in _NO_MEMORY:
                assert Counter(self._held[resource]) == counts, (resource, self._held[resource], counts)
        assert all(count >= 0 for held in self._held.values() for count in held.values())


def _maker(node: Node) -> int:
    """Return who pays for a node: its owner, but for what stands in ``supply/`` that of the pager."""
    top = node
    while top.NAMELESS and top.parent is not None and top.parent.NAMELESS:
        top = top.parent
    return top.uid


def _resources(node: Node) -> dict[Resource, int]:  # noqa: PLR0911 - a table
    """Return what a node counts as. The files of a pager belong to it."""
    match node:
        case VmoFile():
            return {Resource.VMOS: 1, Resource.NODES: 1}
        case AuxFile():
            return {Resource.AUX_FILES: 1, Resource.NODES: 1}
        case Fifo(builtin=False):
            return {Resource.FIFOS: 1, Resource.NODES: 1, Resource.DESCRIPTORS: FIFO_DESCRIPTORS}
        case Directory(realm=Realm(OF_PAGERS=True)):  # with the FIFO that comes with it
            return {Resource.PAGERS: 1, Resource.NODES: 1, Resource.DESCRIPTORS: FIFO_DESCRIPTORS}
        case Symlink():
            return {Resource.NODES: 1, Resource.XATTR_BYTES: len(node.target) + XATTR_BYTES}
        case Directory(NAMELESS=False) | PlainFifo() | Socket() | Node(NAMELESS=True, parent=Directory(NAMELESS=True)):
            return {Resource.NODES: 1}
    return {}
