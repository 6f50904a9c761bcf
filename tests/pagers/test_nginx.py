"""A real web server: what it says is understood, by http and https."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nginx import Nginx, nginx_in
from tests.support.sources import check_ranges, mixed_bytes
from vmofs.client import Changed, Retry
from vmofs.pagers.http_client import HttpClient
from vmofs.pagers.source import ExitCode, Refusal
from vmofs.pagers.web_file import WebFile

DATA = mixed_bytes(700_000)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Nginx]:
    with nginx_in(tmp_path / "nginx") as server:
        (server.files / "data").write_bytes(DATA)
        yield server


@pytest.mark.parametrize("place", ["data", "moved/data"])
def test_every_range_is_right(server: Nginx, place: str) -> None:
    source = WebFile(server.url(place), HttpClient())
    check_ranges(source, DATA)
    assert source.is_watched


def test_https_is_trusted_if_the_machine_trusts_it(server: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.url("data", secure=True)
    with pytest.raises(Refusal, match="certificate") as refused:
        WebFile(url, HttpClient())
    assert refused.value.code == ExitCode.OTHER
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
    check_ranges(WebFile(url, HttpClient()), DATA, 5)


def test_a_file_that_was_replaced_is_seen(server: Nginx) -> None:
    source = WebFile(server.url("data"), HttpClient())
    new = server.files / "new"
    new.write_bytes(DATA[::-1])
    os.utime(new, (1, 1))
    new.rename(server.files / "data")
    with pytest.raises(Changed):
        source.read(0, 4096)


def test_a_file_that_was_removed_is_seen(server: Nginx) -> None:
    source = WebFile(server.url("data"), HttpClient())
    (server.files / "data").unlink()
    with pytest.raises(Changed):
        source.read(0, 4096)


def test_a_server_that_went_away_is_found_again(server: Nginx) -> None:
    source = WebFile(server.url("data"), HttpClient())
    server.stop()
    with pytest.raises(Retry):
        source.read(0, 4096)
    server.start()
    check_ranges(source, DATA, 3)


def test_an_empty_file_is_a_file(server: Nginx) -> None:
    (server.files / "empty").touch()
    assert WebFile(server.url("empty"), HttpClient()).size == 0
