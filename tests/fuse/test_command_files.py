"""Command files as files: lines and short writes, answers, redirections of a shell; and what ``control/log`` keeps."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable

import pytest

from tests.support.mounted import Mounted
from tests.support.opening import opened
from tests.support.pager_client import PagerClient
from tests.support.shell import bash
from vmofs.units import PAGE_SIZE
from vmofs.wire.commands import USAGE, CommandKind

PAGER_COMMANDS = (CommandKind.CREATE_VMO, CommandKind.SUPPLY_PAGES, CommandKind.DETACH_VMO, CommandKind.OP_RANGE)


def errno_of(function: Callable[[], object]) -> int:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the caller looks at the errno
        function()
    return caught.value.errno or 0


def test_several_lines_in_one_write_are_carried_out_in_order(pager: PagerClient) -> None:
    text = f"vmo/{pager.name}/a 4K\n# a comment\n\n \t \n  # another\n"
    text += f"vmo/{pager.name}/b 8K\nvmo/{pager.name}/c 12K"
    with opened(pager.control / "create_vmo", os.O_RDWR) as fd:
        assert os.write(fd, text.encode()) == len(text)
        assert os.read(fd, 100) == b"ZX_OK\n"
    assert [pager.vmo(name).path.stat().st_size // 1024 for name in "abc"] == [4, 8, 12]


def test_a_write_is_short_at_the_first_line_that_fails_and_the_rest_tells_why(pager: PagerClient) -> None:
    good = f"# first\nvmo/{pager.name}/a 4K\n\n".encode()
    bad = f"vmo/{pager.name}/a 4K\nvmo/{pager.name}/b 4K\n".encode()
    with opened(pager.control / "create_vmo", os.O_RDWR) as fd:
        assert os.write(fd, good + bad) == len(good)
        assert os.read(fd, 200) == f"ZX_ERR_ALREADY_EXISTS: 'vmo/{pager.name}/a' exists\n".encode()
        assert errno_of(lambda: os.write(fd, bad)) == errno.EEXIST
        assert not pager.vmo("b").path.exists()


@pytest.mark.parametrize("text", [b"", b"\n", b"# nothing\n", b"  \t\n\n#", b"\n\n\n"])
def test_a_write_without_a_command_is_taken(pager: PagerClient, text: bytes) -> None:
    with opened(pager.control / "create_vmo", os.O_RDWR) as fd:
        assert os.write(fd, text) == len(text)


BAD_BYTES = {
    "not UTF-8": b"vmo/x\xff 4K\n",
    "NUL": b"vmo/x\0 4K\n",
    "too long": b"#" + b"x" * 65536 + b"\n",
    "too long, no newline": b"x" * 65537,
}


@pytest.mark.parametrize("bad", BAD_BYTES.values(), ids=BAD_BYTES.keys())
def test_text_that_is_no_text_is_refused_as_a_whole(pager: PagerClient, bad: bytes) -> None:
    good = f"vmo/{pager.name}/a 4K\n".encode()
    with opened(pager.control / "create_vmo", os.O_RDWR) as fd:
        assert errno_of(lambda: os.write(fd, good + bad)) == errno.EINVAL
        assert re.match(
            rb"ZX_ERR_INVALID_ARGS: line 2 (is \d+ bytes long|is not UTF-8 at|has a NUL at)", os.read(fd, 200)
        )
    assert not pager.vmo("a").path.exists()


def test_the_longest_line_is_taken(pager: PagerClient) -> None:
    line = f"vmo/{pager.name}/a 4K".encode()
    padded = line + b" " * (65536 - len(line)) + b"\n"
    with opened(pager.control / "create_vmo", os.O_RDWR) as fd:
        assert os.write(fd, padded) == len(padded)
        assert os.write(fd, b"#" * 65536) == 65536
    assert pager.vmo("a").path.exists()


def test_writes_of_megabytes_are_carried_out_to_the_last_line(pager: PagerClient) -> None:
    vmo = pager.create()
    line = f"FAIL {vmo.name} 0 4K IO".encode()
    text = (line + b" " * (4000 - len(line)) + b"\n") * 700 + f"FAIL {vmo.name} 1 4K IO\n".encode()
    done = 0
    with opened(pager.control / "op_range", os.O_RDWR) as fd:
        with pytest.raises(OSError, match="Invalid argument"):  # noqa: PT012 - the last of several writes
            while done < len(text):
                done += os.write(fd, text[done:])
        assert text[done:] == text[700 * 4001 :]
    assert pager.stat("fail_calls_total") == 700


def test_an_answer_is_a_stream_that_each_command_begins_anew(pager: PagerClient) -> None:
    vmo = pager.create()
    with opened(pager.control / "op_range", os.O_RDWR) as fd:
        assert os.read(fd, 100) == b""
        os.write(fd, f"FAIL {vmo.name} 0 0 IO\n".encode())
        assert [os.read(fd, 2), os.read(fd, 2), os.read(fd, 9), os.read(fd, 9)] == [b"ZX", b"_O", b"K\n", b""]
        assert errno_of(lambda: os.write(fd, f"FAIL {vmo.name} 0 1 IO\n".encode())) == errno.EINVAL
        assert os.read(fd, 6) == b"ZX_ERR"
        os.write(fd, f"FAIL {vmo.name} 0 4K IO\n".encode())
        assert os.read(fd, 100) == b"ZX_OK\n"
        assert os.read(fd, 100) == b""


def test_answers_belong_to_the_open_file(pager: PagerClient) -> None:
    vmo = pager.create()
    with (
        opened(pager.control / "op_range", os.O_RDWR) as first,
        opened(pager.control / "op_range", os.O_RDWR) as second,
    ):
        os.write(first, f"FAIL {vmo.name} 0 0 IO\n".encode())
        assert errno_of(lambda: os.write(second, b"nonsense\n")) == errno.EINVAL
        assert os.read(first, 100) == b"ZX_OK\n"
        assert os.read(second, 100).startswith(b"ZX_ERR_INVALID_ARGS: ")


def test_command_files_are_not_seekable(pager: PagerClient) -> None:
    with opened(pager.control / "create_vmo", os.O_RDWR) as fd:
        assert errno_of(lambda: os.lseek(fd, 0, os.SEEK_SET)) == errno.ESPIPE
        assert errno_of(lambda: os.pread(fd, 10, 0)) == errno.ESPIPE
        assert errno_of(lambda: os.pwrite(fd, b"\n", 0)) == errno.ESPIPE
        assert errno_of(lambda: os.ftruncate(fd, 1)) == errno.EINVAL


@pytest.mark.parametrize("kind", PAGER_COMMANDS)
def test_reading_without_writing_gives_the_usage(pager: PagerClient, kind: CommandKind) -> None:
    assert (pager.control / kind.value).read_text() == USAGE[kind]
    assert bash('cat "control/$1/$2"', pager.name, kind.value, cwd=pager.mount).stdout == USAGE[kind]
    with opened(pager.control / kind.value, os.O_RDONLY) as fd:
        assert errno_of(lambda: os.write(fd, b"\n")) == errno.EBADF
    with opened(pager.control / kind.value, os.O_WRONLY) as fd:
        assert errno_of(lambda: os.read(fd, 1)) == errno.EBADF


SHELL = r"""
set -e
cd "control/$1"
echo "vmo/$1/a 4K" > create_vmo
echo "vmo/$1/b 4K" >> create_vmo
: > create_vmo
printf '%s\n' "vmo/$1/c 4K" "vmo/$1/d 4K" > create_vmo
cat > create_vmo << END
# with a comment
vmo/$1/e 4K
END
printf 'vmo/%s/f 4K' "$1" > create_vmo
printf 'vmo/%s/g 4K\n' "$1" | tee create_vmo > /dev/null
printf 'vmo/%s/h 4K\n' "$1" | dd of=create_vmo status=none
printf 'vmo/%s/i 4K\n' "$1" > "/tmp/command.$$"
cp "/tmp/command.$$" create_vmo
rm "/tmp/command.$$"
exec 3<> create_vmo
echo "vmo/$1/j 4K" >&3
read -r result <&3
echo "$result"
echo "vmo/$1/k nonsense" >&3 2> /dev/null || echo failed
read -r result <&3
echo "$result"
echo "vmo/$1/l 4K" >&3
read -r result <&3
echo "$result"
"""


def test_all_redirections_of_a_shell_work(pager: PagerClient) -> None:
    done = bash(SHELL, pager.name, cwd=pager.mount)
    assert done.stdout.splitlines() == [
        "ZX_OK",
        "failed",
        "ZX_ERR_INVALID_ARGS: SIZE 'nonsense' is not a number",
        "ZX_OK",
    ], done
    assert {path.name for path in pager.vmo("a").path.parent.iterdir()} == set("abcdefghijl")


def test_names_of_any_kind_pass_in_both_directions(pager: PagerClient) -> None:
    names = ["blank in it", "new\nline", "tab\t", "back\\slash", "\\040", "ünïcödé-日本語-🙂", "*?[]$`'\"", " ", "#"]
    for name in names:
        vmo = pager.create(name)
        assert vmo.path.stat().st_size == PAGE_SIZE
        vmo.path.unlink()
        request = pager.requests.next()
        assert request.path == f"vmo/{pager.name}/{name}"


READ_LOOP = r"""
while read -r cmd key offset length vmo; do
    test "$cmd" = READ || continue
    printf "%s" "$vmo" > "aux/$1/stage"
    truncate -s "$length" "aux/$1/stage"
    echo "$vmo $offset $length aux/$1/stage 0" > "control/$1/supply_pages"
    break
