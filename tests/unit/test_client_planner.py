"""What is read next, for whom, and what becomes of a failure."""

from __future__ import annotations

import math

import pytest

from tests.support.planning import KIB, MIB, Planning, content, spans
from vmofs.client.policy import plan as plan_module
from vmofs.client.policy.flights import Flight, subtract
from vmofs.client.policy.planner import Planner
from vmofs.client.policy.terms import Kind, Terms
from vmofs.status import Status
from vmofs.units import PAGE_SIZE

SOFT = Terms(cluster=16 * KIB, ahead=0)
HARD = Terms(cluster=16 * KIB, ahead=0, hard=True, deadline=math.inf)


# What is read


def test_a_page_is_read_with_its_aligned_cluster() -> None:
    planning = Planning(SOFT)
    planning.ask(20 * KIB)
    assert spans(planning.take_all()) == [(16, 32)]


def test_the_last_cluster_ends_with_the_object() -> None:
    planning = Planning(SOFT, size=18 * KIB + 100)
    planning.ask(16 * KIB)
    assert spans(planning.take_all()) == [(16, 20)]


def test_requests_for_one_cluster_share_a_read() -> None:
    planning = Planning(SOFT)
    planning.ask(0)
    planning.ask(8 * KIB)
    jobs = planning.take_all()
    planning.ask(4 * KIB)
    assert spans(jobs) == [(0, 16)]
    assert planning.take_all() == []
    assert planning.planner.statistics.merged == 2


def test_what_a_read_in_progress_does_not_bring_is_read_as_well() -> None:
    planning = Planning(SOFT)
    planning.ask(0)
    planning.take_all()
    planning.ask(12 * KIB, 8 * KIB)
    assert spans(planning.take_all()) == [(16, 32)]


def test_of_a_cluster_that_was_supplied_in_part_only_the_rest_is_read() -> None:
    planning = Planning(SOFT)
    planning.plan.have.add(16 * KIB, 20 * KIB)
    planning.ask(24 * KIB)
    assert spans(planning.take_all()) == [(20, 32)]


def test_what_was_evicted_is_read_again() -> None:
    planning = Planning(SOFT)
    planning.ask(0)
    planning.run()
    planning.ask(0)
    assert spans(planning.take_all()) == [(0, 16)]


def test_a_page_that_was_supplied_a_moment_ago_by_a_read_that_goes_on_is_read_again() -> None:
    planning = Planning(Terms(cluster=2 * MIB, ahead=0))
    planning.ask(0)
    (flight,) = planning.take().flights
    pieces = planning.planner.arrived(flight, content(0, 2 * MIB), 0.0)
    assert pieces == [(0, MIB), (MIB, 2 * MIB)]
    planning.planner.supplied(flight, *pieces[0])
    planning.ask(0)  # it may have been evicted already
    planning.ask(MIB)  # this one comes
    assert spans(planning.take_all()) == [(0, 1024)]
    planning.planner.supplied(flight, *pieces[1])
    assert planning.planner.plan_of(flight) is None


def test_the_piece_that_somebody_waits_for_is_supplied_first() -> None:
    planning = Planning(Terms(cluster=4 * MIB, ahead=0))
    planning.ask(2 * MIB + 8 * KIB)
    (flight,) = planning.take().flights
    assert planning.planner.arrived(flight, content(0, 4 * MIB), 0.0)[0] == (2 * MIB, 3 * MIB)


def test_the_size_of_clusters_follows_the_source() -> None:
    planning = Planning(Terms(ahead=0))
    planning.ask(0)
    job = planning.take()
    planning.now = 0.02
    planning.finish(job)
    planning.ask(256 * KIB)
    assert spans(planning.take_all()) == [(256, 384)]


