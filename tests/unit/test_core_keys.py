"""Finding the VMOs of a pager by their keys."""

from __future__ import annotations

import pytest

from tests.oracle.world import World
from vmofs.status import BadHandleError, InvalidArgsError
from vmofs.units import Key


def test_a_vmo_is_found_by_its_key_before_and_after_the_first_search(world: World) -> None:
    first = world.vmo(key=1)
    assert world.pager.vmo_of_key(Key(1)) is first
    second = world.vmo(key=2)
    assert world.pager.vmo_of_key(Key(2)) is second
    with pytest.raises(BadHandleError, match="no VMO of the pager has the key 3"):
        world.pager.vmo_of_key(Key(3))


def test_a_key_of_several_vmos_stands_for_none_until_one_is_left(world: World) -> None:
    first, second = world.vmo(key=1), world.vmo(key=1)
    with pytest.raises(InvalidArgsError, match="2 VMOs of the pager have the key 1"):
        world.pager.vmo_of_key(Key(1))
    first.close()
    assert world.pager.vmo_of_key(Key(1)) is second
    second.close()
    with pytest.raises(BadHandleError):
        world.pager.vmo_of_key(Key(1))


def test_a_pager_that_is_closed_has_no_keys(world: World) -> None:
    world.vmo(key=1)
    assert world.pager.vmo_of_key(Key(1))
    world.pager.close()
    with pytest.raises(BadHandleError):
        world.pager.vmo_of_key(Key(1))
