"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.world import World

_ABOUT_PACKETS = {
    *("test_core_access", "test_core_delivery", "test_core_lanes", "test_core_misses", "test_core_system"),
    "test_closing_the_pager_keeps_every_page_and_leaves_no_packet",
    "test_a_page_supplied_beyond_what_was_asked_is_simply_present",
}
"""Tests, and modules of them, that take packets out of the port by themselves, or not: on the short path none is in."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have each test of the core done twice: reads of one page as requests, and on the short path of a miss."""
    names = {metafunc.module.__name__.rpartition(".")[2], metafunc.function.__name__}
    if "world" in metafunc.fixturenames and not names & _ABOUT_PACKETS:
        metafunc.parametrize("world", ["requests", "misses"], indirect=True)


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Return a world whose invariants are checked after the test."""
    world = World(is_short=getattr(request, "param", "") == "misses")
    yield world
    world.check()