def test_ranges_of_one_object_are_read_together_if_the_pager_can() -> None:
    planning = Planning(Terms(cluster=16 * KIB, ahead=0, together=True))
    other = planning.planner.plan("y", MIB)
    for at in (0, 64 * KIB):
        planning.ask(at)
    planning.ask(0, plan=other)
    jobs = planning.take_all()
    assert spans(jobs) == [(0, 16), (64, 80), (0, 16)]
    assert len(jobs) == 2
    for job in jobs:
        planning.finish(job)
    assert planning.planner.round_trip.seconds is not None  # of the second; two ranges tell nothing


def test_no_more_than_64_ranges_and_8_mib_are_read_together() -> None:
    planning = Planning(Terms(cluster=4 * KIB, ahead=0, together=True))
    for n in range(70):
        planning.ask(n * 64 * KIB)
    assert [len(job.flights) for job in planning.take_all()] == [64, 6]
    planning = Planning(Terms(cluster=4 * MIB, ahead=0, together=True))
    for n in range(3):
        planning.ask(n * 4 * MIB)
    assert [len(job.flights) for job in planning.take_all()] == [2, 1]


# Places


def test_no_more_reads_go_on_than_there_are_places() -> None:
    planning = Planning(Terms(cluster=16 * KIB, ahead=0, places=2))
    for n in range(3):
        planning.ask(n * MIB)
    jobs = planning.take_all()
    assert len(jobs) == 2
    planning.finish(jobs[0])
    assert len(planning.take_all()) == 1


def test_who_waits_comes_before_what_is_read_ahead_and_half_of_the_places_are_his() -> None:
    planning = Planning(Terms(cluster=4 * KIB, places=2))
    planning.planner.prefetch(planning.plan, [(0, MIB), (2 * MIB, 3 * MIB)])
    planning.ask(8 * MIB)
    assert spans(planning.take_all()) == [(8192, 8196), (0, 1024)]


def test_half_of_the_places_are_for_those_who_wait() -> None:
    planning = Planning(Terms(places=4))
    planning.planner.prefetch(planning.plan, [(n * 4 * MIB, n * 4 * MIB + KIB) for n in range(3)])
    assert len(planning.take_all()) == 2


def test_a_page_that_is_held_back_is_not_read_again() -> None:
    planning = Planning()
    planning.plan.hold(8 * KIB, bytes(PAGE_SIZE))
    planning.planner.prefetch(planning.plan, [(0, 16 * KIB)])
    assert spans(planning.take_all()) == [(0, 8), (12, 16)]


def test_bytes_in_flight_are_bounded() -> None:
    planning = Planning(Terms(places=16, most_in_flight=6 * MIB))
    planning.planner.prefetch(planning.plan, [(n * 4 * MIB, (n + 1) * 4 * MIB) for n in range(4)])
    jobs = planning.take_all()
    assert len(jobs) == 1
    planning.finish(jobs[0])
    assert len(planning.take_all()) == 1


def test_what_is_prefetched_lies_within_the_object_and_is_not_there_yet() -> None:
    planning = Planning(size=MIB)
    planning.plan.have.add(0, 64 * KIB)
    planning.planner.prefetch(planning.plan, [(-5, 80 * KIB), (MIB - 1, 9 * MIB), (5 * MIB, 6 * MIB)])
    assert spans(planning.take_all()) == [(64, 80), (1020, 1024)]


# Reading ahead


def test_a_reader_who_goes_on_gets_a_run_with_its_first_page_held_back() -> None:
    planning = Planning(Terms(cluster=4 * KIB))
    planning.ask(0)
    planning.ask(4 * KIB)
    planning.run()
    assert planning.planner.statistics.reads_ahead == 1
    assert 8 * KIB not in planning.present
    assert 12 * KIB in planning.present
    assert planning.ask(8 * KIB)  # at once, from memory
    assert planning.planner.statistics.markers == 1
    assert spans(planning.take_all()) == [(136, 264)]  # and the reader was seen


