"""vmofs under systemd and under mount(8), as far as that can be tried without them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.mounted import ROOT, vmofs_command, vmofs_environment, wait_for

UNIT = ROOT / "tools" / "systemd" / "vmofs@.service"
HELPER = ROOT / "tools" / "mount.fuse.vmofs"


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A directory with the command ``vmofs``, for PATH."""
    script = tmp_path / "bin" / "vmofs"
    script.parent.mkdir()
    python, *rest = vmofs_command()
    roots = vmofs_environment()["PYTHONPATH"]
    script.write_text(f'#!/bin/sh\nexport PYTHONPATH="{roots}"\nexec {python} {" ".join(rest)} "$@"\n')
    script.chmod(0o755)
    return script.parent


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_service_manager_is_told_when_the_mount_answers_and_when_it_ends(
    place: Path, tmp_path: Path, kind: str
) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@vmofs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0", 1) if kind == "abstract" else address)
        manager.settimeout(20)
        daemon = subprocess.Popen(
            vmofs_command("mount", "-f", "-o", "", place), env=vmofs_environment() | {"NOTIFY_SOCKET": address}
        )
        assert manager.recv(4096).decode().splitlines() == ["READY=1", f"STATUS=Serving {place}"]
        assert (place / "control" / "version").exists()
        daemon.send_signal(signal.SIGTERM)
        assert manager.recv(4096) == b"STOPPING=1"
        assert daemon.wait(10) == 0


@pytest.mark.parametrize("address", ["/nowhere/at/all", "nonsense", ""])
def test_a_service_manager_that_cannot_be_told_is_no_reason_to_fail(place: Path, address: str) -> None:
    environment = vmofs_environment() | {"NOTIFY_SOCKET": address}
    daemon = subprocess.Popen(vmofs_command("mount", "-f", place), env=environment)
    wait_for((place / "control" / "version").exists, "the mount answers")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(10) == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, commands: Path) -> None:
    text = UNIT.read_text()
    assert "/usr/local/bin/vmofs" in text
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("/usr/local/bin/vmofs", str(commands / "vmofs")))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_mount_helper_takes_what_mount_gives_it(place: Path, commands: Path) -> None:
    environment = os.environ | {"PATH": f"{commands}:{os.environ['PATH']}"}
    options = "rw,nofail,x-systemd.automount,deadline=7"
    command: list[str | Path] = [HELPER, "none", place, "-n", "-v", "-o", options, "-o", "warn=3", "-t", "fuse.vmofs"]
    subprocess.run([HELPER, "none", place, "-f", "-o", "nonsense"], env=environment, check=True)  # -f: as if
    subprocess.run(command, env=environment, check=True)
    (place / "control" / "p").mkdir()
    assert (place / "control" / "p" / "deadline").read_text() == "7\n"
    subprocess.run([commands / "vmofs", "umount", place], check=True)
    for bad in (["none"], ["none", place, "-o", "nonsense"], ["none", place, "-x"]):
        done = subprocess.run([HELPER, *bad], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount namespace of its own")
def test_mount_of_util_linux_finds_the_helper_and_reads_fstab(place: Path, commands: Path, tmp_path: Path) -> None:
    """In a mount namespace where the helper stands in place of mount.fuse, which mount(8) falls back to.

    mount(8) is set-user-ID and so gives its helper a PATH of its own.
    """
    installed = Path("/sbin/mount.fuse").resolve()
    if not installed.exists():
        pytest.skip("there is no mount.fuse whose place the helper could take")
    fstab = tmp_path / "fstab"
    fstab.write_text(f"none {place} fuse.vmofs deadline=7,noauto 0 0\n")
    script = f"""
        set -e
        mount --bind {HELPER} {installed}
        mount --bind {commands} /usr/local/bin
        mount -t fuse.vmofs -o deadline=9 none {place}
        mkdir {place}/control/p
        cat {place}/control/p/deadline
        vmofs umount {place}
        mount --fstab {fstab} {place}
        mkdir {place}/control/p
        cat {place}/control/p/deadline
        umount {place}
    """
    command = ["unshare", "-m", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "9\n7\n", "")
