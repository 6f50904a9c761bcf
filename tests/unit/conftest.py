"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.world import World


@pytest.fixture
def world() -> Iterator[World]:
    """Return a world whose invariants are checked after the test."""
    world = World()
    yield world
    world.check()