def test_nothing_is_held_back_of_a_run_that_somebody_waits_for() -> None:
    planning = Planning(Terms(cluster=4 * KIB))
    planning.ask(0)
    planning.ask(4 * KIB)
    jobs = planning.take_all()
    planning.ask(8 * KIB)
    for job in jobs:
        planning.finish(job)
    assert 8 * KIB in planning.present


def test_a_page_of_a_run_that_is_only_queued_is_read_by_itself() -> None:
    planning = Planning(Terms(cluster=16 * KIB, places=1))
    planning.planner.prefetch(planning.plan, [(0, MIB)])
    planning.ask(512 * KIB)
    first = planning.take()
    assert spans([first]) == [(512, 528)]
    planning.finish(first)
    for _ in range(2):
        planning.finish(planning.take())
    assert planning.present == set(range(0, MIB, PAGE_SIZE))


def test_a_run_that_was_cut_keeps_back_the_first_page_of_its_parts() -> None:
    planning = Planning(Terms(cluster=16 * KIB, places=1))
    planning.ask(0)
    planning.ask(16 * KIB)
    planning.finish(planning.take())
    planning.ask(64 * KIB)
    planning.run()
    assert {page for page in (32 * KIB, 80 * KIB) if page in planning.present} == set()


def test_what_is_queued_for_a_reader_who_has_left_is_not_read() -> None:
    planning = Planning(Terms(cluster=4 * KIB, places=2))
    planning.planner.prefetch(planning.plan, [(60 * MIB, 61 * MIB)])
    held_up = planning.take()
    planning.ask(0)
    planning.ask(4 * KIB)
    for n in range(1, 20):
        planning.ask(n * MIB)
    planning.finish(held_up)
    planning.run()
    assert planning.planner.statistics.reads_ahead == 1


def test_the_tail_is_read_beside_the_first_request_where_the_name_says_so() -> None:
    planning = Planning(name="x.zip")
    planning.ask(0)
    planning.ask(MIB)
    assert spans(planning.take_all()) == [(0, 16), (1024, 1040), (64 * 1024 - 128, 64 * 1024)]


def test_the_tail_is_read_where_the_first_bytes_say_so() -> None:
    planning = Planning()
    planning.ask(0)
    job = planning.take()
    zipped = memoryview(b"PK\x03\x04".ljust(16 * KIB, b"\0"))
    planning.planner.arrived(job.flights[0], zipped, 0.0)
    assert spans(planning.take_all()) == [(64 * 1024 - 128, 64 * 1024)]


def test_without_read_ahead_neither_tails_nor_runs_are_read() -> None:
    planning = Planning(Terms(cluster=4 * KIB, ahead=0), name="x.zip")
    for at in range(0, 64 * KIB, PAGE_SIZE):
        planning.ask(at)
    planning.run()
    assert planning.planner.statistics.reads_ahead == 0


def test_pages_held_back_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "MOST_HELD", 2)
    plan = Planning().plan
    for page in range(3):
        plan.hold(page * PAGE_SIZE, b"%d" % page)
    assert plan.take_held(0, MIB) == [(PAGE_SIZE, b"1"), (2 * PAGE_SIZE, b"2")]


# Failures


def test_what_is_away_is_tried_again_within_the_deadline_and_then_fails() -> None:
    planning = Planning(SOFT)
    planning.ask(4 * KIB)
    attempts = 0
    while not planning.failures:
        for job in planning.take_all():
            planning.fail(job, Kind.AWAY, "refused")
            attempts += 1
        if not planning.failures:
            planning.wait(planning.planner.next_time() - planning.now)
    (failure,) = planning.failures
    assert failure == (4 * KIB, 8 * KIB, Status.IO, "refused")
    assert planning.now <= 10.0
    assert attempts == 10
    assert planning.planner.next_time() == math.inf


def test_it_is_not_asked_before_the_source_wants_to_be() -> None:
    planning = Planning(SOFT)
    planning.ask(0)
    assert planning.fail(planning.take(), Kind.AWAY, after=3.0) == []
    assert planning.planner.next_time() == 3.0
    assert planning.wait(3.0) == []
    planning.finish(planning.take())
    assert 0 in planning.present


