"""vmofs under mount(8), umount(8) and /etc/fstab, installed as the scripts say, in a mount namespace of its own."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounted import ROOT, vmofs_command, vmofs_environment
from tests.support.own_namespace import commands_for_others

HELPERS = [ROOT / "tools" / name for name in ("mount.fuse.vmofs", "umount.fuse.vmofs")]
USER = "nobody"
SECONDS = 60

Run = Callable[..., list[str]]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount namespace of its own")


@pytest.fixture
def run() -> Iterator[Run]:
    """A function that runs a script where vmofs is installed; it returns the lines of its output.

    ``$M`` is a directory to mount at, ``fstab=`` the options of its line in /etc/fstab. ``as_user COMMAND`` runs a
    command as an ordinary user. The script fails as soon as a command does.
    """
    with tempfile.TemporaryDirectory(prefix="vmofs-mount-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        for part in ("bin", "dev", "layers", "M"):
            (directory / part).mkdir()
        (directory / "M").chmod(0o777)
        vmofs = directory / "bin" / "vmofs"
        roots = vmofs_environment()["PYTHONPATH"]
        vmofs.write_text(
            f'#!/bin/sh\nexport PYTHONPATH="{roots}" PYTHONDONTWRITEBYTECODE=1\n'
            f'exec {shlex.join(vmofs_command())} "$@"\n'
        )
        vmofs.chmod(0o755)

        def run(script: str, fstab: str = "deadline=7") -> list[str]:
            done = subprocess.run(
                [
                    "unshare",
                    "-m",
                    "--propagation",
                    "unchanged",
                    "sh",
                    "-c",
                    f"{_installed(directory, fstab)}\n{script}",
                ],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            if done.returncode == 77:
                pytest.skip(f"vmofs cannot be installed in a namespace here: {done.stderr.strip()[-200:]}")
            assert (done.returncode, done.stderr) == (0, ""), (done.stdout, done.stderr)
            return done.stdout.splitlines()

        yield run


def _installed(directory: Path, fstab: str) -> str:
    """Return the lines that install vmofs, over what there is."""
    place = directory / "M"
    (directory / "fstab").write_text(f"pages {place} fuse.vmofs {fstab} 0 0\n")
    layers = directory / "layers"
    return f"""
        M={place}
        {{
            mount -t tmpfs -o dev none {layers} && mkdir {layers}/upper {layers}/work
            sbin=$(readlink -f /sbin)
            mount -t overlay none -o lowerdir=$sbin,upperdir={layers}/upper,workdir={layers}/work $sbin
            cp {" ".join(map(str, HELPERS))} $sbin
            mount -t tmpfs none /run/mount && mount --bind {directory}/fstab /etc/fstab
            mount --bind {directory}/bin /usr/local/bin
            mknod -m 666 {layers}/fuse c 10 229 && mount --bind {layers}/fuse /dev/fuse
            {commands_for_others()}
        }} || exit 77
        as_user() {{ setpriv --reuid {USER} --regid nogroup --clear-groups "$@"; }}
        set -e
    """


def test_mount_by_type_and_umount(run: Run) -> None:
    lines = run("""
        mount -t fuse.vmofs -o deadline=9,noexec pages $M
        mkdir $M/control/p
        cat $M/control/p/deadline
        findmnt -no SOURCE,FSTYPE $M
        findmnt -no VFS-OPTIONS $M | tr , '\\n' | grep noexec
        umount $M
        findmnt $M || echo gone
    """)
    assert [" ".join(line.split()) for line in lines] == ["9", "pages fuse.vmofs", "noexec", "gone"]


def test_a_line_of_fstab_is_mounted_by_all_ways_and_once(run: Run) -> None:
    options = "deadline=7,nofail,_netdev,x-systemd.automount,X-other=1,comment=a,relatime"
    lines = run(
        """
        mount -a
        mount -a
        grep -c " $M " /proc/mounts
        umount $M
        mount $M
        mkdir $M/control/p
        cat $M/control/p/deadline
        umount $M
        mount pages
        umount $M
        findmnt --verify 2>&1 | grep -o "0 parse errors, 0 errors"
        """,
        fstab=options,
    )
    assert lines == ["1", "7", "0 parse errors, 0 errors"]


def test_remount_changes_what_the_kernel_knows_and_keeps_the_rest(run: Run) -> None:
    lines = run(
        """
        mount $M
        mkdir $M/control/p
        echo vmo/v 4096 >$M/control/p/create_vmo
        mount -o remount,ro $M
        findmnt -no VFS-OPTIONS $M | tr , '\\n' | grep -x 'ro\\|nosuid\\|noexec' | sort | xargs
        (echo x >$M/aux/file) 2>/dev/null || echo read-only
        (mkdir $M/control/q) 2>/dev/null || echo read-only
        ls $M/vmo
        mount -o remount,rw $M
        echo x >$M/aux/file
        cat $M/aux/file $M/control/p/deadline
        umount $M
        """,
        fstab="deadline=7,noexec",
    )
    assert lines == ["noexec nosuid ro", "read-only", "read-only", "v", "x", "7"]


@pytest.mark.skipif(not Path("/etc/mtab").exists(), reason="fusermount3 unmounts nothing without /etc/mtab")
def test_a_user_mounts_and_unmounts_what_fstab_lets_users_mount(run: Run) -> None:
    lines = run(
        """
        as_user mount $M 2>/dev/null
        as_user sh -c "echo x >$M/aux/file && cat $M/aux/file"
        findmnt -no FS-OPTIONS $M | tr , '\\n' | grep user_id
        as_user umount $M
        findmnt $M || echo gone
        """,
        fstab="noauto,user,no_allow_other",
    )
    assert lines == ["x", "user_id=65534", "gone"]


@pytest.mark.parametrize("way", ["fstab", "mount -t"])
def test_umount_of_a_mount_that_names_its_helper_drops_nothing_in_silence(run: Run, way: str) -> None:
    mount = {"fstab": "mount $M", "mount -t": "mount -t fuse.vmofs -o uhelper=fuse.vmofs pages $M"}[way]
    lines = run(
        f"""
        {mount}
        mkdir $M/control/p
        echo vmo/v 4096 resizable >$M/control/p/create_vmo
        truncate -s 8192 $M/vmo/v
        umount $M 2>&1 || echo code $?
        umount -l $M
        findmnt $M || echo gone
        {mount}
        pid=$(getfattr --only-values -n user.vmofs.pid $M 2>/dev/null)
        umount $M
        readlink /proc/$pid/exe || echo ended
        """,
        fstab="deadline=7,uhelper=fuse.vmofs",
    )
    assert "was not unmounted, since pages are dirty: vmo/v (1)" in lines[0]
    assert lines[1:] == ["code 1", "gone", "ended"]


def test_what_is_wrong_is_one_sentence_and_an_exit_code(run: Run) -> None:
    lines = run("""
        mount -t fuse.vmofs -o nonsense pages $M 2>&1 || echo code $?
        mount -f -t fuse.vmofs -o nonsense pages $M && echo as if
        mount -t fuse.vmofs pages $M
        mount -t fuse.vmofs pages $M 2>&1 || echo code $?
        umount $M
    """)
    assert lines[:3] == ["vmofs: unknown mount option 'nonsense'", "code 1", "as if"]
    assert lines[3].startswith("vmofs: a vmofs is mounted at ")
    assert lines[4] == "code 1"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    vmofs = tmp_path / "vmofs"
    vmofs.write_text("#!/bin/sh\n")
    vmofs.chmod(0o755)
    copies = []
    for unit in (ROOT / "tools" / "systemd").iterdir():
        copies.append(tmp_path / unit.name)
        copies[-1].write_text(unit.read_text().replace("/usr/local/bin/vmofs", str(vmofs)))
    assert len(copies) == 2
    done = subprocess.run(["systemd-analyze", "verify", *copies], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-escape") is None, reason="systemd-escape is not installed")
def test_the_mount_unit_is_called_as_its_directory() -> None:
    (unit,) = (ROOT / "tools" / "systemd").glob("*.mount")
    (where,) = [line.partition("=")[2] for line in unit.read_text().splitlines() if line.startswith("Where=")]
    command = ["systemd-escape", "--path", "--suffix=mount", where]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == unit.name
