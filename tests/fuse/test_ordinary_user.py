"""A mount by an ordinary user: it works, and what is degraded is said (``vmofs mount``, ``vmofs doctor``)."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.support.mounted import Mounted, vmofs_command, vmofs_environment
from tests.support.own_namespace import commands_for_others
from vmofs_mount.cli import doctor
from vmofs_mount.linux import knobs, procfs
from vmofs_mount.rights import privileges

_CONNECTIONS = Path("/sys/fs/fuse/connections")
_ALLOWED = Path("/sys/module/fuse/parameters/max_user_bgreq")
USER = pwd.getpwnam("nobody").pw_uid  # fusermount3 wants an account


class Run(Protocol):
    """Run a shell script as an ordinary user. ``connections``: whether /sys has the directory of FUSE connections."""

    def __call__(self, script: str, *, connections: bool = False) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def run_as_user() -> Iterator[Run]:
    """Run a shell script as an ordinary user where /dev/fuse is everybody's: in a mount namespace of its own.

    ``vmofs`` is the command, ``$M`` an empty directory of the user's.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can be others")
    with tempfile.TemporaryDirectory(prefix="vmofs-user-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "dev").mkdir()
        (directory / "mnt").mkdir()
        os.chown(directory / "mnt", USER, USER)
        (directory / "mnt").chmod(0o700)
        vmofs = shlex.join(vmofs_command())

        def run(script: str, *, connections: bool = False) -> subprocess.CompletedProcess[str]:
            (directory / "script").write_text(f'vmofs() {{ {vmofs} "$@"; }}\nM={directory}/mnt\n{script}')
            namespace = (
                f"mount -t tmpfs -o dev none {directory}/dev && mknod -m 666 {directory}/dev/fuse c 10 229 && "
                f"chmod 666 {directory}/dev/fuse && mount --bind {directory}/dev/fuse /dev/fuse && "
                f"{commands_for_others()} && "
                f"{_show_connections() if connections else _hide_connections()} && "
                f"exec setpriv --reuid {USER} --regid {USER} --clear-groups bash {directory}/script"
            )
            return subprocess.run(
                ["unshare", "-m", "--propagation", "unchanged", "sh", "-c", namespace],
                env=vmofs_environment() | {"HOME": str(directory / "mnt"), "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        probe = run(f"test -w /dev/fuse && {shlex.join(vmofs_command('--version'))}")
        if probe.returncode != 0:
            pytest.skip(f"an ordinary user cannot run vmofs here: {probe.stderr.strip()[-200:]}")
        yield run


def _hide_connections() -> str:
    return f"while mountpoint -q {_CONNECTIONS}; do umount {_CONNECTIONS}; done"


def _show_connections() -> str:
    return f"{_hide_connections()} && mount -t fusectl none {_CONNECTIONS}"


def test_an_ordinary_user_mounts_is_told_what_is_degraded_and_is_a_pager(run_as_user: Run) -> None:
    done = run_as_user(
        """
        vmofs mount $M || exit 1
        cd $M
        mkdir control/p && echo 'vmo/v 4096' > control/p/create_vmo
        printf %4096s x > aux/a && echo 'vmo/v 0 4096 aux/a 0' > control/p/supply_pages || exit 2
        tr -d ' ' < vmo/v; echo
        echo private > aux/b; chmod 0 aux/b
        exec 3<>control/vmo_op_range; echo 'zero aux/b 0 0' >&3; read -r result <&3; echo "$result"
        exec 3>&-; cd /; sleep 0.2; vmofs umount $M || exit 3
        """
    )
    assert (done.returncode, done.stdout) == (0, "x\nZX_ERR_ACCESS_DENIED: no permission to write 'aux/b'\n"), done
    told = done.stderr.splitlines()
    assert any("read-ahead cannot be set" in line for line in told), told
    assert any("max_background cannot be raised" in line for line in told), told
    assert f"vmofs: {privileges.WAITING_IS_NOT_SEEN}" in told
    assert [line for line in told if not line.startswith("vmofs: ")] == [line for line in told if "echo: write" in line]


def test_an_ordinary_user_unmounts_although_somebody_waits_there(run_as_user: Run) -> None:
    done = run_as_user(
        """
        vmofs mount $M 2>/dev/null || exit 1
        mkdir $M/control/p && echo 'vmo/v 4096' > $M/control/p/create_vmo
        cat $M/vmo/v 2>/dev/null &
        until grep -q 'vmofs_waiters 1' $M/control/stats; do :; done
        vmofs umount $M || exit 2
        wait $! && exit 3
        ls $M
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done


def test_doctor_tells_an_ordinary_user_what_is_degraded(run_as_user: Run) -> None:
    done = run_as_user("vmofs mount $M 2>/dev/null; vmofs doctor $M; echo code $?; vmofs umount $M")
    lines = done.stdout.splitlines()
    assert "code 0" in lines, done
    assert f"degraded: {privileges.OTHERS_ARE_REFUSED}" in lines
    assert f"degraded: {privileges.WAITING_IS_NOT_SEEN}" in lines
    assert any(line.startswith(f"degraded: served by uid {USER}") for line in lines)
    assert any(line.startswith("degraded: read_ahead_kb is ") for line in lines)
    assert any(line.startswith("degraded: max_background cannot be read") for line in lines)


def test_an_ordinary_user_raises_max_background_as_far_as_he_may_where_he_sees_the_connections(
    run_as_user: Run,
) -> None:
    """Most machines show them: systemd mounts fusectl. What he may is a parameter of the kernel's module."""
    done = run_as_user("vmofs mount $M; echo code $?; vmofs doctor $M; vmofs umount $M", connections=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "code 0", done
    allowed = min(int(_ALLOWED.read_text()), knobs.MAX_BACKGROUND)
    [told] = [line for line in done.stderr.splitlines() if "max_background" in line] or [""]
    [found] = [line for line in lines if "max_background is" in line]
    if allowed == knobs.MAX_BACKGROUND:
        assert (told, found) == ("", f"ok: max_background is {allowed}")
    else:
        assert f"max_background can be raised to {allowed} only" in told
        assert found.startswith(f"degraded: max_background is {allowed}, not {knobs.MAX_BACKGROUND}")


def doctor_without(capability: str) -> list[str]:
    """Return what the doctor says to root who lacks a capability."""
    bare = ["setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}"]
    done = subprocess.run(
        [*bare, *vmofs_command("doctor")], env=vmofs_environment(), capture_output=True, text=True, check=False
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("capability", "sentence"),
    [("setuid", privileges.ROOT_CANNOT), ("dac_read_search", privileges.NAMES_ARE_LOOKED_UP)],
)
def test_doctor_tells_a_root_what_his_container_took_from_him(capability: str, sentence: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("not root")
    assert f"degraded: {sentence}" in doctor_without(capability)


@pytest.mark.parametrize(("scope", "seen"), [("0", True), ("1", False), (None, True)])
def test_doctor_looks_whether_one_sees_what_others_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str | None, seen: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: USER)
    monkeypatch.setattr(procfs, "_PTRACE_SCOPE", tmp_path / "ptrace_scope")
    if scope is not None:
        (tmp_path / "ptrace_scope").write_text(f"{scope}\n")
    assert (privileges.CALLS_ARE_NOT_SEEN in privileges.what_is_lacking(shared=False)) is not seen


def test_root_who_may_not_open_inodes_still_finds_names(tmp_path: Path) -> None:
    """In a container, say. What he lacks is said when he mounts."""
    if os.geteuid() != 0:
        pytest.skip("not root")
    script = """
        vmofs mount $M || exit 1
        printf %4096s x >$M/aux/a; chmod 600 $M/aux/a; mkdir -m 700 $M/aux/d
        for name in aux/a aux/d/x aux/nothing; do
            setpriv --reuid 2004 --regid 2004 --clear-groups bash -c \
                "exec 3<>$M/control/vmo_op_range; echo commit $name 0 4096 >&3 2>/dev/null; head -n 1 <&3"
        done
        vmofs umount $M
    """
    tmp_path.chmod(0o755)
    for parent in (tmp_path, *tmp_path.parents)[:3]:
        parent.chmod(0o755)
    (tmp_path / "mnt").mkdir()
    bare = ["setpriv", "--bounding-set=-dac_read_search", "--inh-caps=-dac_read_search"]
    prelude = f'vmofs() {{ {shlex.join(vmofs_command())} "$@"; }}\nM={tmp_path}/mnt\n'
    done = subprocess.run(
        [*bare, "bash", "-c", prelude + script], env=vmofs_environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "ZX_ERR_ACCESS_DENIED: no permission to write 'aux/a'",
        "ZX_ERR_ACCESS_DENIED: no permission to search a directory of 'aux/d/x'",
        "ZX_ERR_BAD_HANDLE: 'aux/nothing' does not exist",
    ]
    assert f"vmofs: {privileges.NAMES_ARE_LOOKED_UP}" in done.stderr.splitlines()


def test_others_do_not_get_into_a_users_mount(run_as_user: Run) -> None:
    done = run_as_user("vmofs mount $M 2>/dev/null; stat -c %A $M/vmo $M/control; vmofs umount $M")
    assert done.stdout.split() == ["drwxr-xr-x", "drwxr-xr-x"]


def test_doctor_finds_nothing_to_complain_about_in_a_mount_of_root(mount: Mounted) -> None:
    if os.geteuid() != 0:
        pytest.skip("not root")
    findings = list(doctor.examine_mount(str(mount.path)))
    assert [finding for finding in findings if finding.verdict != "ok"] == []
    assert any(f"process {mount.pid}" in finding.sentence for finding in findings)


def test_doctor_says_what_is_wrong_and_with_which_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run(
        vmofs_command("doctor", tmp_path), env=vmofs_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"bad:      no vmofs is mounted at {tmp_path}" in done.stdout
    assert "checks failed" in done.stderr
    device = tmp_path / "fuse"
    monkeypatch.setattr(doctor, "_DEVICE", device)
    assert doctor._device().verdict == "bad"
    device.touch()
    device.chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert doctor._device().verdict == "degraded"
    device.chmod(0o666)
    assert doctor._device().verdict == "ok"


def test_what_a_daemon_of_a_user_cannot_check_is_refused() -> None:
    """With allow_other, which fuse.conf must permit, others come in; and the daemon has no right to lend them."""
    script = (
        "import os, trio\n"
        "from vmofs_mount.rights.identity import Identity, can_examine, can_take_identities\n"
        "assert can_take_identities() and can_examine(Identity(2004, 2004))\n"
        "os.setuid(2001)\n"
        "assert not can_take_identities()\n"
        "assert can_examine(Identity(2001, 2001)) and not can_examine(Identity(2004, 2004))\n"
    )
    if os.geteuid() != 0:
        pytest.skip("only root can be others")
    subprocess.run([*vmofs_command()[:1], "-c", script], env=vmofs_environment(), check=True)