def test_a_pause_longer_than_the_deadline_is_a_failure_at_once() -> None:
    planning = Planning(SOFT)
    planning.ask(0)
    assert planning.fail(planning.take(), Kind.AWAY, "busy", after=30.0)[0].sentence == "busy"


def test_who_asks_while_it_is_tried_again_waits_for_that() -> None:
    planning = Planning(SOFT)
    planning.ask(0)
    planning.fail(planning.take(), Kind.AWAY)
    planning.ask(4 * KIB)
    assert planning.take_all() == []
    planning.wait(0.1)
    planning.run()
    assert {0, 4 * KIB} <= planning.present


@pytest.mark.parametrize("kind", [Kind.WRONG, Kind.UNAVAILABLE])
def test_a_bad_page_fails_only_itself(kind: Kind) -> None:
    planning = Planning(SOFT)
    planning.ask(0)
    planning.ask(8 * KIB)
    assert planning.fail(planning.take(), kind) == []
    jobs = planning.take_all()
    assert spans(jobs) == [(0, 4), (8, 12)]
    planning.finish(jobs[0])
    assert planning.fail(jobs[1], kind, "bad")[0][:2] == (8 * KIB, 12 * KIB)
    assert planning.take_all() == []


def test_what_was_asked_for_exactly_fails_at_once() -> None:
    planning = Planning(SOFT)
    planning.ask(0, 16 * KIB)
    assert len(planning.fail(planning.take(), Kind.WRONG)) == 1


def test_nothing_is_remembered_as_failed() -> None:
    planning = Planning(SOFT)
    for _ in range(20):
        planning.ask(0, 16 * KIB)
        planning.fail(planning.take(), Kind.WRONG)
    planning.ask(0)
    planning.run()
    assert 0 in planning.present


def test_read_ahead_that_fails_is_nobodys_business() -> None:
    for kind in (Kind.WRONG, Kind.AWAY):
        planning = Planning()
        planning.planner.prefetch(planning.plan, [(0, MIB)])
        assert planning.fail(planning.take(), kind) == []
        assert planning.take_all() == []
        assert not planning.plan.flights


def test_what_has_changed_fails_for_all_and_for_good_and_nothing_of_it_is_used() -> None:
    planning = Planning(Terms(cluster=4 * KIB))
    planning.ask(0)
    planning.ask(4 * KIB)
    planning.run()  # the page at 8 KiB is held back
    for at in (32 * MIB, 40 * MIB):
        planning.ask(at)
    first, second = planning.take_all()
    failures = planning.fail(first, Kind.CHANGED, "etag")
    assert [failure.start for failure in failures] == [32 * MIB, 40 * MIB]
    planning.finish(second)
    assert 40 * MIB not in planning.present
    assert planning.fail(second, Kind.WRONG) == []
    planning.planner.prefetch(planning.plan, [(0, MIB)])
    assert planning.ask(8 * KIB) == [(8 * KIB, 12 * KIB, Status.IO_DATA_INTEGRITY, "etag")]
    assert planning.take_all() == []
    assert planning.planner.statistics.dropped == 2


def test_a_read_that_does_not_return_is_given_up_at_the_deadline() -> None:
    planning = Planning(Terms(cluster=16 * KIB, ahead=0, places=1))
    planning.ask(0)
    hanging = planning.take()
    planning.wait(5.0)
    planning.ask(MIB)
    assert planning.take_all() == []
    (failure,) = planning.wait(5.0)
    assert failure.sentence == "no answer within 10 s"
    assert planning.planner.statistics.hanging == 1
    other = planning.take()  # it has the place of the first
    planning.finish(hanging)
    assert planning.planner.statistics.hanging == 0
    assert 0 not in planning.present
    planning.finish(other)
    assert MIB in planning.present


