"""``vmofs run``: a command with files of URLs, whose failed reads cannot be hidden by it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

import pytest

from tests.support.faulty_server import SIZE, FaultyServer
from tests.support.mounted import vmofs_command
from tests.support.opened import User, wait_until

pytestmark = pytest.mark.fuse


def test_the_exit_code_is_that_of_the_command(user: User, server: FaultyServer) -> None:
    both = (server.url("one"), server.url("two"))
    result = user.run("run", *both, "--", "sh", "-c", 'stat -c "%n %s" "$@"; exit 77', "sh", "{2}", "{}", code=77)
    names = [line.split()[0].rpartition("/")[2] for line in result.stdout.splitlines()]
    assert names == ["two", "one", "two"]
    assert not user.is_mounted()
    user.run("run", server.url(), "--", "sh", "-c", "kill -TERM $$", code=143)
    user.run("run", server.url(), "--", "there-is-no-such-program", code=2)


def test_who_ends_it_ends_the_command_and_leaves_nothing(user: User) -> None:
    command = vmofs_command("run", "pattern:4096", "--", "sh", "-c", "echo; exec sleep 1000")
    with subprocess.Popen(command, env=user.environment, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not user.is_mounted()


def test_files_of_a_run_that_was_killed_go(user: User) -> None:
    user.open("pattern:8192")
    command = vmofs_command("run", "pattern:4096", "--", "sh", "-c", "echo $$; exec sleep 1000")
    with subprocess.Popen(command, env=user.environment, stdout=-1) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        process.kill()
    os.kill(number, signal.SIGKILL)
    for _ in wait_until("its files are gone"):
        if [entry.name for entry in (user.mount / "vmo").iterdir()] == ["local"]:
            break


def test_a_read_that_fails_is_told_whatever_the_command_says(user: User, server: FaultyServer) -> None:
    # It hides the error, as a dozen libraries do.
    script = "cat {} >/dev/null 2>&1; exit 0"
    server.refusals["once it is open"] = (418, {})
    gate = threading.Thread(target=_spoil_after, args=(server, 1, "once it is open"), daemon=True)
    gate.start()
    result = user.run("run", "--soft", server.url(), "--", "sh", "-c", script, code=9)
    assert "data: a read failed at 0+" in result.stderr
    assert "418" in result.stderr


def test_a_server_that_is_away_for_a_while_is_waited_for(user: User, server: FaultyServer) -> None:
    gate = threading.Thread(target=_spoil_after, args=(server, 1, "503", 5), daemon=True)
    gate.start()
    result = user.run("run", server.url(), "--", "sh", "-c", "wc -c <{}; cat {} | wc -c")
    assert result.stdout.split() == [str(SIZE), str(SIZE)]
    assert "vmofs: waiting: the server answers 503\n" in result.stderr
    gate.join()


def test_soft_files_fail_by_the_deadline(user: User, server: FaultyServer) -> None:
    gate = threading.Thread(target=_spoil_after, args=(server, 1, "503"), daemon=True)
    gate.start()
    began = time.monotonic()
    user.run("run", "--soft", "--deadline", "1", server.url(), "--", "cat", "{}", code=9)
    assert time.monotonic() - began < 20


def _spoil_after(server: FaultyServer, count: int, fault: str, more: int = 0) -> None:
    """Let a server misbehave once it has answered so many requests, for so many more or for good."""
    while server.count < count:
        time.sleep(0.001)
    time.sleep(0.05)  # the answer goes out
    server.fault = fault
    if more:
        while server.count < count + more:
            time.sleep(0.01)
        server.fault = ""
