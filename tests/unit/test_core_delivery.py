"""Packets on their way to the pager (zircon-pager 3.4), and what vmofs adds: lanes and delivering again."""

from __future__ import annotations

from tests.oracle.world import KEY, World
from vmofs.core.requests.port import Port
from vmofs.core.vmos.vmo import PagerVmo
from vmofs.units import PAGE_SIZE


def test_at_most_one_packet_per_vmo_is_in_the_port(world: World) -> None:
    one, two = world.vmo(), world.vmo(key=2 * KEY)
    for page in (0, 2, 4):
        world.start_read(one, page)
    world.start_read(two, 7)
    assert world.port.statistics().queued == 2
    # The second packet of the first VMO enters the port only now, behind the other VMO's.
    assert world.packets() == ["READ(0,1)", "READ(7,1)", "READ(2,1)", "READ(4,1)"]


def test_257_requests_can_be_outstanding(world: World) -> None:
    vmo = world.vmo(257)
    readers = [world.start_read(vmo, page) for page in range(257)]
    assert world.packets() == [f"READ({page},1)" for page in range(257)]
    assert world.port.statistics().delivered == 257
    world.supply(vmo, 0, 257)
    assert all(reader.done for reader in readers)
    assert world.port.statistics().delivered == 0


def test_early_supply_withdraws_the_packet(world: World) -> None:
    vmo = world.vmo()
    world.start_read(vmo, 0)
    assert bool(world.port)
    world.supply(vmo, 0)
    assert world.packets() == []


def test_a_withdrawn_packet_makes_way_for_the_next(world: World) -> None:
    vmo = world.vmo()
    for page in (0, 2, 4):
        world.start_read(vmo, page)
    world.supply(vmo, 2)  # not in the port yet
    world.supply(vmo, 0)
    assert world.packets() == ["READ(4,1)"]


def test_dequeuing_is_not_acknowledging_and_nothing_is_sent_again(world: World) -> None:
    vmo = world.vmo()
    reader = world.start_read(vmo, 0, 2)
    assert world.packets() == ["READ(0,2)"]
    world.start_read(vmo, 0, 2)
    assert world.packets() == []
    assert world.port.statistics().delivered == 1
    assert [request.range for request in world.pager.pending()] == [(0, 2)]
    world.supply(vmo, 0, 2)
    assert reader.done
    assert world.pager.pending() == []


def test_peeking_takes_nothing(world: World) -> None:
    vmo = world.vmo()
    assert world.port.peek() is None
    world.start_read(vmo, 0)
    packet = world.port.peek()
    assert packet == world.port.peek() == world.port.dequeue()
    world.port.requeue_delivered()
    assert packet == world.port.peek() == world.port.dequeue()
    assert world.port.peek() is None


def test_the_edge_learns_of_each_port_that_got_a_packet(world: World) -> None:
    vmo, other = world.vmo(), Port(world.system)
    world.start_read(vmo, 0)
    world.start_read(vmo, 2)
    world.start_read(world.pager.create_vmo(other, vmo.source.key, PAGE_SIZE), 0)
    assert world.system.take_ports() == [world.port, other]
    assert world.system.take_ports() == []
    world.packets()
    assert world.system.take_ports() == [world.port]  # the second packet came up
    world.port.requeue_delivered()
    assert world.system.take_ports() == [world.port]


def test_cancel_key_does_not_wedge_the_pager(world: World) -> None:
    vmo = world.vmo()
    first = world.start_read(vmo, 0)
    later = world.start_read(vmo, 2)
    assert world.port.cancel_key(vmo.source.key)
    assert world.packets() == ["READ(2,1)"]
    silent = world.start_read(vmo, 0)
    assert world.packets() == []
    world.supply(vmo, 0, 3)
    assert first.done
    assert silent.done
    assert later.done
    world.start_read(vmo, 5)
    assert world.packets() == ["READ(5,1)"]


