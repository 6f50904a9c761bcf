"""A page that nobody touches is not requested: the requests are compared with the pages that the access must touch."""

from __future__ import annotations

import json
from pathlib import Path

from tests.apps.conftest import Serve
from tests.apps.serving import PAGE, bash, pages_of, python, run

MEMMAP = "import numpy, sys; print(numpy.memmap(sys.argv[1], 'u1', mode='r')[int(sys.argv[2])])"

MMAP = """
import mmap, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
    print([memory[int(offset)] for offset in sys.argv[2:]])
"""

PREAD = "import os, sys; print(os.pread(os.open(sys.argv[1], os.O_RDONLY), int(sys.argv[3]), int(sys.argv[2])))"


def test_tail_asks_for_the_last_pages_only(serve: Serve, docs_tar: Path) -> None:
    served = serve(docs_tar)
    size = docs_tar.stat().st_size
    for length in (1, 10_001):
        assert bash('tail -c "$2" "$1"', served.path, str(length)) == docs_tar.read_bytes()[-length:]
    assert served.pages_requested() == [*pages_of(size - 1, 1), *sorted(pages_of(size - 10_001, 10_001))[:-1]]


def test_dd_skip_asks_for_the_pages_behind_what_it_skips(serve: Serve, docs_tar: Path) -> None:
    served = serve(docs_tar)
    data = bash('dd if="$1" bs=512 skip=1003 count=1 status=none', served.path)
    assert data == docs_tar.read_bytes()[512 * 1003 : 512 * 1004]
    assert served.pages_requested() == sorted(pages_of(512 * 1003, 512))


def test_a_read_across_a_page_boundary_asks_for_both_pages(serve: Serve, docs_tar: Path) -> None:
    served = serve(docs_tar)
    offset = 100 * PAGE - 5
    assert python(PREAD, served.path, str(offset), "10") == python(PREAD, docs_tar, str(offset), "10")
    assert served.pages_requested() == [99, 100]


def test_one_element_of_a_numpy_memmap_asks_for_its_page(serve: Serve, docs_tar: Path) -> None:
    served = serve(docs_tar)
    assert python(MEMMAP, served.path, "1234567") == python(MEMMAP, docs_tar, "1234567")
    assert served.pages_requested() == [1234567 // PAGE]


def test_scattered_bytes_of_a_mapping_ask_for_their_pages_in_turn(serve: Serve, docs_tar: Path) -> None:
    served = serve(docs_tar)
    pages = [300, 7, 8, 299, 120]
    offsets = [str(page * PAGE + page) for page in pages]
    assert python(MMAP, served.path, *offsets) == python(MMAP, docs_tar, *offsets)
    assert served.pages_requested() == pages


def test_a_page_that_was_read_once_is_not_asked_for_again(serve: Serve, docs_tar: Path) -> None:
    served = serve(docs_tar)
    for script in (
        'dd if="$1" bs=4k skip=9 count=1 status=none',
        'dd if="$1" bs=4k skip=9 count=1 iflag=direct status=none',
    ):
        assert bash(script, served.path) == docs_tar.read_bytes()[9 * PAGE : 10 * PAGE]
    assert served.pages_requested() == [9]


def test_a_query_for_one_row_asks_for_the_pages_on_the_way_to_it(serve: Serve, database: Path) -> None:
    served = serve(database)
    query = "select square from squares where number = 54321"
    found = run("sqlite3", f"file:{served.path}?mode=ro", query).stdout
    assert found == f"{54321**2}\n".encode()
    assert sorted(set(served.pages_requested())) == sorted(pages_to_row(database, 54321))
    assert len(served.pages_requested()) == len(set(served.pages_requested()))


def pages_to_row(database: Path, number: int) -> set[int]:
    """Return the pages of the file's header and of the tree from its root to the leaf that holds a row.

    SQLite counts its pages from 1, and gives each a path: that of a leaf begins with those of its ancestors.
    """
    query = "select path, pageno, pagetype, ncell from dbstat where name = 'squares' order by path"
    pages = json.loads(run("sqlite3", "-json", database, query).stdout)
    first = 1
    for page in pages:
        if page["pagetype"] == "leaf":
            if first <= number < first + page["ncell"]:
                break
            first += page["ncell"]
    return {0} | {other["pageno"] - 1 for other in pages if page["path"].startswith(other["path"])}


def test_listing_an_archive_leaves_the_files_in_it_alone(serve: Serve, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).write_bytes(name.encode() * 500_000)
    archive = tmp_path / "large.tar"
    run("tar", "cf", archive, "-C", tmp_path, "one", "two", "three")
    served = serve(archive)
    assert run("tar", "tf", served.path).stdout == b"one\ntwo\nthree\n"
    assert len(served.pages_requested()) < archive.stat().st_size // PAGE // 20


def test_a_program_that_runs_from_the_mount_asks_for_less_than_all_of_it(serve: Serve) -> None:
    source = Path("/usr/bin/bash").resolve()
    program = serve(source, name="bash")
    program.path.chmod(0o755)
    assert run(program.path, "-c", "echo $((6 * 7))").stdout == b"42\n"
    assert 0 < len(program.pages_requested()) < source.stat().st_size // PAGE


def test_looking_at_a_file_asks_for_nothing(serve: Serve, docs_tar: Path) -> None:
    served = serve(docs_tar)
    bash('ls -l "$1"; stat "$1"; test -s "$1"; exec 3<"$1"; find "$1" -size +1k; du "$1"', served.path)
    assert served.pages_requested() == []
