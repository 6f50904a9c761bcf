"""A web server with files that people look into, near by, 20 ms away, and 20 ms away at 50 MB/s a connection."""

from __future__ import annotations

import json
import os
import random
import socket
import sqlite3
import struct
import subprocess
import sys
import time
import zipfile
from contextlib import closing, suppress
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from tools.benchmarks.machine import PROGRAMS, needed
from tools.benchmarks.targets import Bench, end

_DELAY_SECONDS = 0.02
_CONFIGURATION = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log; user root;
events {{ worker_connections 512; }}
http {{
  log_format short '$request_method $uri $status $bytes_sent'; access_log {folder}/log short;
  sendfile on; keepalive_requests 100000; autoindex on;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{near}; root {folder}/files; }}
  server {{ listen 127.0.0.1:{limited}; root {folder}/files; limit_rate 50m; }}
}}
"""

LAYERS, LAYER_BYTES = 16, 2**22


def rows_of(share: float) -> int:
    """Return how many rows the database has."""
    return int(200_000 * share)


def members_of(share: float) -> int:
    """Return how many members the zip has."""
    return int(300 * share)


def lines_of(share: float) -> int:
    """Return how many lines the text has."""
    return int(1_500_000 * share)


class Way(StrEnum):
    """How far the server is."""

    LOCAL = "local"
    FAR = "20 ms"
    LIMITED = "20 ms, 50 MB/s a connection"


class Traffic(NamedTuple):
    """What was asked of the server."""

    requests: int
    size_bytes: int


class Web:
    """The server. It is started when the first peer needs it, and ended with the last one."""

    def __init__(self) -> None:
        self._users = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ports: dict[Way, int] = {}

    def acquire(self, bench: Bench) -> None:
        """Have it run. Raises MissingError."""
        if not self._users:
            nginx = needed("nginx", "nginx-light")
            self.folder = bench.memory / "web"
            self.files = self.folder / "files"
            self.files.mkdir(parents=True)
            _make_files(self.files, bench.sizes.web_share)
            (self.files / "big.bin").symlink_to(bench.source)
            self._start(nginx)
        self._users += 1

    def release(self) -> None:
        """Need it no longer."""
        self._users -= 1
        if not self._users:
            for process in self._processes:
                end(process)

    def url(self, way: Way) -> str:
        """Return the address of all files, with a slash at the end."""
        return f"http://127.0.0.1:{self._ports[way]}/"

    @property
    def log_bytes(self) -> int:
        """How long the log is."""
        return (self.folder / "log").stat().st_size

    def traffic(self, since: int) -> Traffic:
        """Return what was asked since the log was so long."""
        time.sleep(0.1)  # what was answered just now is logged a moment later
        with (self.folder / "log").open() as log:
            log.seek(since)
            lines = [line.split() for line in log]
        return Traffic(len(lines), sum(int(line[-1]) for line in lines if line[0] == "GET"))

    def _start(self, nginx: str) -> None:
        near, limited = _free_port(), _free_port()
        configuration = self.folder / "nginx.conf"
        configuration.write_text(_CONFIGURATION.format(folder=self.folder, near=near, limited=limited))
        self._processes.append(subprocess.Popen([nginx, "-c", str(configuration), "-p", str(self.folder)]))
        for port in (near, limited):
            _wait_listening(port, self._processes[0])
        self._ports = {Way.LOCAL: near, Way.FAR: self._delayed(near), Way.LIMITED: self._delayed(limited)}

    def _delayed(self, port: int) -> int:
        command = [sys.executable, str(PROGRAMS / "delay.py"), str(port), str(_DELAY_SECONDS)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._processes.append(process)
        assert process.stdout is not None
        return int(process.stdout.readline())


def _free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), 1)):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("nginx does not listen")
        time.sleep(0.02)


def _make_files(folder: Path, share: float) -> None:
    chance = random.Random(1)  # noqa: S311 - the same files each time
    with closing(sqlite3.connect(folder / "db.sqlite")) as database:
        database.execute("CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT)")
        rows = ((f"key{n:08}", chance.randbytes(225).hex()) for n in range(rows_of(share)))
        database.executemany("INSERT INTO t VALUES (?, ?)", rows)
        database.commit()
    with zipfile.ZipFile(folder / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(members_of(share)):
            archive.writestr(f"dir/text{number}.txt", chance.randbytes(100_000).hex())
    names = {
        f"layer.{n}.weight": {
            "dtype": "F32",
            "shape": [LAYER_BYTES // 4],
            "data_offsets": [n * LAYER_BYTES, (n + 1) * LAYER_BYTES],
        }
        for n in range(LAYERS)
    }
    header = json.dumps(names).encode()
    with (folder / "w.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for _ in range(LAYERS):
            file.write(chance.randbytes(LAYER_BYTES))
    with (folder / "t.txt").open("w") as text:
        text.writelines(f"this is line {n} of a long text\n" for n in range(lines_of(share)))
    os.sync()
