"""The example pagers do what they say: they serve, they come back after a death, they hand errors on, they end."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.apps.conftest import Serve
from tests.apps.serving import PAGE, PYTHON_PAGER, SHELL_PAGER, bash, run
from tests.support.mounted import END_SECONDS, Mounted, wait_for
from tests.support.pager_client import Background

BOTH = pytest.mark.parametrize("program", [SHELL_PAGER, PYTHON_PAGER], ids=["shell", "python"])


@BOTH
def test_it_serves_a_file(serve: Serve, program: Path, library_zip: Path) -> None:
    served = serve(library_zip, program=program)
    assert bash('sha256sum <"$1"', served.path) == bash('sha256sum <"$1"', library_zip)
    assert served.counter("request_lines_total") == served.counter("supply_calls_total") > 0


@BOTH
@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1])
def test_it_serves_a_file_of_any_size(serve: Serve, program: Path, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    assert serve(source, program=program).path.read_bytes() == source.read_bytes()


@BOTH
def test_an_empty_file_needs_no_page(serve: Serve, program: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.touch()
    served = serve(source, program=program)
    assert served.path.read_bytes() == b""
    assert served.pages_requested() == []


@BOTH
def test_it_serves_a_file_of_any_name(serve: Serve, program: Path, tmp_path: Path) -> None:
    source = tmp_path / "two words"
    source.write_bytes(os.urandom(3 * PAGE))
    served = serve(source, name="a b\tc\\040 d\ne *ö$(x)'\"", program=program)
    assert served.path.read_bytes() == source.read_bytes()


@BOTH
def test_killed_and_started_again_it_answers_who_waited(serve: Serve, program: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(5 * PAGE))
    served = serve(source, program=program)
    assert served.path.read_bytes() == source.read_bytes()
    (served.control / "evict").write_text(f"vmo/{served.name} 0 {5 * PAGE}\n")
    served.kill()
    reader = subprocess.Popen(["cat", served.path], stdout=subprocess.PIPE)
    wait_for(lambda: (served.control / "pending").read_text() != "", "the reader's request")
    served.start()
    data, _ = reader.communicate(timeout=END_SECONDS)
    assert data == source.read_bytes()


@BOTH
def test_what_it_cannot_read_is_an_error_and_not_zeros(serve: Serve, program: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    content = os.urandom(100 * PAGE)
    source.write_bytes(content)
    served = serve(source, program=program)
    source.write_bytes(content[: 50 * PAGE])
    with served.path.open("rb", buffering=0) as file:
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            os.pread(file.fileno(), PAGE, 70 * PAGE)
        assert os.pread(file.fileno(), PAGE, 40 * PAGE) == content[40 * PAGE : 41 * PAGE]
        source.write_bytes(content)
        assert os.pread(file.fileno(), PAGE, 70 * PAGE) == content[70 * PAGE : 71 * PAGE]
    if served.process is not None:
        served.kill()  # the shell pager has complained, as it should


@BOTH
def test_it_ends_when_its_pager_is_closed_and_leaves_what_is_there_readable(
    serve: Serve, program: Path, docs_tar: Path
) -> None:
    served = serve(docs_tar, program=program)
    content = served.path.read_bytes()
    served.control.rmdir()
    served.wait_ended()
    assert served.path.read_bytes() == content
    served.path.unlink()


@BOTH
def test_it_refuses_a_source_that_is_not_there(mount: Mounted, program: Path, tmp_path: Path) -> None:
    interpreter = [sys.executable] if program == PYTHON_PAGER else []
    done = run(*interpreter, program, mount.path, "refused", tmp_path / "missing", "missing", check=False)
    assert done.returncode != 0
    assert not (mount.path / "vmo" / "missing").exists()


def test_the_shell_pager_says_how_it_is_called(mount: Mounted) -> None:
    done = run(SHELL_PAGER, mount.path, "called", "source", check=False)
    assert done.returncode == 1
    assert done.stderr.decode().endswith(": usage: pager.sh MOUNT PAGER SOURCE NAME\n")
    assert done.stderr.count(b"\n") == 1
    assert not (mount.path / "control" / "called").exists()


def test_the_shell_pager_does_not_serve_the_file_of_another_pager(serve: Serve, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    served = serve(source)
    done = run(SHELL_PAGER, served.mount.path, "stranger", source, served.name, check=False)
    assert done.returncode == 1
    assert "File exists" in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    (served.mount.path / "control" / "stranger").rmdir()


def test_the_shell_pager_has_ten_lines() -> None:
    lines = [line for line in SHELL_PAGER.read_text().splitlines() if line and not line.lstrip().startswith("#")]
    assert len(lines) <= 10


def test_a_program_that_is_just_opening_the_fifo_of_a_pager_that_is_closed_sees_its_end(mount: Mounted) -> None:
    for number in range(10):
        pager = mount.path / "control" / f"closed{number}"
        pager.mkdir()
        opening = subprocess.Popen(["bash", "-c", 'read -r line <"$1" 2>/dev/null; exit 0', "bash", pager / "requests"])
        pager.rmdir()
        assert opening.wait(END_SECONDS) == 0


def test_requests_that_are_there_together_are_answered_by_one_write(serve: Serve, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(40 * PAGE + 7))
    served = serve(source, program=PYTHON_PAGER)
    served.kill()
    with served.path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        offsets = [page * PAGE for page in range(0, 41, 4)]
        readers = [Background(partial(os.pread, file.fileno(), PAGE, offset)) for offset in offsets]
        wait_for(lambda: served.counter("requests_outstanding") == len(offsets), "all wait")
        served.start()
        for reader, offset in zip(readers, offsets, strict=True):
            assert reader.result() == source.read_bytes()[offset : offset + PAGE]
    log = (served.control.parent / "log").read_text()
    assert log.count(f"control/{served.control.name}/supply_pages ") < len(offsets) / 2