def test_when_too_many_hang_nothing_is_read_until_one_returns() -> None:
    planning = Planning(Terms(cluster=16 * KIB, ahead=0, places=1, deadline=1.0))
    jobs = []
    for n in range(4):
        planning.ask(n * MIB)
        jobs += planning.take_all()
        planning.wait(1.0)
        planning.planner.breaker.succeeded()
    planning.ask(9 * MIB)
    assert planning.take_all() == []
    planning.planner.finished(jobs[0])
    assert len(planning.take_all()) == 1


def test_a_deadline_that_passes_before_the_read_was_begun_or_while_it_is_supplied() -> None:
    planning = Planning(SOFT)
    planning.ask(0)
    planning.ask(MIB)
    job = planning.take()
    (flight,) = job.flights
    pieces = planning.planner.arrived(flight, content(0, 16 * KIB), 0.0)
    assert [failure.start for failure in planning.wait(10.0)] == [0, MIB]
    for piece in pieces:
        planning.planner.supplied(flight, *piece)
    planning.planner.finished(job)
    assert not planning.plan.flights
    planning.planner.supplied(flight, 0, 4 * KIB)  # a piece of what is over


def test_the_sentence_of_a_deadline_says_what_happened_before() -> None:
    planning = Planning(SOFT)
    planning.ask(0)
    planning.fail(planning.take(), Kind.AWAY, "refused")
    planning.wait(1.0)
    planning.take()
    assert planning.wait(9.0)[0].sentence == "no answer within 10 s; refused"


def test_those_who_came_later_wait_on_when_the_first_has_waited_long_enough() -> None:
    planning = Planning(SOFT)
    planning.ask(0)
    job = planning.take()
    planning.now = 5.0
    planning.ask(4 * KIB)
    assert [failure.start for failure in planning.wait(5.0)] == [0]
    planning.finish(job)
    assert 4 * KIB in planning.present


def test_when_ranges_are_read_together_the_place_is_free_when_all_are_given_up() -> None:
    planning = Planning(Terms(cluster=16 * KIB, ahead=0, places=1, together=True))
    planning.ask(0)
    planning.ask(MIB)
    planning.take()
    planning.wait(10.0)
    assert planning.planner.statistics.hanging == 1
    assert planning.planner.statistics.reading == 0


# The source is away


def away(planning: Planning) -> None:
    """Let three reads fail for good."""
    for n in range(3):
        planning.ask(n * MIB)
        planning.fail(planning.take(), Kind.AWAY, "refused", after=60.0)


def test_when_three_reads_have_failed_others_are_told_at_once_and_one_tries() -> None:
    planning = Planning(SOFT)
    away(planning)
    assert planning.ask(8 * MIB) == [(8 * MIB, 8 * MIB + 4 * KIB, Status.IO, "refused")]
    planning.wait(1.0)
    assert planning.ask(8 * MIB) == []
    planning.ask(9 * MIB)
    (probe,) = planning.take_all()
    assert planning.ask(10 * MIB) != []
    planning.finish(probe)
    assert len(planning.take_all()) == 1
    assert planning.ask(10 * MIB) == []


def test_while_it_is_away_nothing_is_read_ahead() -> None:
    planning = Planning(Terms(cluster=4 * KIB))
    away(planning)
    planning.planner.prefetch(planning.plan, [(32 * MIB, 33 * MIB)])
    planning.wait(1.0)
    assert planning.take_all() == []


def test_a_read_that_does_not_return_counts_as_away() -> None:
    planning = Planning(Terms(cluster=16 * KIB, ahead=0, deadline=1.0))
    for n in range(3):
        planning.ask(n * MIB)
        planning.take()
        planning.wait(1.0)
    assert planning.planner.breaker.is_open


# Hard terms


