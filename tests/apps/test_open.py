"""Files of URLs, through a mount: right bytes, only those that were touched, and an end that leaves nothing."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

from tests.apps.test_readme_tour import blocks
from tests.pagers.test_packed import seekable_zstd, xz_of_blocks
from tests.support.faulty_server import OLD, SIZE, FaultyServer
from tests.support.mounted import vmofs_command
from tests.support.opened import User, wait_until
from tests.support.sources import mixed_bytes, tar_of, zip_of
from vmofs.testing import pattern
from vmofs_mount.linux.procfs import has_ended

pytestmark = pytest.mark.fuse

PAGE = 4096
DATA = mixed_bytes(1_200_001)
MEMBERS = {"other": bytes(300_000), "a/data": DATA}


KINDS: dict[str, tuple[bytes, list[str]]] = {
    "raw": (DATA, []),
    "gz": (gzip.compress(DATA, 1), ["--as", "gz"]),
    "zst": (seekable_zstd(DATA), ["--as", "zst"]),
    "xz": (xz_of_blocks(DATA), ["--as", "xz"]),
    "zip": (zip_of(MEMBERS), ["--member", "a/data"]),
    "stored": (zip_of(MEMBERS, zipfile.ZIP_STORED), ["--member", "a/data"]),
    "tar": (tar_of(MEMBERS), ["--member", "a/data"]),
    "tgz": (gzip.compress(tar_of(MEMBERS), 1), ["--as", "gz", "--member", "a/data"]),
}


def test_what_a_web_server_has_is_a_file_packed_or_not(user: User, server: FaultyServer) -> None:
    for kind, (content, flags) in KINDS.items():  # in one mount: making it takes longer than all of them
        server.content = content
        path = user.open(server.url(f"data.{kind}"), *flags)
        assert path.read_bytes() == DATA, kind
        assert path.is_relative_to(user.mount / "vmo/127.0.0.1")


def test_what_an_object_store_has_is_a_file(user: User, server: FaultyServer) -> None:
    path = user.open("s3://bucket/a/data", "--anonymous", "--endpoint", f"http://127.0.0.1:{server.port}")
    pattern.check(path.read_bytes(), OLD)
    assert path == user.mount / "vmo/bucket/data"


def test_what_is_local_or_made_by_a_command_is_a_file(user: User) -> None:
    (user.folder / "data").write_bytes(DATA)
    assert user.open("data").read_bytes() == DATA
    link = user.folder / "link"
    assert user.open(f"local://{user.folder}/data", link).read_bytes() == DATA
    command = f"tail -c +$((OFFSET + 1)) '{user.folder}/data' | head -c $LENGTH"
    path = user.open("--exec", command, "--size", str(len(DATA)), "--name", "made")
    assert path.read_bytes() == DATA


def test_files_of_one_name_are_kept_apart(user: User, server: FaultyServer) -> None:
    paths = [user.open(server.url(f"{folder}/data"), "--cluster", size) for folder in "ab" for size in ("4K", "8K")]
    assert len({*paths}) == 2, "the same URL is the same file"
    assert {path.name for path in paths} == {"data"}
    for path in {*paths}:
        pattern.check(path.read_bytes(), OLD)


def test_only_what_was_touched_is_fetched(user: User, server: FaultyServer) -> None:
    path = user.open(server.url())
    with path.open("rb", buffering=0) as file:
        pattern.check(os.pread(file.fileno(), PAGE, 150 * PAGE), OLD, 150 * PAGE)
    assert server.sent <= 1 + (128 << 10)
    (file_of,) = user.listed()
    assert PAGE <= int(str(file_of["present"])) <= 128 << 10
    assert (file_of["size"], file_of["state"], file_of["source"]) == (SIZE, "ok", server.url())


def test_a_tree_is_a_directory_of_files(user: User) -> None:
    folder = user.folder / "tree"
    (folder / "a").mkdir(parents=True)
    (folder / "a/data").write_bytes(DATA)
    (folder / "b").write_bytes(b"b")
    (user.folder / "x.zip").write_bytes(zip_of(MEMBERS))
    paths = user.run("open", f"file://{folder}/", user.folder / "link").stdout.split()
    assert paths == [f"{user.folder}/link/b", f"{user.folder}/link/a/data"]
    assert (user.folder / "link/a/data").read_bytes() == DATA
    user.run("open", "--tree", "x.zip")
    assert (user.mount / "vmo/local/x.zip/a/data").read_bytes() == DATA
    user.run("close", user.folder / "link")
    assert not (user.folder / "link").is_symlink()
    assert len(user.listed()) == 2


def test_opening_again_gives_the_same_file(user: User, server: FaultyServer) -> None:
    first = user.open(server.url())
    count = server.count
    assert user.open(server.url()) == first
    assert server.count == count
    assert len(user.openers()) == 1


def test_a_file_has_a_link_where_the_user_wants_it(user: User, server: FaultyServer) -> None:
    link = user.folder / "here"
    assert user.open(server.url(), link) == link
    pattern.check(link.read_bytes(), OLD)
    user.run("open", server.url("other"), link, code=2)
    user.run("close", link)
    assert not link.is_symlink()
    inside = user.mount / "vmo/x/named"
    assert not user.is_mounted()
    user.open(server.url())
    assert user.open(server.url(), inside) == inside
    pattern.check(inside.read_bytes(), OLD)


def test_a_file_that_somebody_closes_twice_is_not_open(user: User, server: FaultyServer) -> None:
    path = user.open(server.url())
    (number,) = user.openers()
    user.run("close", path)
    assert "is not open" in user.run("close", path, code=4).stderr
    assert has_ended(number)


def test_a_url_that_cannot_be_opened_ends_with_the_code_of_its_kind(user: User, server: FaultyServer) -> None:
    user.open("pattern:4096")  # so that the mount need not be made each time
    for fault, code in [("404", 4), ("403", 6), ("503", 5), ("no ranges", 7), ("418", 1)]:
        server.fault = fault
        assert server.url() in user.run("open", server.url(), code=code).stderr


def test_a_mount_that_was_made_for_nothing_goes(user: User) -> None:
    user.run("open", "file:///nowhere", code=4)
    assert not user.is_mounted()


def test_wrong_usage_is_code_2(user: User) -> None:
    for arguments in (["open"], ["open", "--exec", "x"], ["open", "--cluster", "5000", "x"], ["run", "x"]):
        user.run(*arguments, code=2)


def test_flags_come_from_the_command_line_a_file_and_the_environment(user: User, server: FaultyServer) -> None:
    server.content = KINDS["zip"][0]
    config = user.folder / "config"
    config.write_text("# what is in it\nmember = a/data\nahead = 0\n")
    result = user.run("open", "--config", config, server.url(), VMOFS_MEMBER="none", VMOFS_SOFT="yes")
    assert Path(result.stdout.strip()).read_bytes() == DATA
    user.run("open", server.url(), code=4, VMOFS_MEMBER="none")
    assert (
        "'members' is no flag" in user.run("open", server.url(), "--config", "bad", code=2).stderr
        if ((user.folder / "bad").write_text("members = x"))
        else False
    )


def test_an_object_that_was_replaced_is_an_error_and_never_mixed(user: User, server: FaultyServer) -> None:
    path = user.open(server.url(), "--cluster", "4K", "--ahead", "0")
    with path.open("rb", buffering=0) as file:
        pattern.check(os.pread(file.fileno(), PAGE, 0), OLD)
        server.fault = "replaced"
        for page in (100, 101, 200):
            with pytest.raises(OSError, match="Bad message"):
                os.pread(file.fileno(), PAGE, page * PAGE)
        pattern.check(os.pread(file.fileno(), PAGE, 0), OLD)
    for _ in wait_until("the failure is listed"):
        (listed,) = user.listed()
        if listed["failures"]:
            break
    assert "is now" in str(listed["last_failure"]) or "another version" in str(listed["last_failure"])


def test_an_opener_that_was_killed_is_replaced_by_the_next_open(user: User, server: FaultyServer) -> None:
    path = user.open(server.url(), "--cluster", "4K", "--ahead", "0")
    with path.open("rb", buffering=0) as file:
        pattern.check(os.pread(file.fileno(), PAGE, 0), OLD)
        (number,) = user.openers()
        os.kill(number, signal.SIGKILL)
        for _ in wait_until("it is dead"):
            if user.listed()[0]["state"] == "dead":
                break
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(os.pread(file.fileno(), PAGE, 50 * PAGE)), daemon=True)
        reader.start()
        assert user.open(server.url(), "--cluster", "4K", "--ahead", "0") == path
        reader.join(20)
        pattern.check(found[0], OLD, 50 * PAGE)
        pattern.check(os.pread(file.fileno(), PAGE, 0), OLD)
    assert user.openers() != [number]


def test_a_second_run_has_everything_from_the_cache(user: User, server: FaultyServer) -> None:
    for _ in range(2):
        before = server.count
        user.run("run", "--cache", user.folder / "cache", server.url(), "--", "cmp", "{}", "{}")
    assert server.count - before == 1


def test_what_is_prefetched_is_there_and_can_be_checked(user: User, server: FaultyServer) -> None:
    path = user.open(server.url(), "--ahead", "0")
    user.run("prefetch", path, "--range", "0-256K")
    assert 256 << 10 <= int(str(user.listed()[0]["present"])) < SIZE
    assert "wrong\n" in user.run("check", path).stdout
    user.run("prefetch", path)
    assert user.listed()[0]["present"] == SIZE
    assert f"{SIZE} bytes compared, 0 wrong" in user.run("check", path).stdout
    server.fault = "replaced"
    assert "is now" in user.run("check", path, code=8).stderr


def test_ls_is_a_table_for_people(user: User, server: FaultyServer) -> None:
    path = user.open(server.url())
    head, line = user.run("ls").stdout.splitlines()
    assert head.split() == ["PATH", "SIZE", "PRESENT", "FAILED", "STATE", "SOURCE"]
    assert line.split()[0] == str(path)
    assert line.split()[-1] == server.url()
    assert json.loads(user.run("open", "--json", server.url()).stdout)[0]["size"] == SIZE


def test_a_pager_of_the_users_own_is_served(user: User) -> None:
    (shown,) = blocks("python mine.py")  # of README
    (user.folder / "mine.py").write_text(shown)
    user.run("serve", "mine:Squares", user.mount, code=3)
    user.open("pattern:4096")  # it makes the mount
    for wrong in ("mine:Nothing", "nothing:Squares", "mine", "mine:Object"):
        user.run("serve", wrong, user.mount, code=2)
    with subprocess.Popen(
        vmofs_command("serve", "mine:Squares", str(user.mount)), env=user.environment, cwd=user.folder, stderr=-1
    ) as serving:
        assert serving.stderr is not None
        assert b"Squares serves" in serving.stderr.readline()
        data = (user.mount / "vmo/squares").read_bytes()
        serving.send_signal(signal.SIGINT)
    assert data == bytes(n * n % 251 for n in range(1_000_000))
    (user.mount / "vmo/squares").unlink()
    (user.mount / "control/squares").rmdir()
