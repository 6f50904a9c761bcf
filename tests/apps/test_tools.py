"""Ordinary programs give through the mount, page by page from the shell pager, what they give of the source."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.apps.conftest import Serve
from tests.apps.serving import bash, python, run

TOOLS = {
    "cat": 'cat "$1"',
    "sha256sum": 'sha256sum <"$1"',
    "tail": 'tail -c 10001 "$1"',
    "head": 'head -c 70001 "$1"',
    "dd": 'dd if="$1" bs=1000 skip=77 count=33 status=none',
    "dd direct": 'dd if="$1" bs=8k skip=5 count=9 iflag=direct status=none',
    "dd direct to the end": 'dd if="$1" bs=1M iflag=direct status=none',
    "grep -c": 'grep -c -a -i licen "$1"',
    "wc": 'wc <"$1"',
    "tar tf": 'tar tf "$1"',
    "tar xO": 'tar xOf "$1"',
    "od": 'od -An -tx8 -j 4000 -N 200 "$1"',
    "split": 'split -b 100000 --filter=sha256sum "$1"',
    "sort": 'LC_ALL=C sort "$1"',
    "gzip": 'gzip -1 -n -c "$1"',
}

MMAP = """
import hashlib, mmap, sys
with open(sys.argv[1], "rb") as file:
    flags = {"shared": mmap.MAP_SHARED, "private": mmap.MAP_PRIVATE}[sys.argv[2]]
    with mmap.mmap(file.fileno(), 0, flags, mmap.PROT_READ) as memory:
        backwards = hashlib.sha256(b"".join(memory[i : i + 4096] for i in range(len(memory) // 4096 * 4096, -1, -4096)))
        print(len(memory), memory.find(b"licen"), backwards.hexdigest())
"""

PRIVATE_WRITE = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    with mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
        memory[10000:10005] = b"mine!"
        sys.stdout.buffer.write(memory[9990:10020])
    file.seek(9990)
    sys.stdout.buffer.write(file.read(30))
"""

SENDFILE = """
import os, sys
source, target = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
while os.sendfile(target, source, None, 100_000):
    pass
"""

SPLICE = """
import os, sys
source, (reader, writer) = os.open(sys.argv[1], os.O_RDONLY), os.pipe()
while count := os.splice(source, writer, 50_000):
    sys.stdout.buffer.write(os.read(reader, count))
"""


@pytest.mark.parametrize("script", TOOLS.values(), ids=TOOLS.keys())
def test_a_tool_gives_of_a_served_file_what_it_gives_of_the_source(serve: Serve, docs_tar: Path, script: str) -> None:
    assert bash(script, serve(docs_tar).path) == bash(script, docs_tar)


def test_cp_copies_a_served_file_of_which_nothing_is_there_yet(serve: Serve, docs_tar: Path, tmp_path: Path) -> None:
    served = serve(docs_tar)
    assert served.path.stat().st_blocks == 1  # cp takes such a file for one with holes
    run("cp", served.path, tmp_path / "copy")
    run("cmp", tmp_path / "copy", docs_tar)


def test_cmp_finds_a_served_file_equal_to_its_source(serve: Serve, docs_tar: Path) -> None:
    run("cmp", serve(docs_tar).path, docs_tar)


def test_cmp_finds_the_byte_in_which_a_served_file_differs(serve: Serve, docs_tar: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copyfile(docs_tar, other)
    with other.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))
    compared = run("cmp", serve(docs_tar).path, other, check=False)
    assert compared.returncode == 1
    assert b" 1000001," in compared.stdout  # "byte", or "char" in the C locale


@pytest.mark.parametrize("kind", ["shared", "private"])
def test_a_mapping_has_what_the_source_has(serve: Serve, docs_tar: Path, kind: str) -> None:
    assert python(MMAP, serve(docs_tar).path, kind) == python(MMAP, docs_tar, kind)


def test_what_is_written_into_a_private_mapping_is_seen_by_nobody_else(serve: Serve, docs_tar: Path) -> None:
    assert python(PRIVATE_WRITE, serve(docs_tar).path) == python(PRIVATE_WRITE, docs_tar)


def test_sendfile_sends_what_the_source_has(serve: Serve, docs_tar: Path, tmp_path: Path) -> None:
    python(SENDFILE, serve(docs_tar).path, tmp_path / "sent")
    run("cmp", tmp_path / "sent", docs_tar)


def test_splice_moves_what_the_source_has(serve: Serve, docs_tar: Path) -> None:
    assert python(SPLICE, serve(docs_tar).path) == docs_tar.read_bytes()


def test_unzip_finds_no_fault_in_a_served_archive(serve: Serve, library_zip: Path) -> None:
    tested = run("unzip", "-tq", serve(library_zip).path)
    assert tested.stdout.startswith(b"No errors detected")


def test_python_imports_modules_from_a_served_zip(serve: Serve, library_zip: Path) -> None:
    archive = serve(library_zip).path
    code = "import sys; sys.path.insert(0, sys.argv[1]); import textwrap, wave; print(textwrap.dedent(wave.__file__))"
    assert python(code, archive) == f"{archive}/wave.py\n".encode()


def test_sqlite_finds_a_served_database_whole(serve: Serve, wide_database: Path) -> None:
    assert wide_database.stat().st_size >= 20 * 2**20
    assert run("sqlite3", "-readonly", serve(wide_database).path, "pragma integrity_check").stdout == b"ok\n"


def test_sqlite_answers_a_query_over_all_rows_of_a_served_database(serve: Serve, wide_database: Path) -> None:
    query = "select count(*), sum(square), max(length(text)) from squares"
    served = run("sqlite3", serve(wide_database).path, query).stdout
    assert served == run("sqlite3", wide_database, query).stdout


def test_numpy_sums_a_served_file_as_a_mapping(serve: Serve, docs_tar: Path) -> None:
    code = "import numpy, sys; print(numpy.memmap(sys.argv[1], '<u2', mode='r').sum(dtype='u8'))"
    assert python(code, serve(docs_tar).path) == python(code, docs_tar)


def test_the_python_interpreter_runs_from_the_mount(serve: Serve, interpreter: Path) -> None:
    program = serve(interpreter, name="python3").path
    program.chmod(0o755)
    code = "import sys, json; print(json.dumps([sys.version, sum(range(1000))]))"
    environment = {"PYTHONHOME": f"{sys.base_prefix}:{sys.base_exec_prefix}"}
    served = run(program, "-c", code, env=environment).stdout
    assert served == run(interpreter, "-c", code, env=environment).stdout
    run("cmp", program, interpreter)


@pytest.mark.parametrize("name", ["ls", "sha256sum", "grep"])
def test_a_program_runs_from_the_mount(serve: Serve, docs_tar: Path, name: str) -> None:
    source = shutil.which(name)
    assert source is not None
    program = serve(Path(source).resolve(), name=name).path
    program.chmod(0o755)
    arguments = {"ls": ["-ld"], "sha256sum": [], "grep": ["-c", "-a", "licen"]}[name]
    assert run(program, *arguments, docs_tar).stdout == run(source, *arguments, docs_tar).stdout


def test_a_program_without_the_permission_to_execute_does_not_run(serve: Serve) -> None:
    program = serve(Path("/bin/true").resolve(), name="true").path
    with pytest.raises(PermissionError):
        run(program)


def test_a_shell_script_runs_from_the_mount(serve: Serve, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('#!/bin/bash\necho "$0 $(($1 * 7))"\n' + "# much more text\n" * 10_000)
    program = serve(script, name="script").path
    program.chmod(0o755)
    assert run(program, "6").stdout == f"{program} 42\n".encode()


def test_many_readers_of_the_same_pages_all_get_them(serve: Serve, docs_tar: Path) -> None:
    served = serve(docs_tar)
    script = 'for n in 1 2 3 4 5 6 7 8; do sha256sum <"$1" & done; wait'
    assert set(bash(script, served.path).splitlines()) == set(bash('sha256sum <"$1"', docs_tar).splitlines())
    assert served.counter("pages_redundant_total") == 0