def test_on_hard_terms_who_waits_waits_until_it_is_back() -> None:
    planning = Planning(HARD)
    planning.ask(0)
    for kind in [Kind.AWAY, Kind.UNAVAILABLE] * 10:
        jobs = planning.take_all()
        assert [planning.fail(job, kind) for job in jobs] == [[]] * len(jobs)
        planning.wait(planning.planner.next_time() - planning.now)
    planning.ask(MIB)  # nobody is told that it is away
    planning.wait(10.0)
    planning.run()
    planning.wait(10.0)
    planning.run()
    assert {0, MIB} <= planning.present
    assert planning.failures == []


def test_on_hard_terms_one_read_at_a_time_tries_whether_it_is_back() -> None:
    planning = Planning(HARD)
    for n in range(8):
        planning.ask(n * MIB)
    for job in planning.take_all():
        planning.fail(job, Kind.AWAY)
    planning.wait(0.9)
    assert planning.take_all() == []
    assert planning.planner.next_time() == 1.0
    planning.wait(0.1)
    assert len(planning.take_all()) == 1


def test_on_hard_terms_what_is_wrong_fails_all_the_same() -> None:
    planning = Planning(HARD)
    planning.ask(0, 16 * KIB)
    assert len(planning.fail(planning.take(), Kind.WRONG)) == 1


def test_a_read_that_hangs_is_begun_again_for_who_waits_for_good() -> None:
    planning = Planning(HARD)
    planning.ask(0)
    hanging = planning.take()
    planning.wait(29.0)
    assert planning.take_all() == []
    assert planning.wait(1.0) == []
    assert planning.planner.statistics.hanging == 1
    planning.wait(1.0)
    planning.finish(planning.take())
    planning.finish(hanging)
    assert 0 in planning.present


def test_read_ahead_that_hangs_is_given_up_and_is_not_begun_again() -> None:
    planning = Planning()
    planning.planner.prefetch(planning.plan, [(0, MIB)])
    planning.take()
    assert planning.wait(10.0) == []
    assert planning.planner.statistics.reading == 0
    assert planning.take_all() == []


def test_who_waits_for_read_ahead_that_hangs_fails_by_his_deadline() -> None:
    planning = Planning()
    planning.planner.prefetch(planning.plan, [(0, MIB)])
    planning.take()
    planning.now = 5.0
    planning.ask(0)
    planning.wait(4.0)
    (failure,) = planning.wait(6.0)
    assert failure.start == 0


def test_a_read_that_has_arrived_in_time_is_not_given_up() -> None:
    planning = Planning()
    planning.planner.prefetch(planning.plan, [(0, MIB)])
    job = planning.take()
    planning.planner.arrived(job.flights[0], content(0, MIB), 9.0)
    planning.wait(10.0)
    assert planning.planner.statistics.hanging == 0


def test_an_object_that_is_gone_is_forgotten_with_all_that_was_begun() -> None:
    planning = Planning(SOFT)
    planning.ask(0)
    job = planning.take()
    planning.ask(MIB)
    planning.planner.forget(planning.plan)
    assert planning.take_all() == []
    planning.finish(job)
    assert planning.present == set()
    assert planning.planner.statistics.reading == 0
    assert planning.planner.statistics.bytes_in_flight == 0


def test_the_time_of_one_attempt_is_bounded_on_hard_terms() -> None:
    assert Terms(deadline=10.0).attempt == 10.0
    assert Terms(deadline=math.inf).attempt == 30.0
    assert Terms(deadline=100.0, hard=True).attempt == 30.0
    assert Terms(deadline=5.0, hard=True).attempt == 5.0


def test_ranges_less_a_range() -> None:
    assert subtract([(0, 2), (4, 9)], 5, 7) == [(0, 2), (4, 5), (7, 9)]
    assert subtract([(4, 9)], 0, 9) == []


def test_a_flight_that_is_over_is_nobodys() -> None:
    assert Planner(SOFT).plan_of(Flight(0, PAGE_SIZE)) is None
