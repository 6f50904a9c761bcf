"""``aux/`` behaves as a directory of a local filesystem does: each scenario is run in both, and tells the same story.

A scenario takes an empty directory and returns what it saw. Where it fails it says with which errno; a story never
holds what must differ, such as times, inode numbers or the path.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.lost_append import Lost, count_lost
from tests.support.mounted import Mounted
from tests.support.opening import opened
from vmofs.wire.names import MAX_PATH_BYTES

Story = list[object]
Scenario = Callable[[Path], Story]

SCENARIOS: list[Scenario] = []

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


def scenario(function: Scenario) -> Scenario:
    SCENARIOS.append(function)
    return function


@pytest.mark.parametrize("run", SCENARIOS, ids=lambda run: run.__name__)
def test_aux_tells_the_story_of_a_local_directory(mount: Mounted, tmp_path: Path, run: Scenario) -> None:
    local = tmp_path / "local"
    local.mkdir(mode=0o755)
    mounted = mount.path / "aux" / "mounted"
    mounted.mkdir(mode=0o755)
    assert run(mounted) == run(local)


def attempt(function: Callable[..., object], *arguments: object) -> object:
    """Return the result, or the name of the errno."""
    try:
        return function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def rename2(old: Path, new: Path, flags: int) -> object:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags)
    return "ok" if result == 0 else errno.errorcode[ctypes.get_errno()]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


def looks(path: Path) -> tuple[object, ...]:
    """Return what must be the same of a file."""
    status = path.lstat()
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return stat.filemode(status.st_mode), status.st_nlink, status.st_uid, status.st_gid, size


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def listing(directory: Path) -> list[tuple[str, object]]:
    return [(str(path.relative_to(directory)), looks(path)) for path in sorted(directory.rglob("*"))]


def in_child(function: Callable[[], object], uid: int) -> int:
    """Run a function as another user in a child process and return the errno it failed with, 0 if it did not."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            function()
            code = 0
        except OSError as error:
            code = error.errno or 254
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@scenario
def a_file_is_written_and_read(here: Path) -> Story:
    file = here / "file"
    file.write_bytes(b"0123456789" * 1000)
    with opened(file, os.O_RDWR) as fd:
        os.pwrite(fd, b"middle", 5000)
        os.pwrite(fd, b"end", 9_999)
        return [os.pread(fd, 20, 4995), os.pread(fd, 100, 9990), os.pread(fd, 10, 20_000), looks(file)]


@scenario
def a_hole_reads_as_zeros_and_occupies_nothing(here: Path) -> Story:
    file = here / "sparse"
    with opened(file, os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"x", 10 * 2**20)
        os.fsync(fd)
        return [os.pread(fd, 4, 2**20), os.fstat(fd).st_size, os.fstat(fd).st_blocks * 512 <= 8192]


@scenario
def truncation_cuts_and_extends_with_zeros(here: Path) -> Story:
    file = here / "file"
    file.write_bytes(b"a" * 10_000)
    story: Story = []
    for size in (5000, 4096, 20_000, 4095, 4097, 0, 1):
        os.truncate(file, size)
        story.append((file.read_bytes(), file.stat().st_size))
    with opened(file, os.O_RDWR) as fd:
        os.ftruncate(fd, 3)
    return [*story, file.read_bytes(), attempt(os.truncate, here, 0), attempt(os.truncate, here / "none", 0)]


@scenario
def data_beyond_a_cut_does_not_come_back(here: Path) -> Story:
    file = here / "file"
    with opened(file, os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"secret" * 1000)
        os.ftruncate(fd, 10)
        os.pwrite(fd, b"x", 5999)
        return [os.pread(fd, 10_000, 0)]


