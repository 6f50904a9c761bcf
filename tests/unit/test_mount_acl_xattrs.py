"""Extended attributes and access control lists of nodes."""

from __future__ import annotations

import errno
import stat
import struct

import pytest

from vmofs_mount.tree import acl
from vmofs_mount.tree.inodes import Directory, Node, Realm
from vmofs_mount.tree.xattrs import MAX_TOTAL_BYTES, get_xattr, list_xattrs, remove_xattr, set_xattr

NO_ID = 2**32 - 1
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32


def value(*entries: tuple[int, int] | tuple[int, int, int]) -> bytes:
    packed = [struct.pack("<HHI", *entry, *([NO_ID] if len(entry) == 2 else [])) for entry in entries]
    return struct.pack("<I", 2) + b"".join(packed)


FOR_ALICE = value((USER_OBJ, 6), (USER, 7, 1001), (GROUP_OBJ, 4), (MASK, 5), (OTHER, 0))
MINIMAL = value((USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 1))


@pytest.fixture
def file() -> Node:
    return Node(0o644, 0, 0)


class Counted(Directory):
    """A directory with an attribute that is computed."""

    def computed_xattrs(self) -> dict[bytes, bytes]:
        return {b"pages": b"7", b"runs": b"2"}


@pytest.fixture
def directory() -> Directory:
    return Counted(0o755, 0, 0, Realm())


def code_of(function: object, *arguments: object) -> int | None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the caller compares the errno
        function(*arguments)  # type: ignore[operator]
    return caught.value.errno


def test_an_acl_is_kept_and_sets_the_mode(file: Node) -> None:
    acl.store(file, acl.ACCESS, FOR_ALICE)
    assert stat.S_IMODE(file.mode) == 0o650, "the group bits show the mask"
    assert (file.xattrs or {})[acl.ACCESS] == FOR_ALICE


def test_an_acl_that_a_mode_can_say_becomes_the_mode(file: Node) -> None:
    acl.store(file, acl.ACCESS, FOR_ALICE)
    acl.store(file, acl.ACCESS, MINIMAL)
    assert stat.S_IMODE(file.mode) == 0o751
    assert file.xattrs is None


def test_chmod_changes_the_entries_that_the_bits_stand_for(file: Node) -> None:
    acl.store(file, acl.ACCESS, FOR_ALICE)
    acl.chmod(file, 0o4712)
    assert file.mode == stat.S_IFREG | 0o4712
    expected = value((USER_OBJ, 7), (USER, 7, 1001), (GROUP_OBJ, 4), (MASK, 1), (OTHER, 2))
    assert (file.xattrs or {})[acl.ACCESS] == expected


def test_a_new_file_inherits_the_default_acl_within_its_mode(directory: Directory, file: Node) -> None:
    acl.store(directory, acl.DEFAULT, FOR_ALICE)
    acl.inherit(directory, file)
    expected = value((USER_OBJ, 6), (USER, 7, 1001), (GROUP_OBJ, 4), (MASK, 4), (OTHER, 0))
    assert file.xattrs == {acl.ACCESS: expected}
    assert stat.S_IMODE(file.mode) == 0o640


def test_a_new_directory_hands_the_default_acl_on(directory: Directory) -> None:
    acl.store(directory, acl.DEFAULT, FOR_ALICE)
    below = Directory(0o777, 0, 0, Realm())
    acl.inherit(directory, below)
    assert (below.xattrs or {})[acl.DEFAULT] == FOR_ALICE
    assert stat.S_IMODE(below.mode) == 0o650


def test_without_a_default_acl_nothing_is_inherited(directory: Directory, file: Node) -> None:
    acl.inherit(directory, file)
    assert file.xattrs is None
    assert stat.S_IMODE(file.mode) == 0o644


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\2\0\0",
        b"\1\0\0\0",
        FOR_ALICE + b"x",
        value((USER_OBJ, 6), (GROUP_OBJ, 4)),
        value((USER_OBJ, 6), (USER, 7, 1001), (GROUP_OBJ, 4), (OTHER, 0)),
        value((USER_OBJ, 6), (USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 0)),
    ],
)
def test_malformed_acls_are_refused(file: Node, bad: bytes) -> None:
    assert code_of(acl.store, file, acl.ACCESS, bad) == errno.EINVAL


def test_files_have_no_default_acl(file: Node) -> None:
    assert code_of(acl.store, file, acl.DEFAULT, FOR_ALICE) == errno.EACCES


def test_an_emptied_default_acl_is_none(directory: Directory) -> None:
    set_xattr(directory, acl.DEFAULT, FOR_ALICE)
    remove_xattr(directory, acl.DEFAULT)
    assert acl.DEFAULT not in list_xattrs(directory, 0)


def test_user_attributes_are_kept(file: Node) -> None:
    set_xattr(file, b"user.a", b"1")
    set_xattr(file, b"user.b", b"")
    assert list_xattrs(file, 0) == [b"user.a", b"user.b"]
    assert (get_xattr(file, b"user.a"), get_xattr(file, b"user.b")) == (b"1", b"")
    remove_xattr(file, b"user.a")
    assert code_of(get_xattr, file, b"user.a") == errno.ENODATA
    assert code_of(remove_xattr, file, b"user.a") == errno.ENODATA


def test_computed_attributes_can_be_read_and_nothing_else(directory: Directory, file: Node) -> None:
    set_xattr(directory, b"user.a", b"1")
    assert list_xattrs(directory, 0) == [b"user.a"]
    assert get_xattr(directory, b"user.vmofs.pages") == b"7"
    assert get_xattr(directory, b"user.vmofs.all") == b"pages=7\nruns=2\n"
    assert code_of(get_xattr, file, b"user.vmofs.all") == errno.ENODATA
    assert code_of(get_xattr, directory, b"user.vmofs.none") == errno.ENODATA
    assert code_of(get_xattr, file, b"user.vmofs.pages") == errno.ENODATA
    assert code_of(set_xattr, directory, b"user.vmofs.pages", b"8") == errno.EPERM
    assert code_of(remove_xattr, directory, b"user.vmofs.pages") == errno.EPERM


@pytest.mark.parametrize("name", [b"security.capability", b"system.other", b"other"])
def test_other_namespaces_are_not_supported(file: Node, name: bytes) -> None:
    assert code_of(get_xattr, file, name) == errno.EOPNOTSUPP
    assert code_of(set_xattr, file, name, b"") == errno.EOPNOTSUPP
    assert code_of(remove_xattr, file, name) == errno.EOPNOTSUPP


def test_attributes_are_bounded(file: Node) -> None:
    assert code_of(set_xattr, file, b"user.big", bytes(65537)) == errno.E2BIG
    set_xattr(file, b"user.1", bytes(65536))
    set_xattr(file, b"user.1", bytes(65536))
    assert code_of(set_xattr, file, b"user.2", bytes(65536)) == errno.ENOSPC
    set_xattr(file, b"user.2", bytes(MAX_TOTAL_BYTES - 65536 - 12))
