"""Several workers who dequeue from one port: who has how much, and requests of a worker that stalls."""

from __future__ import annotations

from tests.oracle.world import World
from vmofs.core.vmos.vmo import PagerVmo


def asked(world: World, count: int) -> list[PagerVmo]:
    """Make VMOs of each of which a page is asked for."""
    vmos = [world.vmo(1) for _ in range(count)]
    for vmo in vmos:
        world.start_read(vmo, 0)
    return vmos


def test_the_load_of_a_lane_is_what_it_has_not_answered(world: World) -> None:
    vmos = asked(world, 3)
    assert [world.dequeue("one"), world.dequeue("two"), world.dequeue("one")] == ["READ(0,1)"] * 3
    assert (world.port.load("one"), world.port.load("two"), world.port.load("three")) == (2, 1, 0)
    world.supply(vmos[0], 0)
    assert world.port.load("one") == 1
    world.port.requeue_delivered("one")
    assert (world.port.load("one"), world.port.load("two")) == (0, 1)


def test_dequeuing_notes_when_it_was(world: World) -> None:
    asked(world, 1)
    world.port.dequeue("one", 7.5)
    (request,) = world.port.delivered()
    assert (request.deliveries, request.delivered_at) == (1, 7.5)
    world.port.requeue_delivered("one")
    world.port.dequeue("two", 9.0)
    assert (request.deliveries, request.delivered_at) == (2, 9.0)


def test_a_request_of_a_lane_that_stalls_counts_for_the_one_that_got_it_then(world: World) -> None:
    vmo, _ = asked(world, 2)
    world.dequeue("one")
    world.dequeue("one")
    request = next(iter(world.port.delivered()))
    world.port.redeliver(request, "two", 3.0)
    assert (request.deliveries, request.delivered_at, world.port.delivered()[request]) == (2, 3.0, "two")
    assert (world.port.load("one"), world.port.load("two")) == (1, 1)
    assert (world.port.is_stalled("one"), world.port.is_stalled("two")) == (True, False)
    world.supply(vmo, 0)
    assert world.port.is_stalled("one")
    assert world.port.statistics().packets_total == 3


def test_a_lane_stalls_no_longer_when_one_of_its_requests_is_answered(world: World) -> None:
    _, vmo = asked(world, 2)
    world.dequeue("one")
    world.dequeue("one")
    world.port.redeliver(next(iter(world.port.delivered())), "two", 0.0)
    world.supply(vmo, 0)
    assert not world.port.is_stalled("one")


def test_a_lane_stalls_no_longer_when_its_worker_is_gone(world: World) -> None:
    asked(world, 1)
    world.dequeue("one")
    world.port.redeliver(next(iter(world.port.delivered())), "two", 0.0)
    world.port.requeue_delivered("one")
    assert not world.port.is_stalled("one")
    assert world.port.load("two") == 1
