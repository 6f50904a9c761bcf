"""The kernel's read-ahead while files are being opened, and afterwards."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import trio

from vmofs_mount.cache import read_ahead
from vmofs_mount.cache.read_ahead import WHOLE_BYTES, ReadAhead

MIB = 2**20


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the place of the kernel's."""
    path = tmp_path / "read_ahead_kb"
    path.write_text("4\n")
    monkeypatch.setattr(read_ahead, "open_read_ahead", lambda _minor: os.open(path, os.O_WRONLY))
    return path


def kib(path: Path) -> int:
    return int(path.read_text().split()[0])


async def test_an_open_has_its_own_and_the_next_one_too(setting: Path, nursery: trio.Nursery) -> None:
    settings = ReadAhead(1, 4096, nursery.start_soon)
    settings.opened(MIB, asks_nobody=False)
    assert kib(setting) == 1024
    settings.opened(None, asks_nobody=True)
    assert kib(setting) == WHOLE_BYTES // 1024
    settings.opened(4096, asks_nobody=True)
    assert kib(setting) == 4
    settings.opened(MIB, asks_nobody=False)
    await trio.sleep(1)
    assert kib(setting) == 4


async def test_it_is_set_back_when_nobody_opens_any_more(setting: Path, nursery: trio.Nursery) -> None:
    settings = ReadAhead(1, 4096, nursery.start_soon)
    for _ in range(10):
        settings.opened(MIB, asks_nobody=False)
        await trio.sleep(0.03)
        assert kib(setting) == 1024
    await trio.sleep(0.06)
    assert kib(setting) == 4


async def test_what_may_not_be_set_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, nursery: trio.Nursery
) -> None:
    def refuse(_minor: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(read_ahead, "open_read_ahead", refuse)
    with caplog.at_level(logging.INFO):
        settings = ReadAhead(1, 4096, nursery.start_soon)
        settings.opened(MIB, asks_nobody=False)
        settings.opened(MIB, asks_nobody=False)
    assert [record.message for record in caplog.records] == [
        "read-ahead is the same for all files: [Errno 13] Permission denied"
    ]


async def test_a_mount_that_is_gone_is_no_error(setting: Path, nursery: trio.Nursery) -> None:
    settings = ReadAhead(1, 4096, nursery.start_soon)
    assert settings._file is not None
    os.close(settings._file)
    settings._file = os.open(setting, os.O_RDONLY)  # writing to it fails
    settings.opened(MIB, asks_nobody=False)
    settings.opened(2 * MIB, asks_nobody=False)
    assert kib(setting) == 4
