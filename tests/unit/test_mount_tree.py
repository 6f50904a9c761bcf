"""The tree of names without FUSE: what POSIX says of names, and how long a node lives."""

from __future__ import annotations

import errno
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest

from tests.oracle.world import World as Core
from vmofs.wire.names import MAX_PATH_BYTES
from vmofs_mount.tree.directory_rules import FileRealm
from vmofs_mount.tree.inodes import Directory, Fifo, Link, Node, Realm
from vmofs_mount.tree.limits import Limits
from vmofs_mount.tree.tree import LINK_MAX, RENAME_EXCHANGE, RENAME_NOREPLACE, Tree


class Released(Limits):
    """No limits; remembers which nodes were released."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []

    def remove(self, node: Node) -> None:
        super().remove(node)
        self.nodes.append(node)


class World:
    """A tree, and the nodes that were released."""

    def __init__(self) -> None:
        limits = Released()
        self.released = limits.nodes
        self.root = Directory(0o755, 0, 0, Realm())
        self.tree = Tree(self.root, limits, nullcontext, itertools.count(1).__next__)
        self.realm: Realm = FileRealm(self.tree)

    def file(self, path: str) -> Node:
        """Make a file."""
        return self._add(path, Node(0o644, 0, 0))

    def directory(self, path: str) -> Directory:
        """Make a directory."""
        directory = Directory(0o755, 0, 0, self.realm)
        self._add(path, directory)
        return directory

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """Rename by paths."""
        (source, old_name), (target, new_name) = self._split(old), self._split(new)
        self.tree.rename(source, old_name, target, new_name, flags)

    def link(self, path: str, new: str) -> None:
        """Give a file another name."""
        node = self.tree.resolve(path)
        if isinstance(node, Directory):
            raise PermissionError(errno.EPERM, "the kernel refuses this before")
        self.tree.link(node, *self._split(new), 7)

    def _add(self, path: str, node: Node) -> Node:
        parent, name = self._split(path)
        self.tree.add(parent, name, node)
        return node

    def _split(self, path: str) -> tuple[Directory, bytes]:
        parent, _, name = path.rpartition("/")
        directory = self.tree.resolve(parent) if parent else self.root
        assert isinstance(directory, Directory)
        return directory, name.encode()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.tree.check()


def errno_of_call(function: Callable[..., object], *arguments: object) -> int | None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the caller compares the errno
        function(*arguments)
    return caught.value.errno


def test_a_name_leads_to_its_node_and_the_node_knows_its_path(world: World) -> None:
    world.directory("vmo")
    world.directory("vmo/sub")
    node = world.file("vmo/sub/ünï")
    assert world.tree.resolve("vmo/sub/ünï") is node
    assert world.tree.get(node.ino) is node
    assert node.path == "vmo/sub/ünï"


def test_an_unlinked_node_remembers_its_path(world: World) -> None:
    world.directory("vmo")
    node = world.file("vmo/disk")
    world.tree.remember(node)
    world.tree.unlink(world.tree.directory(node.parent.ino if node.parent else 0), b"disk")
    assert node.path == "vmo/disk"
    assert node.nlink == 0


def test_dot_and_dot_dot_are_found(world: World) -> None:
    below = world.directory("a")
    assert world.tree.lookup(below, b".") is below
    assert world.tree.lookup(below, b"..") is world.root
    assert world.tree.lookup(world.root, b"..") is world.root


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"taken", errno.EEXIST),
        (b"\xff", errno.EILSEQ),
        (b"x" * 256, errno.ENAMETOOLONG),
        (b".", errno.EINVAL),
        (b"..", errno.EINVAL),
        (b"", errno.EINVAL),
    ],
)
def test_impossible_names_are_refused(world: World, name: bytes, code: int) -> None:
    world.file("taken")
    assert errno_of_call(world.tree.add, world.root, name, Node(0, 0, 0)) == code


def test_a_removed_directory_takes_no_names(world: World) -> None:
    gone = world.directory("gone")
    world.tree.rmdir(world.root, b"gone")
    assert errno_of_call(world.tree.add, gone, b"x", Node(0, 0, 0)) == errno.ENOENT


def test_looking_up_what_cannot_exist_says_so(world: World) -> None:
    assert errno_of_call(world.tree.lookup, world.root, b"none") == errno.ENOENT
    assert errno_of_call(world.tree.lookup, world.root, b"x" * 256) == errno.ENAMETOOLONG


def test_inode_numbers_are_never_used_twice(world: World) -> None:
    numbers = set()
    for _ in range(10):
        numbers.add(world.file("x").ino)
        world.tree.unlink(world.root, b"x")
    assert len(numbers) == 10
    assert world.tree.node_count == 1


def test_an_unknown_number_is_stale(world: World) -> None:
    assert errno_of_call(world.tree.get, 77) == errno.ESTALE
    assert errno_of_call(world.tree.directory, world.file("x").ino) == errno.ENOTDIR


def test_what_a_node_holds_is_released_when_name_and_open_files_are_gone(world: World) -> None:
    node = world.file("x")
    world.tree.remember(node)
    world.tree.open(node)
    world.tree.open(node)
    world.tree.unlink(world.root, b"x")
    world.tree.close(node)
    assert world.released == []
    world.tree.close(node)
    assert world.released == [node]
    assert world.tree.get(node.ino) is node, "the kernel still knows the number"
    world.tree.forget(node.ino, 1)
    assert errno_of_call(world.tree.get, node.ino) == errno.ESTALE
    assert world.released == [node]


def test_a_released_node_cannot_be_opened_again(world: World) -> None:
    node = world.file("x")
    world.tree.remember(node)
    world.tree.unlink(world.root, b"x")
    assert errno_of_call(world.tree.open, node) == errno.ESTALE
    assert world.released == [node]


def test_forgetting_a_linked_or_unknown_node_changes_nothing(world: World) -> None:
    node = world.file("x")
    world.tree.remember(node)
    world.tree.forget(node.ino, 1)
    world.tree.forget(node.ino, 5)
    world.tree.forget(4711, 1)
    assert world.tree.get(node.ino) is node
    assert world.released == []


def test_discarding_a_directory_releases_everything_below(world: World) -> None:
    top = world.directory("top")
    below = [world.file("top/a"), world.directory("top/d"), world.file("top/d/b")]
    world.tree.discard(top)
    assert set(world.released) == {top, *below}
    assert world.tree.node_count == 1


def test_link_counts_of_directories_count_subdirectories(world: World) -> None:
    world.directory("a")
    world.directory("a/b")
    world.file("a/f")
    assert (world.root.nlink, world.tree.resolve("a").nlink) == (3, 3)
    world.rename("a/b", "b")
    assert (world.root.nlink, world.tree.resolve("a").nlink) == (4, 2)


# rename(2), with every kind of source and target; None is success.
FILE, DIR, FULL, NONE = "file", "dir", "full", "none"
RENAMES = {
    0: {
        (FILE, FILE): None, (FILE, NONE): None, (FILE, DIR): errno.EISDIR, (FILE, FULL): errno.EISDIR,
        (DIR, FILE): errno.ENOTDIR, (DIR, NONE): None, (DIR, DIR): None, (DIR, FULL): errno.ENOTEMPTY,
        (NONE, FILE): errno.ENOENT, (NONE, NONE): errno.ENOENT, (NONE, DIR): errno.ENOENT, (NONE, FULL): errno.ENOENT,
    },
    RENAME_NOREPLACE: {
        (FILE, FILE): errno.EEXIST, (FILE, NONE): None, (FILE, DIR): errno.EEXIST, (DIR, FILE): errno.EEXIST,
        (DIR, NONE): None, (DIR, DIR): errno.EEXIST, (NONE, FILE): errno.ENOENT, (NONE, NONE): errno.ENOENT,
    },
    RENAME_EXCHANGE: {
        (FILE, FILE): None, (FILE, NONE): errno.ENOENT, (FILE, DIR): None, (FILE, FULL): None, (DIR, FILE): None,
        (DIR, NONE): errno.ENOENT, (DIR, FULL): None, (NONE, FILE): errno.ENOENT, (NONE, NONE): errno.ENOENT,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "old", "new", "code"),
    [(flags, *pair, code) for flags, table in RENAMES.items() for pair, code in table.items()],
)
def test_rename_does_what_posix_says(world: World, flags: int, old: str, new: str, code: int | None) -> None:
    for side, kind in (("old", old), ("new", new)):
        world.directory(side)
        if kind == FILE:
            world.file(f"{side}/x")
        elif kind in {DIR, FULL}:
            world.directory(f"{side}/x")
        if kind == FULL:
            world.file(f"{side}/x/inner")
    before = [node.path for node in world.root.descendants()]
    if code is not None:
        assert errno_of_call(world.rename, "old/x", "new/x", flags) == code
        assert [node.path for node in world.root.descendants()] == before
        return
    moved = world.tree.resolve("old/x")
    replaced = world.tree.resolve("new/x") if new != NONE else None
    world.rename("old/x", "new/x", flags)
    assert world.tree.resolve("new/x") is moved
    if flags == RENAME_EXCHANGE:
        assert world.tree.resolve("old/x") is replaced
        assert world.released == []
    else:
        assert errno_of_call(world.tree.resolve, "old/x") == errno.ENOENT
        assert world.released == ([replaced] if replaced else [])


def test_a_directory_cannot_move_into_itself_nor_onto_what_holds_it(world: World) -> None:
    for path in ("a", "a/b", "a/b/c"):
        world.directory(path)
    assert errno_of_call(world.rename, "a", "a/b/x") == errno.EINVAL
    assert errno_of_call(world.rename, "a", "a/x") == errno.EINVAL
    assert errno_of_call(world.rename, "a/b/c", "a") == errno.ENOTEMPTY
    assert errno_of_call(world.rename, "a/b/c", "a", RENAME_EXCHANGE) == errno.EINVAL
    assert errno_of_call(world.rename, "a", "a/b/c", RENAME_EXCHANGE) == errno.EINVAL
    assert errno_of_call(world.rename, "a", "b", 4) == errno.EINVAL
    assert errno_of_call(world.rename, "a", "b", RENAME_NOREPLACE | RENAME_EXCHANGE) == errno.EINVAL


def test_renaming_to_the_same_name_changes_nothing(world: World) -> None:
    node = world.file("x")
    times = node.mtime_ns, node.ctime_ns, world.root.mtime_ns
    world.rename("x", "x")
    assert (node.mtime_ns, node.ctime_ns, world.root.mtime_ns) == times
    assert world.released == []


def test_names_change_the_times_of_directories_and_nodes(world: World) -> None:
    directory = world.directory("d")
    node = world.file("d/x")
    before = directory.mtime_ns, node.ctime_ns, node.mtime_ns
    world.rename("d/x", "y")
    assert directory.mtime_ns > before[0]
    assert node.ctime_ns > before[1]
    assert node.mtime_ns == before[2]


def test_a_path_that_would_not_fit_a_request_line_is_refused(world: World) -> None:
    path, parent = "", ""
    while len(path) + 201 <= MAX_PATH_BYTES:
        parent, path = path, f"{path}/{'n' * 200}".lstrip("/")
        world.directory(path)
    rest = MAX_PATH_BYTES - len(path) - 1
    assert errno_of_call(world.file, f"{path}/{'f' * (rest + 1)}") == errno.ENAMETOOLONG
    assert errno_of_call(world.file, f"{path}/{' ' * (rest // 4 + 1)}") == errno.ENAMETOOLONG, "a blank is four bytes"
    world.file(f"{path}/{'f' * rest}")
    top = path.split("/")[0]
    assert errno_of_call(world.rename, top, "n" * 201) == errno.ENAMETOOLONG, "the file below would not fit"
    world.rename(top, "m" * 200)
    world.rename("m" * 200, "m")
    assert parent


def test_deep_trees_do_not_exhaust_the_stack(world: World) -> None:
    parent = world.root
    for _ in range(sys.getrecursionlimit() + 500):
        child = Directory(0o755, 0, 0, world.realm)
        world.tree.add(parent, b"d", child)
        parent = child
    assert sum(1 for _ in world.root.descendants()) == sys.getrecursionlimit() + 500
    world.rename("d", "dd")


def names_behind(directory: Directory, cookie: int, count: int) -> list[Node | Link]:
    return list(itertools.islice(directory.after(cookie), count))


def test_a_listing_in_pieces_neither_skips_nor_repeats_what_stays(world: World) -> None:
    rng = random.Random(7)  # noqa: S311 - no secret
    kept = {f"keep{number}" for number in range(200)}
    others = {f"other{number}" for number in range(200)}
    for name in sorted(kept | others, key=lambda _: rng.random()):
        world.file(name)
    seen: list[str] = []
    cookie = 0
    while piece := names_behind(world.root, cookie, 7):
        seen += [node.name.decode() for node in piece]
        cookie = piece[-1].cookie
        if others:
            world.tree.unlink(world.root, others.pop().encode())
        world.file(f"new{len(seen)}")
        if len(seen) > 2000:
            break
    assert len(seen) == len(set(seen))
    assert kept <= set(seen)


def test_a_replaced_name_keeps_its_place_in_the_listing(world: World) -> None:
    for name in ("a", "b", "c"):
        world.file(name)
    world.file("new")
    cookie = world.tree.resolve("b").cookie
    world.rename("new", "b")
    assert world.tree.resolve("b").cookie == cookie
    world.rename("a", "c", RENAME_EXCHANGE)
    assert [node.name for node in world.root.after(0)] == [b"a", b"b", b"c"]


def test_statistics_count_what_lives(world: World) -> None:
    node = world.file("x")
    world.tree.add(world.root, b"pipe", Fifo(0o600, 0, 0))
    world.tree.open(node)
    world.tree.remember(node)
    world.tree.unlink(world.root, b"x")
    statistics = world.tree.statistics()
    assert statistics.nodes == 3
    assert statistics.nodes_by_kind == {"Directory": 1, "Node": 1, "Fifo": 1}
    assert (statistics.unlinked, statistics.open_files, statistics.known_to_kernel) == (1, 1, 1)
    world.tree.close(node)


def test_a_hundred_thousand_vmo_files_take_less_than_a_kibibyte_each() -> None:
    import tracemalloc  # noqa: PLC0415 - slows everything down while it runs

    from vmofs_mount.tree.inodes import VmoFile  # noqa: PLC0415

    world, core = World(), Core()
    count = 10_000
    vmo = core.vmo(1)
    tracemalloc.start()
    try:
        for number in range(count):
            world.tree.add(world.root, b"file-%06d" % number, VmoFile(0o644, 0, 0, vmo, core.pager))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / count < 1024


def longest_below(top: Directory) -> int:
    """Return the length of the longest path below, with the slash before it, by looking at all."""
    lengths = [
        1 + len(name.replace(b" ", b"\\040")) + (longest_below(child) if isinstance(child, Directory) else 0)
        for name, child in top.children.items()
    ]
    return max(lengths, default=0)


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_path_below_a_directory_is_known_whatever_comes_and_goes(world: World, seed: int) -> None:
    """Else renaming a directory would mean to look at all that is in it, while others wait."""
    choose = random.Random(seed)  # noqa: S311 - nothing secret
    names = ["a", "b b", "long", "longer", "the longest of all"]
    for _ in range(200):
        paths = [entry.path for node in world.root.descendants() for entry in node.names]
        inside = choose.choice(
            ["", *(f"{node.path}/" for node in world.root.descendants() if isinstance(node, Directory))]
        )
        new = inside + choose.choice(names)
        try:
            match choose.randrange(6):
                case 4 if paths:
                    world.link(choose.choice(paths), new)
                case 0:
                    world.file(new)
                case 1:
                    world.directory(new)
                case 2 if paths:
                    world.rename(choose.choice(paths), new, choose.choice([0, RENAME_EXCHANGE]))
                case 3 if paths:
                    parent, _, name = choose.choice(paths).rpartition("/")
                    directory = world.tree.resolve(parent) if parent else world.root
                    assert isinstance(directory, Directory)
                    remove = world.tree.rmdir if choose.randrange(2) else world.tree.unlink
                    remove(directory, name.encode())
                case 5 if paths:
                    world.tree.discard(world.tree.resolve(choose.choice(paths)))
        except OSError:
            continue
        assert world.root.longest == longest_below(world.root)
    world.tree.check()
    world.tree.limits.check(world.tree.nodes())


def test_a_file_has_several_names_and_goes_with_the_last(world: World) -> None:
    world.directory("d")
    node = world.file("a")
    world.link("a", "d/b")
    world.link("d/b", "c")
    assert world.tree.resolve("d/b") is world.tree.resolve("c") is node
    assert (node.nlink, node.path) == (3, "a")
    assert [entry.name for entry in world.root.after(0)] == [b"d", b"a", b"c"]
    world.tree.unlink(world.root, b"a")
    assert (node.nlink, node.path in {"d/b", "c"}, world.released) == (2, True, [])
    world.tree.unlink(world.root, b"c")
    assert node.path == "d/b"
    world.rename("d", "e")
    assert node.path == "e/b"
    world.tree.unlink(world.tree.directory(world.tree.resolve("e").ino), b"b")
    assert (node.nlink, world.released) == (0, [node])


def test_one_name_of_a_file_is_renamed_and_the_others_stay(world: World) -> None:
    node, other = world.file("a"), world.file("other")
    world.link("a", "b")
    world.rename("a", "c")
    assert {name: world.tree.resolve(name) for name in ("b", "c")} == {"b": node, "c": node}
    world.rename("b", "c")  # rename(2): nothing is done
    assert world.tree.resolve("b") is node
    world.rename("b", "other", RENAME_EXCHANGE)
    assert (world.tree.resolve("other"), world.tree.resolve("b"), node.nlink) == (node, other, 2)
    world.rename("b", "other")
    assert (world.tree.resolve("other"), node.nlink, other.nlink) == (other, 1, 1)


def test_a_link_is_refused_for_what_was_removed_and_for_too_many_names(world: World) -> None:
    node = world.file("a")
    for number in range(LINK_MAX - 1):
        world.link("a", f"name{number}")
    assert errno_of_call(world.link, "a", "more") == errno.EMLINK
    assert errno_of_call(world.link, "a", "name7") == errno.EEXIST
    world.tree.open(node)
    world.tree.discard(node)
    for number in range(LINK_MAX - 1):
        world.tree.unlink(world.root, f"name{number}".encode())
    assert errno_of_call(world.tree.link, node, world.root, b"again", 0) == errno.ENOENT
    world.tree.close(node)
