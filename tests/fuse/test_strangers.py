"""What a stranger tries with files of others: his own pager, a user namespace, descriptors that he was not given."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fuse.test_posix import RENAME_EXCHANGE, rename2
from tests.fuse.test_rights_in_commands import COMMANDS, Named
from tests.support.identity import Actor, meanwhile
from tests.support.rights import OWNER, STRANGER, World, command, write


def closed_names(named: Named) -> tuple[str, str]:
    """Return a name that is there in a directory that the stranger may not search, and one that is not."""
    top = named.kind.partition(" ")[0]
    return f"{top}/closed/public", f"{top}/closed/nothing"


@pytest.mark.parametrize("named", COMMANDS, ids=lambda named: f"{named.file} {named.line}")
def test_a_command_says_the_same_of_what_is_there_and_what_is_not(world: World, strange: str, named: Named) -> None:
    assert world.actors(STRANGER)(command, f"{strange}/create_vmo", "vmo/common/mine 4096") == "ZX_OK"
    line = named.line.replace("vmo/d/public", "vmo/common/mine")
    file = f"{world.mount}/control/{named.file.replace('p/', 'strange/')}"
    answers = [
        world.actors(STRANGER)(command, file, line.format(name)).replace(name, "NAME") for name in closed_names(named)
    ]
    assert answers[0] == answers[1]
    assert answers[0].startswith("ZX_ERR_ACCESS_DENIED")


@pytest.mark.parametrize("line", ["{} 0 4096 aux/common/mine 0", "FAIL {} 0 4096 ZX_ERR_IO", "{}", "{} 0 4096"])
def test_a_pager_does_nothing_with_a_file_of_another_one_that_it_may_write(
    world: World, strange: str, line: str
) -> None:
    file = {5: "supply_pages", 6: "op_range", 1: "detach_vmo", 3: "evict"}[len(line.split()) + line.startswith("FAIL")]
    (world.mount / "aux/common").mkdir(mode=0o777, exist_ok=True)
    (world.mount / "aux/common").chmod(0o777)
    stranger = world.actors(STRANGER)
    stranger(write, f"{world.mount}/aux/common/mine", b"x" * 4096)
    try:
        answer = stranger(command, f"{strange}/{file}", line.format("vmo/d/public"))
        assert answer == "ZX_ERR_INVALID_ARGS: the VMO was not made by this pager"
    finally:
        (world.mount / "aux/common/mine").unlink()
        (world.mount / "aux/common").rmdir()


def in_namespace(script: str) -> str:
    """Run a script as root of a user namespace of one's own, and return what it said."""
    arguments = ["unshare", "--user", "--map-root-user", "sh", "-c", script]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_root_of_a_namespace_of_his_own_is_who_he_was(world: World) -> None:
    say = f"exec 3<>{world.mount}/control/vmo_op_range; echo 'zero vmo/d/private 0 4096' >&3; read -r a <&3; echo $a"
    stranger = world.actors(STRANGER)
    if "Operation not permitted" in stranger(in_namespace, "id -u"):
        pytest.skip("users cannot make namespaces here")
    assert stranger(in_namespace, "id -u") == "0\n"
    assert "ZX_ERR_ACCESS_DENIED: no permission to write 'vmo/d/private'" in stranger(in_namespace, say)
    for call in (
        f"cat {world.mount}/control/log",
        f"cat {world.mount}/control/p/stats",
        f"ls {world.mount}/vmo/closed",
    ):
        assert "Permission denied" in stranger(in_namespace, call)
    for call in (f"rmdir {world.mount}/control/p", f"chown 0 {world.mount}/vmo/d/public"):
        assert "not permitted" in stranger(in_namespace, call)


def reopen(path: str) -> None:
    """Open a file as a path only, which needs no right on it, and then that descriptor."""
    place = os.open(path, os.O_PATH)
    try:
        os.close(os.open(f"/proc/self/fd/{place}", os.O_RDWR))
    finally:
        os.close(place)


@pytest.mark.parametrize("name", ["control/p/op_range", "control/p/requests", "control/log", "vmo/d/private"])
def test_a_descriptor_of_a_path_is_no_right_to_open_it(world: World, name: str) -> None:
    assert world.actors(STRANGER).errno(reopen, f"{world.mount}/{name}") == "EACCES"


def send_opened(sender: int, path: str) -> None:
    with socket.socket(fileno=os.dup(sender)) as channel:
        fd = os.open(path, os.O_RDWR)
        socket.send_fds(channel, [b"x"], [fd])
        os.close(fd)


def say(fd: int, line: str) -> str:
    with suppress(OSError):
        os.write(fd, f"{line}\n".encode())
    return os.read(fd, 4096).decode().partition(":")[0].rstrip()


def test_a_descriptor_that_was_handed_on_has_the_rights_of_who_opened_it(world: World) -> None:
    """Nobody can have a more powerful program use his own open file for more than he might do himself."""
    file, line = f"{world.mount}/control/vmo_op_range", "zero vmo/d/private 0 4096"
    ours, theirs = socket.socketpair()
    roots = os.open(file, os.O_RDWR)
    stranger = Actor(STRANGER)
    try:
        stranger(send_opened, theirs.fileno(), file)
        _, (strangers, *_), _, _ = socket.recv_fds(ours, 1, 1)
        assert say(strangers, line) == "ZX_ERR_ACCESS_DENIED"
        assert stranger(say, roots, line) == "ZX_OK"
        os.close(strangers)
    finally:
        stranger.close()
        os.close(roots)
        ours.close()
        theirs.close()


def test_a_name_that_goes_round_never_carries_a_right_from_one_file_to_another(world: World) -> None:
    """While a stranger uses a name over and over, it stands for a file of his, then for one that is closed to him."""
    stranger, owner = world.actors(STRANGER), world.actors(OWNER)
    control, common = world.mount / "control", world.mount / "vmo/common"
    for name, mode in (("open", 0o666), ("shut", 0o600)):
        line = f"vmo/common/{name} 8192 resizable"
        assert owner(command, f"{control}/p/create_vmo", line) == "ZX_OK"
        (common / name).chmod(mode)
    fd = stranger(os.open, f"{control}/vmo_set_stream_size", os.O_RDWR)
    try:
        for _ in range(50):
            assert stranger(say, fd, "vmo/common/open 4096") == "ZX_OK"
            owner(exchange, str(common / "open"), str(common / "shut"))
            assert stranger(say, fd, "vmo/common/open 4096") == "ZX_ERR_ACCESS_DENIED"
            assert stranger(say, fd, "vmo/common/shut 4096") == "ZX_OK"
            owner(exchange, str(common / "open"), str(common / "shut"))
        with meanwhile(owner, exchange_for, str(common / "open"), str(common / "shut"), 1.0):
            answers = {stranger(say, fd, "vmo/common/open 4096") for _ in range(300)}
        assert answers <= {"ZX_OK", "ZX_ERR_ACCESS_DENIED"}
        closed = next(path for path in (common / "open", common / "shut") if path.stat().st_mode & 0o777 == 0o600)
        assert closed.stat().st_size == 8192
    finally:
        stranger(os.close, fd)
        for name in ("open", "shut"):
            (common / name).unlink()


def exchange(one: str, other: str) -> None:
    assert rename2(Path(one), Path(other), RENAME_EXCHANGE) == "ok"


def exchange_for(one: str, other: str, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        exchange(one, other)