@scenario
def open_flags(here: Path) -> Story:
    file = here / "file"
    story: Story = [attempt(os.open, file, os.O_RDONLY)]
    with opened(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600) as fd:
        os.write(fd, b"first")
        story.append(attempt(os.read, fd, 1))
    story.append(attempt(os.open, file, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    with opened(file, os.O_WRONLY | os.O_APPEND) as fd, opened(file, os.O_WRONLY | os.O_APPEND) as other:
        for writer in (fd, other, fd, other):
            os.write(writer, b"+")
    story.append(file.read_bytes())
    with opened(file, os.O_RDONLY) as fd:
        story.append(attempt(os.write, fd, b"x"))
    with opened(file, os.O_RDWR | os.O_TRUNC) as fd:
        story.append((os.read(fd, 10), os.fstat(fd).st_size))
    for flags in (os.O_DIRECTORY, os.O_WRONLY | os.O_DIRECTORY):
        story.append(attempt(os.open, file, flags))
    return [*story, attempt(os.open, here, os.O_WRONLY), attempt(os.open, here / "none" / "file", os.O_CREAT)]


@scenario
def an_unlinked_file_lives_while_it_is_open(here: Path) -> Story:
    file = here / "file"
    with opened(file, os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"still here")
        file.unlink()
        file.write_bytes(b"another")
        os.pwrite(fd, b"S", 0)
        return [os.pread(fd, 100, 0), os.fstat(fd).st_nlink, file.read_bytes(), attempt(os.unlink, here / "none")]


@scenario
def a_replaced_file_lives_while_it_is_open(here: Path) -> Story:
    (here / "old").write_bytes(b"old")
    (here / "new").write_bytes(b"new")
    with opened(here / "old", os.O_RDONLY) as fd:
        (here / "new").rename(here / "old")
        return [os.pread(fd, 10, 0), os.fstat(fd).st_nlink, listing(here), (here / "old").read_bytes()]


@scenario
def directories(here: Path) -> Story:
    (here / "full").mkdir()
    (here / "full" / "file").touch()
    (here / "empty").mkdir(mode=0o700)
    story: Story = [listing(here), here.stat().st_nlink]
    story += [attempt(os.mkdir, here / name) for name in ("full", "none/sub", "full/file", "full/file/sub")]
    story += [attempt(os.rmdir, here / name) for name in ("full", "none", "full/file", "empty/.", "empty")]
    story += [attempt(os.unlink, here / name) for name in ("full", "none")]
    return [*story, listing(here), here.stat().st_nlink]


@scenario
def a_removed_directory_takes_no_names(here: Path) -> Story:
    (here / "gone").mkdir()
    with opened(here / "gone", os.O_RDONLY) as fd:
        (here / "gone").rmdir()
        make = attempt(lambda: os.open("file", os.O_CREAT, dir_fd=fd))
        return [make, attempt(lambda: os.mkdir("sub", dir_fd=fd)), os.fstat(fd).st_nlink]


@scenario
def renames(here: Path) -> Story:
    story: Story = []
    pairs = [(old, new) for old in NAMES for new in NAMES]
    for flags in (0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_NOREPLACE | RENAME_EXCHANGE):
        for old, new in pairs:
            top = here / f"{flags}-{old.replace('/', '_')}-{new.replace('/', '_')}"
            furnish(top)
            story.append((flags, old, new, rename2(top / old, top / new, flags), listing(top), top.stat().st_nlink))
    return story


NAMES = ("file", "other", "empty", "full", "full/inner", "full/sub", "full/sub/deep", "none", "none/x", "file/x")


def furnish(top: Path) -> None:
    (top / "full" / "sub").mkdir(parents=True)
    (top / "empty").mkdir()
    for number, name in enumerate(("file", "other", "full/inner", "full/sub/deep")):
        (top / name).write_bytes(b"x" * number)


@scenario
def names_of_any_kind(here: Path) -> Story:
    names = [
        "blank in it",
        "new\nline",
        "tab\t",
        "back\\slash",
        "ünïcödé-日本語-🙂",
        "-",
        "...",
        "a" * 255,
        "é" * 127,
        "*?[]",
    ]
    for name in names:
        (here / name).write_text(name)
    story: Story = [names_in(here), [(here / name).read_text() for name in names]]
    story += [attempt((here / name).touch) for name in ("a" * 256, "é" * 128, "b" * 1000)]
    story += [attempt((here / name).mkdir) for name in ("a" * 256,)]
    story += [attempt((here / ("c" * 256)).stat), attempt(os.rename, here / "-", here / ("d" * 256))]
    return story


@scenario
def permissions_and_owners(here: Path) -> Story:
    story: Story = []
    with umask(0o027):
        for mode in (0o666, 0o600, 0o777):
            with opened(here / f"{mode:o}", os.O_CREAT | os.O_WRONLY, mode):
                pass
        (here / "dir").mkdir()
    for mode in (0, 0o444, 0o1777, 0o6755, 0o2644, 0o7777):
        (here / "600").chmod(mode)
        story.append(looks(here / "600"))
        (here / "dir").chmod(mode)
        story.append(looks(here / "dir"))
    return [*story, listing(here)]


@scenario
def chown_takes_special_bits_away(here: Path) -> Story:
    story: Story = []
    for mode in (0o4755, 0o2755, 0o2644, 0o6777):
        for name in ("file", "dir"):
            path = here / f"{name}{mode:o}"
            path.mkdir() if name == "dir" else path.touch()
            path.chmod(mode)
            os.chown(path, 1001, -1)
            story.append(looks(path))
            path.chmod(mode)
            os.chown(path, -1, 1002)
            story.append(looks(path))
    return story


@scenario
def writing_takes_special_bits_away_unless_root_writes(here: Path) -> Story:
    story: Story = []
    file = here / "file"
    here.chmod(0o755)
    for uid in (0, 1001):
        for mode in (0o6777, 0o2767, 0o4766):
            for change in (lambda: file.open("r+b").write(b"y"), lambda: os.truncate(file, 1)):
                file.write_bytes(b"xxx")
                file.chmod(mode)
                story.append((uid, in_child(change, uid), looks(file)))
    return story


@scenario
def a_setgid_directory_hands_its_group_on(here: Path) -> Story:
    os.chown(here, 0, 1234)
    here.chmod(0o2777)
    (here / "file").touch()
    (here / "dir").mkdir()
    (here / "dir" / "deep").touch()
    os.mkfifo(here / "fifo") if "aux" not in here.parts else None
    result = in_child((here / "theirs").touch, 1001)
    return [result, [entry for entry in listing(here) if entry[0] != "fifo"]]


@scenario
def a_sticky_directory_protects_files(here: Path) -> Story:
    here.chmod(0o1777)
    (here / "roots").touch()
    (here / "theirs").touch()
    os.chown(here / "theirs", 1001, 1001)
    story: Story = [in_child((here / "roots").unlink, 1001), in_child((here / "theirs").unlink, 1002)]
    return [*story, in_child((here / "theirs").unlink, 1001), names_in(here)]


@scenario
def others_have_what_the_mode_says(here: Path) -> Story:
    (here / "closed").mkdir(mode=0o700)
    (here / "closed" / "file").touch()
    (here / "private").write_text("x")
    (here / "private").chmod(0o600)
    (here / "public").write_text("x")
    cases = (
        (here / "closed" / "file").read_text,
        (here / "private").read_text,
        (here / "public").read_text,
        lambda: (here / "public").write_text("y"),
        (here / "new").touch,
        lambda: os.utime(here / "public"),
        lambda: os.utime(here / "public", (1, 1)),
        lambda: (here / "public").chmod(0o644),
        lambda: os.chown(here / "public", 1001, 1001),
    )
    return [in_child(case, 1001) for case in cases]


@scenario
def times(here: Path) -> Story:
    file = here / "file"
    file.touch()
    os.utime(file, ns=(1_000_000_000_123_456_789, 2_000_000_000_987_654_321))
    story: Story = [(file.stat().st_atime_ns, file.stat().st_mtime_ns)]
    for change in (
        lambda: file.write_bytes(b"x"),
        lambda: os.truncate(file, 10),
        lambda: file.chmod(0o600),
        lambda: os.setxattr(file, "user.a", b"1"),
        lambda: file.rename(here / "renamed"),
    ):
        os.utime(file, ns=(10**18, 10**18))
        os.utime(here, ns=(10**18, 10**18))
        before = file.stat().st_ctime_ns
        change()
        left = (file if file.exists() else here / "renamed").stat()
        story.append((left.st_mtime_ns != 10**18, left.st_ctime_ns >= before, here.stat().st_mtime_ns != 10**18))
    return story


@scenario
def extended_attributes(here: Path) -> Story:
    file = here / "file"
    file.touch()
    os.setxattr(file, "user.a", b"1")
    os.setxattr(file, "user.b", b"\x00\xff" * 500)
    os.setxattr(here, "user.dir", b"")
    story: Story = [
        sorted(os.listxattr(file)),
        os.getxattr(file, "user.b"),
        os.listxattr(here),
        os.getxattr(here, "user.dir"),
    ]
    story += [
        attempt(os.setxattr, file, "user.a", b"2", os.XATTR_CREATE),
        attempt(os.setxattr, file, "user.c", b"2", os.XATTR_REPLACE),
        attempt(os.setxattr, file, "user.a", b"3", os.XATTR_REPLACE),
        attempt(os.getxattr, file, "user.none"),
        attempt(os.removexattr, file, "user.none"),
        attempt(os.removexattr, file, "user.b"),
        attempt(os.setxattr, file, "user.big", b"x" * 65537),
        attempt(os.setxattr, file, "user." + "n" * 251, b"x"),
        attempt(os.setxattr, file, "strange.name", b"x"),
    ]
    return [*story, os.getxattr(file, "user.a"), sorted(os.listxattr(file))]


@scenario
def special_files(here: Path) -> Story:
    (here / "file").touch()
    return [attempt(os.readlink, here / "file"), attempt(os.mknod, here / "node", stat.S_IFREG | 0o640), listing(here)]


@scenario
def shared_mappings_are_files(here: Path) -> Story:
    file = here / "file"
    file.write_bytes(b"a" * 10_000)
    with opened(file, os.O_RDWR) as fd:
        with mmap.mmap(fd, 10_000) as shared, mmap.mmap(fd, 10_000) as twin:
            shared[5000:5005] = b"HELLO"
            seen = twin[4999:5006], os.pread(fd, 7, 4999)
            shared.flush()
            os.pwrite(fd, b"by write", 100)
            seen_write = shared[99:110]
        return [seen, seen_write, file.read_bytes(), looks(file)]


@scenario
def writers_that_only_write_are_seen_at_once(here: Path) -> Story:
    file = here / "file"
    file.write_bytes(b"a" * 9000)
    story: Story = []
    with opened(file, os.O_RDWR) as reader, mmap.mmap(reader, 9000) as mapping, opened(file, os.O_WRONLY) as writer:
        for offset in (0, 4090, 8999, 5000):
            story.append((mapping[offset : offset + 1], os.pread(reader, 3, offset)))
            os.pwrite(writer, b"XY", offset)
            story.append((mapping[offset : offset + 1], os.pread(reader, 3, offset), os.fstat(reader).st_size))
            mapping[offset : offset + 1] = b"m"
            os.pwrite(writer, b"Z", offset + 1)
            story.append((os.pread(reader, 3, offset), os.fstat(writer).st_size))
    return [*story, file.read_bytes()]


@scenario
def a_mapping_outlives_descriptor_and_name(here: Path) -> Story:
    file = here / "file"
    file.write_bytes(b"a" * 4096)
    with opened(file, os.O_RDWR) as fd:
        mapping = mmap.mmap(fd, 4096)
    file.unlink()
    mapping[0:1] = b"b"
    mapping.flush()
    story: Story = [mapping[0:2]]
    mapping.close()
    return story


@scenario
def ten_thousand_names(here: Path) -> Story:
    names = [f"n{number:05}" for number in range(10_000)]
    for name in names:
        os.close(os.open(here / name, os.O_CREAT))

    def remove_every_other() -> None:
        for name in names[1::2]:
            (here / name).unlink()

    remover = threading.Thread(target=remove_every_other)
    remover.start()
    with os.scandir(here) as entries:
        seen = [entry.name for entry in entries]
    remover.join()
    kept = names[0::2]
    return [
        len(seen) == len(set(seen)),
        set(kept) <= set(seen),
        set(seen) <= set(names),
        names_in(here) == kept,
    ]


@scenario
def a_listing_survives_renames_and_replacements(here: Path) -> Story:
    names = [f"n{number:03}" for number in range(500)]
    for name in names:
        (here / name).touch()
    seen = []
    with os.scandir(here) as entries:
        for number, entry in enumerate(entries):
            seen.append(entry.name)
            if number == 100:
                (here / "new").touch()
                (here / "new").rename(here / "n400")
    return [sorted(name for name in seen if name.startswith("n") and name != "new") == names]


def test_statfs_tells_of_memory(mount: Mounted) -> None:
    before = os.statvfs(mount.path)
    (mount.path / "aux" / "data").write_bytes(b"x" * 2**20)
    after = os.statvfs(mount.path)
    assert before.f_bsize == before.f_frsize == 4096
    assert before.f_namemax == 255
    assert 0 < before.f_bavail <= before.f_blocks
    assert after.f_files - after.f_ffree == before.f_files - before.f_ffree + 1
    assert before.f_favail == before.f_ffree > 1000


def test_what_is_no_posix_here_is_refused(mount: Mounted) -> None:
    aux = mount.path / "aux"
    (aux / "file").touch()
    assert attempt(os.mknod, aux / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3)) == "EPERM"
    assert attempt(os.rename, aux / "file", mount.path / "vmo" / "file") == "EXDEV"
    assert attempt(os.open, mount.path / "vmo" / "file", os.O_CREAT) == "EPERM"
    assert attempt(os.open, mount.path / "file", os.O_CREAT) == "EPERM"
    assert attempt(os.rmdir, mount.path / "vmo") == "EPERM"
    assert attempt(os.unlink, mount.path / "README") == "EPERM"
    assert attempt(os.unlink, mount.path / "control" / "version") == "EPERM"
    assert attempt(os.open, os.fsencode(aux) + b"/\xff\xfe", os.O_CREAT) == "EILSEQ"
    assert attempt(os.setxattr, aux / "file", "user.vmofs.x", b"1") == "EPERM"
    assert attempt(os.setxattr, aux / "file", "security.capability", bytes(20)) in {"ENOTSUP", "EINVAL"}


def test_a_path_that_would_not_fit_a_request_line_is_refused(mount: Mounted) -> None:
    vmo = mount.path / "vmo"
    with opened(vmo, os.O_RDONLY) as start:
        fd = os.dup(start)
        depth = 0
        while True:
            refused = attempt(lambda fd: os.mkdir("d" * 250, dir_fd=fd), fd)
            if refused:
                break
            depth += 1
            below = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
        assert refused == "ENAMETOOLONG"
        assert depth == (MAX_PATH_BYTES - len("vmo")) // 251
        (vmo / "directory").mkdir()
        assert attempt(os.rename, vmo / ("d" * 250), vmo / ("d" * 249)) is None
        assert attempt(os.rename, vmo / ("d" * 249), vmo / "directory" / ("d" * 250)) == "ENAMETOOLONG"
        assert attempt(os.rename, vmo / ("d" * 249), vmo / (" " * 249)) == "ENAMETOOLONG"


def test_the_texts_are_files(mount: Mounted) -> None:
    readme = mount.path / "README"
    assert len(readme.read_bytes()) == readme.stat().st_size > 0
    assert (mount.path / "control" / "version").read_text().startswith("vmofs ")
    assert attempt(readme.write_text, "x") == "EPERM"


def test_access_control_lists_are_checked_and_inherited(mount: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("setfacl") is None:
        pytest.skip("setfacl is not installed")
    aux = mount.path / "aux"
    file = aux / "file"
    file.write_text("secret")
    file.chmod(0o600)
    monkeypatch.chdir(aux)  # the directories above may be closed to others
    assert in_child(lambda: Path("file").read_bytes(), 1001) == errno.EACCES
    subprocess.run(["setfacl", "-m", "u:1001:r", "file"], check=True)
    assert in_child(lambda: Path("file").read_bytes(), 1001) == 0
    assert in_child(lambda: Path("file").read_bytes(), 1002) == errno.EACCES
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    file.chmod(0o600)
    assert in_child(lambda: Path("file").read_bytes(), 1001) == errno.EACCES
    (aux / "dir").mkdir()
    subprocess.run(["setfacl", "-d", "-m", "u:1001:rwx", "dir"], check=True)
    (aux / "dir" / "below").mkdir(mode=0o700)
    (aux / "dir" / "new").touch(mode=0o640)
    seen = subprocess.run(["getfacl", "-cn", "dir/below", "dir/new"], check=True, capture_output=True, text=True)
    assert seen.stdout.count("user:1001:rwx") == 3


def test_an_append_behind_msync_loses_nothing_while_the_kernel_writes_back(mount: Mounted) -> None:
    lost = count_lost(str(mount.path / "aux" / "file"), 1.0, msync=True)
    assert lost.appends > 10
    assert lost == Lost(lost.appends, 0, 0)
