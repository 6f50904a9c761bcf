"""What one user may hold, so that no user can exhaust the mount for the others.

Things are counted for the user who owns them (files), or who asked (requests, queued commands), from when they are made
until the last reference to them is gone. Root is exempt, and the user who serves the mount. A count that is reached is
NO_SPACE (ENOSPC), memory and outstanding requests are NO_MEMORY (ENOMEM).

Memory is not counted page by page: every call that may take pages adds them to an estimate, which never falls below
what the user's files hold; when the estimate passes the limit, the files are looked at and it starts afresh. Looking
is held to a tenth of the time; until it is due again the last verdict holds. Pages that several files share count in
each of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from vmofs.status import NoMemoryError, NoSpaceError
from vmofs.units import PAGE_SIZE, page_count
from vmofs_mount.nodes import AuxFile, Directory, Fifo, Node, VmoFile
from vmofs_mount.realms import PagerRealm
from vmofs_mount.xattrs import bytes_of

_LOOK_SHARE = 10


class Resource(StrEnum):
    """What is limited. The value is that of the mount option, after ``user_``, and of the counter in ``stats``."""

    PAGERS = "pagers"
    VMOS = "vmos"
    AUX_FILES = "aux_files"
    FIFOS = "fifos"
    NODES = "nodes"
    REQUESTS = "requests"
    QUEUE_BYTES = "queue_bytes"
    XATTR_BYTES = "xattr_bytes"
    MEMORY = "memory"


DEFAULTS: Mapping[Resource, int] = MappingProxyType(
    {
        Resource.PAGERS: 256,
        Resource.VMOS: 65536,
        Resource.AUX_FILES: 65536,
        Resource.FIFOS: 256,  # each that is read costs the daemon two descriptors
        Resource.NODES: 131072,
        Resource.REQUESTS: 16384,  # the kernel holds at most 65535 reads outstanding, for all users together
        Resource.QUEUE_BYTES: 64 * 2**20,  # also long answers, pins, and names that were turned into files
        Resource.XATTR_BYTES: 16 * 2**20,
    }
)
"""Per user. That of memory depends on the machine."""

_NO_MEMORY = {Resource.REQUESTS, Resource.QUEUE_BYTES, Resource.MEMORY}


@dataclass(eq=False)
class _Memory:
    """The files of one user, and an estimate of the pages in them."""

    files: dict[VmoFile | AuxFile, None] = field(default_factory=dict)
    estimate: int = 0
    look_again_at: float = 0.0
    is_full: bool = False


class Limits:
    """Counts by user.

    ``limits`` are those of each user, a missing or zero one is none; ``total_requests`` is for all users but the exempt
    ones, who are ``exempt_uid`` and root.
    """

    def __init__(
        self,
        limits: Mapping[Resource, int] = DEFAULTS,
        total_requests: int = 0,
        exempt_uid: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._limits = limits
        self._total_requests = total_requests
        self._exempt = {0, exempt_uid}
        self._clock = clock
        self._held: dict[Resource, dict[int, int]] = {resource: {} for resource in Resource}  # by user
        self._refused: Counter[Resource] = Counter()
        self._memory: dict[int, _Memory] = {}
        self._owners: dict[Node, int] = {}
        self._owners_of_others: dict[Node, int] = {}  # of what is not counted itself, but its attributes are

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
            if resource is Resource.REQUESTS and 0 < self._total_requests < self._requests_of_users() + amount:
                self._refuse(resource, f"all users hold {self._total_requests} requests, and more are not possible")
        by_user[uid] = held + amount

    def give(self, resource: Resource, uid: int, amount: int = 1) -> None:
        """Count that he holds it no longer."""
        by_user = self._held[resource]
        left = by_user.get(uid, 0) - amount
        if left:
            by_user[uid] = left
        else:
            by_user.pop(uid, None)

    def _requests_of_users(self) -> int:
        held = self._held[Resource.REQUESTS]
        return sum(held.values()) - sum(held.get(uid, 0) for uid in self._exempt)

    def _refuse(self, resource: Resource, sentence: str) -> None:
        self._refused[resource] += 1
        raise NoMemoryError(sentence) if resource in _NO_MEMORY else NoSpaceError(sentence)

    # Files

    def add(self, node: Node) -> None:
        """Count a new node for its owner.

        Raises:
            NoSpaceError: he has too many of that kind; nothing was counted.
        """
        wanted = dict.fromkeys(_resources(node), 1)
        if node.xattrs:  # ACLs that it inherits
            wanted[Resource.XATTR_BYTES] = bytes_of(node.xattrs)
        taken: dict[Resource, int] = {}
        try:
            for resource, amount in wanted.items():
                self.take(resource, node.uid, amount)
                taken[resource] = amount
        except NoSpaceError:
            for resource, amount in taken.items():
                self.give(resource, node.uid, amount)
            raise
        if taken:
            self._owners[node] = node.uid
        if isinstance(node, VmoFile | AuxFile):
            self._memory.setdefault(node.uid, _Memory()).files[node] = None

    def remove(self, node: Node) -> None:
        """Count a node no longer, if it was counted: its last reference is gone."""
        other = self._owners_of_others.pop(node, None)
        if other is not None:
            self.give(Resource.XATTR_BYTES, other, bytes_of(node.xattrs))
        uid = self._owners.pop(node, None)
        if uid is None:
            return
        for resource in _resources(node):
            self.give(resource, uid)
        self.give(Resource.XATTR_BYTES, uid, bytes_of(node.xattrs))
        if isinstance(node, VmoFile | AuxFile):
            memory = self._memory[uid]
            del memory.files[node]
            if not memory.files:
                del self._memory[uid]

    def chown(self, node: Node, uid: int) -> None:
        """Give a node to another user, whatever his limits: only root does that."""
        owner = self._owners.get(node)
        if owner is None or owner == uid:
            return
        self.remove(node)
        self._owners[node] = uid
        for resource in _resources(node):
            self.give(resource, uid, -1)
        self.give(Resource.XATTR_BYTES, uid, -bytes_of(node.xattrs))
        if isinstance(node, VmoFile | AuxFile):
            memory = self._memory.setdefault(uid, _Memory())
            memory.files[node] = None
            memory.estimate += node.committed_pages

    def xattrs_change(self, node: Node, before: int, after: int) -> None:
        """Count what the extended attributes of a node take, which grow or shrink.

        Raises:
            NoSpaceError: the owner would hold too much.
        """
        uid = self._owners.get(node)
        if uid is None:
            uid = self._owners_of_others.setdefault(node, node.uid)
        if after > before:
            self.take(Resource.XATTR_BYTES, uid, after - before)
        elif after < before:
            self.give(Resource.XATTR_BYTES, uid, before - after)

    # Memory

    def reserve(self, file: Node, size_bytes: int) -> None:
        """Check that the owner of a file may have that many bytes more in pages. To be called before they are taken.

        Raises:
            NoMemoryError: he may not.
        """
        limit = self._limits.get(Resource.MEMORY, 0)
        uid = self._owners.get(file)
        if not limit or uid is None or uid in self._exempt:
            return
        memory = self._memory[uid]
        pages = page_count(size_bytes) + 1  # it may begin within a page
        memory.estimate += pages
        if memory.estimate * PAGE_SIZE > limit:
            self._look(uid, memory, pages, limit)

    def reserve_range(self, file: VmoFile | AuxFile, length: int) -> None:
        """Check as ``reserve`` does, for a range of a file that may have pages there already."""
        self.reserve(file, min(length, max(0, file.size_bytes - file.committed_pages * PAGE_SIZE)))

    def _look(self, uid: int, memory: _Memory, pages: int, limit: int) -> None:
        """Find out what the user's files hold, if it is time to, and refuse if it is too much."""
        began = self._clock()
        if began >= memory.look_again_at:
            held = sum(file.committed_pages for file in memory.files)
            memory.estimate = held + pages
            memory.is_full = memory.estimate * PAGE_SIZE > limit
            ended = self._clock()
            memory.look_again_at = ended + _LOOK_SHARE * (ended - began)
        if memory.is_full:
            memory.estimate -= pages
            # Not how much: whoever may write one of them may ask.
            self._refuse(Resource.MEMORY, f"the files of uid {uid} may hold no more than {limit} bytes of memory")

    def statistics(self) -> dict[str, int]:
        """Return what exempt and other users hold together, and how often a limit was met."""
        values = {f"held_{resource}": sum(held.values()) for resource, held in self._held.items()}
        del values[f"held_{Resource.MEMORY}"]  # that is frames_used
        refused = {f"refused_{resource}_total": self._refused[resource] for resource in Resource}
        limits = {f"limit_user_{resource}": self._limits.get(resource, 0) for resource in Resource}
        return {**values, **refused, **limits}

    def check(self) -> None:
        """Assert that the counts are those of the nodes."""
        expected: dict[Resource, Counter[int]] = {resource: Counter() for resource in Resource}
        for node, uid in self._owners.items():
            for resource in _resources(node):
                expected[resource][uid] += 1
            expected[Resource.XATTR_BYTES][uid] += bytes_of(node.xattrs)
        for node, uid in self._owners_of_others.items():
            expected[Resource.XATTR_BYTES][uid] += bytes_of(node.xattrs)
        for resource, counts in expected.items():
            if resource not in _NO_MEMORY:
                assert Counter(self._held[resource]) == counts, (resource, self._held[resource], counts)
        assert all(count >= 0 for held in self._held.values() for count in held.values())


def _resources(node: Node) -> tuple[Resource, ...]:
    """Return what a node counts as. The files of a pager belong to it; what stands in ``supply/`` is nothing."""
    match node:
        case VmoFile():
            return (Resource.VMOS, Resource.NODES)
        case AuxFile():
            return (Resource.AUX_FILES, Resource.NODES)
        case Fifo(builtin=False):
            return (Resource.FIFOS, Resource.NODES)
        case Directory(realm=PagerRealm()):
            return (Resource.PAGERS, Resource.NODES)
        case Directory(NAMELESS=False):
            return (Resource.NODES,)
    return ()
