"""The recipes of ``tools/examples`` and of README, with a web server: right answers, and few of the bytes."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.apps.test_readme_tour import MARK, tour
from tests.support.faulty_server import FaultyServer
from tests.support.mounted import ROOT
from tests.support.opened import User

pytestmark = pytest.mark.fuse

EXAMPLES = ROOT / "tools/examples"


@pytest.fixture
def user(user: User) -> User:
    user.environment["PATH"] = f"{Path(sys.executable).parent}:{EXAMPLES}:{os.environ['PATH']}"
    return user


def run(user: User, *command: str | Path) -> str:
    """Run a command and return what it prints."""
    return subprocess.run(command, env=user.environment, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_query_reads_few_pages_of_a_database(user: User, server: FaultyServer) -> None:
    path = user.folder / "db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE t (key INTEGER PRIMARY KEY, name TEXT, pad TEXT)")
        rows = ((n, f"name{n * 7919 % 40009}", "x" * 200) for n in range(40_000))
        database.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
        database.execute("CREATE INDEX i ON t (name)")
    database.close()
    server.content = path.read_bytes()
    query = "SELECT key, name FROM t WHERE name = 'name12345'"
    expected = run(user, "sqlite3", path, query)
    assert run(user, "sqlite_query.sh", server.url("db"), query) == expected
    assert server.sent < len(server.content) / 6


def test_a_slice_of_a_tensor_reads_few_pages_of_a_model(user: User, server: FaultyServer) -> None:
    count = 1_000_000
    header = json.dumps({"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    server.content = struct.pack("<Q", len(header)) + header + struct.pack(f"<{count}f", *range(count))
    script = EXAMPLES / "safetensors_slice.py"
    url = server.url("w")
    assert run(user, "vmofs", "run", url, "--", sys.executable, script, "{}", "w", "800000", "3").split() == [
        "800000.0",
        "800001.0",
        "800002.0",
    ]
    assert server.sent < len(server.content) / 6


def test_the_commands_of_the_readme_for_urls_give_what_it_shows(user: User, server: FaultyServer) -> None:
    server.content = "".join(f"{number}\n" for number in range(1, 1_000_001)).encode()
    shown = tour("sh open")
    assert len(shown) > 5
    script = "".join(f"{command}\nprintf '%s\\n' '{MARK}'\n" for command, _ in shown)
    environment = user.environment | {"URL": server.url("numbers")}
    done = subprocess.run(
        ["bash"], input=script.encode(), stdout=-1, stderr=-2, cwd=user.folder, env=environment, check=True, timeout=100
    )
    outputs = done.stdout.decode().split(f"{MARK}\n")[:-1]
    assert list(zip([command for command, _ in shown], outputs, strict=True)) == shown
