"""The -o options and /proc/self/mountinfo."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmofs_mount.daemon.options import MountOptions, OptionError, parse_options
from vmofs_mount.linux.mountinfo import _parse, mount_at


def test_without_options_the_defaults_hold() -> None:
    assert parse_options([]) == MountOptions()
    assert MountOptions().allow_other == (os.geteuid() == 0)
    assert MountOptions().kernel == {"nodev", "nosuid"}


def test_options_are_read() -> None:
    options = parse_options(["deadline=7.5,warn=0", "memory=2M,log=x", "no_allow_other,suid,noexec"])
    assert options.deadline_seconds == 7.5
    assert options.warn_seconds == 0
    assert (options.stall_seconds, parse_options(["stall=1.5"]).stall_seconds) == (None, 1.5)
    assert (MountOptions().spin_seconds, parse_options(["spin=250"]).spin_seconds) == (0, 250e-6)
    assert options.memory_limit_bytes == 2 * 2**20
    sizes = parse_options(["readahead=64K,blksize=128K"])
    assert (sizes.readahead_bytes, sizes.block_bytes) == (2**16, 2**17)
    assert parse_options(["memory_limit=3M"]).memory_limit_bytes == 3 * 2**20
    assert parse_options(["memory_limit=0"]).memory_limit_bytes is None
    assert options.log_path == Path("x").absolute()
    assert not options.allow_other
    assert options.kernel == {"nodev", "suid", "noexec"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("max_deadline=60", 60), ("deadline=0,max_deadline=60", 60), ("max_deadline=60,deadline=7", 7)],
)
def test_the_deadline_of_the_mount_is_at_most_the_longest(text: str, seconds: float) -> None:
    assert parse_options([text]).deadline_seconds == seconds


def test_what_stands_in_fstab_is_accepted() -> None:
    given = "noauto,nofail,user,_netdev,defaults,x-systemd.automount,X-mount.mkdir,comment=a,relatime,users,,"
    assert parse_options([given]) == MountOptions()
    assert parse_options(["ro,rw"]).kernel == {"rw", "nodev", "nosuid"}


def test_a_mount_has_the_name_that_mount_gives_it() -> None:
    assert parse_options(["fsname=pages"]).source == "pages"
    for name in ("a b", "a\\b", "a\n"):
        with pytest.raises(OptionError, match="without blanks, commas and backslashes"):
            parse_options([f"fsname={name}"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nonsense", "unknown mount option 'nonsense'"),
        ("allow_other=1", "unknown mount option 'allow_other=1'"),
        ("deadline", "option 'deadline' needs a value"),
        ("deadline=", "option 'deadline' needs a value"),
        ("deadline=-1", "number of seconds, not '-1'"),
        ("warn=inf", "number of seconds, not 'inf'"),
        ("warn=nan", "number of seconds, not 'nan'"),
        ("spin=1s", "number of microseconds, not '1s'"),
        ("spin=10001", "at most 10000 microseconds, not '10001'"),
        ("readahead=0", "option 'readahead' cannot be '0': readahead 0 is not a number of whole pages"),
        ("blksize=5000", "blksize 5000 is not a power of two from 4096 to 67108864"),
        ("memory=much", "number of bytes such as 2G, not 'much'"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_options([text])
    assert sentence in str(caught.value)


def test_a_line_of_mountinfo_is_read() -> None:
    mount = _parse("36 35 0:98 / /mnt/a\\040b rw,noatime shared:1 master:2 - fuse.vmofs vmofs rw,user_id=1001")
    assert mount == (36, "/", "/mnt/a b", "fuse.vmofs", "0:98", "rw,user_id=1001")
    assert (mount.minor, mount.uid) == (98, 1001)


def test_proc_is_mounted_and_a_file_elsewhere_is_not() -> None:
    assert mount_at("/proc") is not None
    assert mount_at(__file__) is None
