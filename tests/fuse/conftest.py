"""A mounted vmofs for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import Mounted, Mounter

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    can_mount = os.access("/dev/fuse", os.R_OK | os.W_OK)
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.fuse)
            if not can_mount:
                item.add_marker(pytest.mark.skip(reason="/dev/fuse cannot be used here"))


@pytest.fixture
def mounter(tmp_path: Path) -> Iterator[Mounter]:
    """A function that mounts with options; what it mounted is checked and taken down after the test."""
    mounter = Mounter(tmp_path)
    try:
        yield mounter
        mounter.finish()
    finally:
        mounter.clean_up()


@pytest.fixture
def mount(mounter: Mounter) -> Mounted:
    """A vmofs, mounted with the default options."""
    return mounter()
