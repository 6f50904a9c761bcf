"""A mount per module, files that the example pagers serve in it, and the real files that they serve."""

from __future__ import annotations

import itertools
import os
import sqlite3
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.apps.serving import PAGE, SHELL_PAGER, Served
from tests.support.backed import Backing, backing_in
from tests.support.faulty_server import FaultyServer, faulty_server
from tests.support.mounted import Mounted, Mounter
from tests.support.opened import User, user_in

HERE = Path(__file__).parent
TAR_BYTES = 2 * 2**20
DATABASE_BYTES = 20 * 2**20

Serve = Callable[..., Served]

_NUMBERS = itertools.count()  # so that what the log says of one pager is of one test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    can_mount = os.access("/dev/fuse", os.R_OK | os.W_OK)
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.fuse)
            if not can_mount:
                item.add_marker(pytest.mark.skip(reason="/dev/fuse cannot be used here"))


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """A vmofs, mounted with the default options; checked and taken down after the module."""
    mounter = Mounter(tmp_path_factory.mktemp("apps"))
    try:
        yield mounter()
        mounter.finish()
    finally:
        mounter.clean_up()


@pytest.fixture
def serve(mount: Mounted) -> Iterator[Serve]:
    """A function that has a file served, ``serve(source, name=..., program=...)``; ends it after the test."""
    served: list[Served] = []

    def start(source: Path, name: str = "file", program: Path = SHELL_PAGER) -> Served:
        one = Served(mount, f"pager{next(_NUMBERS)}", name, source, program)
        served.append(one)
        one.start()
        return one

    try:
        yield start
        while served:
            served[-1].stop()
            served.pop()
    finally:
        for one in served:
            if one.process is not None:
                one.kill()


@pytest.fixture
def backed(tmp_path: Path) -> Iterator[Backing]:
    """A function that has what is in ``tmp_path/real`` served by now."""
    with backing_in(tmp_path) as backing:
        yield backing


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """A user with a runtime directory; nothing of what was opened may be left after the test."""
    with user_in(tmp_path) as user:
        yield user


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    """A web server that can be told how to misbehave."""
    with faulty_server() as server:
        yield server


@pytest.fixture(scope="session")
def interpreter() -> Path:
    """The program that runs these tests."""
    return Path(sys.executable).resolve()


@pytest.fixture(scope="session")
def library_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The running Python's standard library, without its tests, as a zip."""
    path = tmp_path_factory.mktemp("zip") / "library.zip"
    library = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "lib2to3", "ensurepip"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for source in sorted(library.rglob("*.py")):
            name = source.relative_to(library)
            if not left_out.intersection(name.parts):
                archive.write(source, name)
    return path


@pytest.fixture(scope="session")
def docs_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some MB of /usr/share/doc, in the order of the names; where that is empty, of the standard library."""
    path = tmp_path_factory.mktemp("tar") / "doc.tar"
    with tarfile.open(path, "w") as archive:
        for top in (Path("/usr/share/doc"), Path(sysconfig.get_path("stdlib"))):
            for source in sorted(top.rglob("*")):
                if path.stat().st_size > TAR_BYTES:
                    return path
                if source.is_file() and not source.is_symlink():
                    archive.add(source, str(source).lstrip("/"))
    return path


def make_database(path: Path, page_size: int) -> Path:
    """Fill a database: 32-bit numbers squared and a text, until it has 20 MB."""
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA page_size = {page_size}")
        connection.execute("CREATE TABLE squares (number INTEGER PRIMARY KEY, square INTEGER, text TEXT)")
        rows = ((number, number * number, f"{number} " * 40) for number in itertools.count(1))
        while path.stat().st_size < DATABASE_BYTES:
            connection.executemany("INSERT INTO squares VALUES (?, ?, ?)", itertools.islice(rows, 10_000))
            connection.commit()
    connection.close()
    return path


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database of 20 MB, with pages as large as those of a VMO."""
    return make_database(tmp_path_factory.mktemp("database") / "squares.db", PAGE)


@pytest.fixture(scope="session")
def wide_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with pages of 64 KiB, for what reads all of it."""
    return make_database(tmp_path_factory.mktemp("database") / "wide.db", 65536)