done < "control/$1/requests"
"""


def test_a_script_that_hands_on_what_it_read_is_right_for_every_name(pager: PagerClient) -> None:
    for name in ("blank in it", "new\nline", "tab\t", "back\\slash", "\\040", "ünïcödé"):
        vmo = pager.create(name)
        done = bash(f'cat "$2" > /dev/null & {READ_LOOP} wait', pager.name, vmo.path, cwd=pager.mount)
        assert (done.returncode, done.stderr) == (0, "")
        assert vmo.path.read_bytes().rstrip(b"\0").decode() == vmo.name


def test_the_log_has_every_command_and_its_result(shared_mount: Mounted, pager: PagerClient) -> None:
    vmo = pager.create()
    pager.refused("op_range", f"FAIL {vmo.name} 1 4K IO")
    lines = (shared_mount.path / "control" / "log").read_text().splitlines()
    mine = [line for line in lines if f"control/{pager.name}/" in line]
    uid = os.geteuid()
    assert re.fullmatch(
        rf"\d+\.\d{{6}} command uid={uid} control/{pager.name}/create_vmo {vmo.name} 4096 -> ZX_OK", mine[0]
    )
    assert mine[1].endswith(
        f"control/{pager.name}/op_range FAIL {vmo.name} 1 4K IO -> ZX_ERR_INVALID_ARGS: offset 1 is not page aligned"
    )


def test_the_log_is_bounded_and_a_line_stays_a_line(shared_mount: Mounted, pager: PagerClient) -> None:
    with opened(pager.control / "op_range", os.O_RDWR) as fd:
        for number in range(1500):
            line = b"FAIL vmo/%d\x1b[31m\r 0 4K IO\n" % number
            assert errno_of(lambda line=line: os.write(fd, line)) == errno.ENOENT  # type: ignore[misc]
    log = (shared_mount.path / "control" / "log").read_text()
    assert log.count("\n") == 1000
    assert "\x1b" not in log
    assert "\r" not in log
