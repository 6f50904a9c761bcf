"""Accesses that end before they are finished."""

from __future__ import annotations

import gc
import weakref

import pytest

from tests.oracle.world import World
from vmofs.status import BadStateError


class SpecialError(BadStateError):
    """An error of the edge's."""


def test_an_aborted_access_fails_with_that_error_and_leaves_its_request(world: World) -> None:
    vmo = world.vmo(1)
    first, second = world.start_read(vmo, 0), world.start_read(vmo, 0)
    first.abort(SpecialError("no"))
    with pytest.raises(SpecialError):
        first.result()
    assert second.waits_for is not None
    second.abort(SpecialError("no"))
    assert world.packets() == []
    assert type(BadStateError.of(BadStateError.status, "")) is BadStateError


def test_nothing_that_led_to_a_call_stays_alive_when_it_has_failed(world: World) -> None:
    """What was to be written, above all: garbage collection comes late."""

    class Written:
        pass

    def fail() -> weakref.ref[Written]:
        written, access = Written(), world.start_read(vmo, 0)
        access.abort(SpecialError("no"))
        try:
            access.result()
        except SpecialError:
            return weakref.ref(written)
        raise AssertionError

    vmo = world.vmo(1)
    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()
