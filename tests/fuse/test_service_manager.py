"""What vmofs tells a service manager, and its helper for mount(8) alone; see also ``test_mount_command.py``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.mounted import ROOT, vmofs_command, vmofs_environment, wait_for

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