def test_cancel_key_removes_only_that_key(world: World) -> None:
    one, two = world.vmo(), world.vmo(key=2 * KEY)
    world.start_read(one, 0)
    world.start_read(two, 1)
    assert world.packets() == ["READ(0,1)", "READ(1,1)"]
    world.port.requeue_delivered()
    assert world.port.cancel_key(one.source.key)
    assert not world.port.cancel_key(one.source.key)
    assert world.packets() == ["READ(1,1)"]


def test_close_port_lets_packets_vanish_while_supply_and_detach_still_work(world: World) -> None:
    vmo = world.vmo()
    queued, delivered = world.start_read(vmo, 2), world.start_read(vmo, 0)
    assert world.dequeue() == "READ(2,1)"
    world.port.requeue_delivered()
    world.port.close()
    assert world.port.statistics().queued == 0
    late = world.start_read(vmo, 4)
    assert world.packets() == []
    world.check()
    world.supply(vmo, 0, 3)
    assert [access.done for access in (queued, delivered, late)] == [True, True, False]
    world.pager.detach_vmo(vmo)
    assert world.run() == [late]
    assert world.packets() == []


# Workers


def outstanding(world: World, pages: int) -> PagerVmo:
    vmo = world.vmo(2 * pages)
    for page in range(pages):
        world.start_read(vmo, 2 * page)
    return vmo


def test_what_a_worker_did_not_answer_is_delivered_again_in_the_same_order(world: World) -> None:
    one = outstanding(world, 3)
    two = world.vmo(key=2 * KEY)
    world.start_read(two, 7)
    assert [world.dequeue() for _ in range(3)] == ["READ(0,1)", "READ(7,1)", "READ(2,1)"]
    world.supply(one, 2)
    assert world.port.requeue_delivered() == 2
    world.check()
    assert world.packets() == ["READ(0,1)", "READ(7,1)", "READ(4,1)"]


def test_delivering_again_comes_before_everything_that_was_not_delivered(world: World) -> None:
    vmo = outstanding(world, 4)
    two = world.vmo(key=2 * KEY)
    assert [world.dequeue() for _ in range(3)] == ["READ(0,1)", "READ(2,1)", "READ(4,1)"]
    world.start_read(two, 7)
    world.port.requeue_delivered()
    assert world.dequeue() == "READ(0,1)"
    world.port.requeue_delivered()
    assert world.port.statistics().queued == 3 + 2
    assert world.packets() == ["READ(0,1)", "READ(2,1)", "READ(4,1)", "READ(6,1)", "READ(7,1)"]
    assert [request.deliveries for request in world.pager.pending()] == [3, 2, 2, 1, 1]
    assert vmo.source.statistics().queued_packets == 0


def test_only_the_lane_that_is_gone_is_delivered_again(world: World) -> None:
    outstanding(world, 4)
    assert [world.dequeue(lane) for lane in ("a", "b", "a")] == ["READ(0,1)", "READ(2,1)", "READ(4,1)"]
    assert world.port.requeue_delivered("a") == 2
    assert world.port.requeue_delivered("a") == 0
    assert list(world.port.delivered().values()) == ["b"]
    assert [world.dequeue("b") for _ in range(3)] == ["READ(0,1)", "READ(4,1)", "READ(6,1)"]


def test_a_request_answered_before_it_is_delivered_again_is_withdrawn(world: World) -> None:
    vmo = outstanding(world, 2)
    world.packets()
    world.port.requeue_delivered()
    assert [vmo.source.is_queued(request) for request in world.pager.pending()] == [True, True]
    world.supply(vmo, 0)
    assert world.packets() == ["READ(2,1)"]


def test_closing_the_pager_withdraws_what_waits_to_be_delivered_again(world: World) -> None:
    outstanding(world, 2)
    world.packets()
    world.port.requeue_delivered()
    world.pager.close()
    assert world.packets() == []
