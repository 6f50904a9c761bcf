"""A real web server, nginx, that serves a directory by http and https."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

_CONFIGURATION = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; keepalive_requests 100000;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  gzip on; gzip_types *; gzip_min_length 1;
  server {{
    listen 127.0.0.1:{port}; listen 127.0.0.1:{secure_port} ssl;
    ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem;
    root {folder}/files;
    location /slow/ {{ alias {folder}/files/; limit_rate 200k; }}
    location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
  }}
}}
"""


def _free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Nginx:
    """The server, in a directory of its own: ``files`` is what it serves, ``certificate`` who is to be trusted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files, self.certificate = folder, folder / "files", folder / "certificate.pem"
        self.files.mkdir(parents=True)
        self.port, self.secure_port = _free_port(), _free_port()
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        files = ["-keyout", str(folder / "key.pem"), "-out", str(self.certificate)]
        subprocess.run([*command, *names, *files], check=True, capture_output=True)
        text = _CONFIGURATION.format(folder=folder, port=self.port, secure_port=self.secure_port)
        (folder / "nginx.conf").write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, name: str, *, secure: bool = False) -> str:
        """Return the address of a file."""
        return f"https://localhost:{self.secure_port}/{name}" if secure else f"http://127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        log = (self.folder / "output").open("ab")
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "nginx is not installed: tools/setup --dev does that"
        command = [program, "-c", str(self.folder / "nginx.conf"), "-p", str(self.folder), "-g", "user root;"]
        command = command if os.geteuid() == 0 else command[:-2]
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + 20
        while True:
            with suppress(OSError), closing(socket.create_connection(("127.0.0.1", self.port), 1)):
                return
            assert self._process.poll() is None, (self.folder / "output").read_text()
            assert time.monotonic() < end, "nginx does not listen"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


@contextmanager
def nginx_in(folder: Path) -> Iterator[Nginx]:
    """Run one for the length of a block."""
    server = Nginx(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
