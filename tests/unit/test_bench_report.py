"""What ``tools/bench`` makes of its samples."""

from __future__ import annotations

from typing import Any

import pytest

from tools.benchmarks.goals import ROWS, Goal, Row, Unit
from tools.benchmarks.report import Line, as_markdown, growth_lines, lines
from tools.benchmarks.run import wanted
from tools.benchmarks.workloads import WORKLOADS


def samples(target: str, *values: float) -> list[dict[str, Any]]:
    """Return a record for each round."""
    return [{"workload": "w", "target": target, "round": number, "value": value} for number, value in enumerate(values)]


def line(unit: Unit, goal: Goal, *records: list[dict[str, Any]]) -> Line:
    """Return the one line of a table."""
    row = Row("title", "w", "vmofs", unit, (goal,))
    (only,) = lines([row], [record for some in records for record in some])
    return only


def test_a_ratio_is_the_median_of_ratios_within_rounds() -> None:
    # The machine is ten times slower in round 1: medians over all rounds would give 1.
    got = line(Unit.MICROSECONDS, Goal(2.5, "peer"), samples("vmofs", 20, 200, 30), samples("peer", 10, 100, 20))
    assert (got.value, got.ratio, got.goal, got.verdict) == ("30.0 µs", "2.00", "≤ 2.5", "met")


@pytest.mark.parametrize(("unit", "verdict"), [(Unit.MICROSECONDS, "NOT met"), (Unit.PER_SECOND, "met")])
def test_of_times_less_is_better_and_of_rates_more(unit: Unit, verdict: str) -> None:
    assert line(unit, Goal(1.5, "peer"), samples("vmofs", 20), samples("peer", 10)).verdict == verdict


def test_a_bound_without_a_peer_is_compared_with_the_median() -> None:
    got = line(Unit.SECONDS, Goal(0.5), samples("vmofs", 0.4, 0.6, 0.7))
    assert (got.value, got.goal, got.verdict) == ("0.60 s", "≤ 0.50 s", "NOT met")


def test_a_peer_that_is_missing_is_said_to_be_not_measured() -> None:
    missing = [{"workload": "w", "target": "peer", "round": 0, "missing": "it is not installed"}]
    got = line(Unit.SECONDS, Goal(1, "peer"), samples("vmofs", 1), missing)
    assert (got.against, got.ratio, got.verdict) == ("peer (not measured: it is not installed)", "", "")


def test_what_failed_says_why() -> None:
    failed = [{"workload": "w", "target": "vmofs", "round": 0, "error": "RuntimeError: a page was wrong"}]
    got = line(Unit.SECONDS, Goal(1, "peer"), failed, samples("peer", 1))
    assert (got.value, got.verdict) == ("failed: RuntimeError: a page was wrong", "")


def test_growth_is_measured_by_the_logarithm() -> None:
    points = [
        {"where": "model", "axis": "VMOs", "operation": name, "x": x, "us": us}
        for name, costs in (("log", {100: 10.0, 10**6: 29.0}), ("linear", {100: 10.0, 10**6: 1e5}))
        for x, us in costs.items()
    ]
    assert [(got.ratio, got.verdict) for got in growth_lines(points)] == [("2.90", "met"), ("10000.00", "NOT met")]


def test_every_row_has_a_workload_that_measures_it_and_its_peers() -> None:
    measured = {(workload.name, target) for workload in WORKLOADS for target in workload.measures}
    assert wanted(ROWS, []) == measured


def test_the_table_is_one_row_a_line() -> None:
    text = as_markdown([line(Unit.SECONDS, Goal(0.5), samples("vmofs", 0.4))])
    assert [row.count("|") for row in text.splitlines()] == [9, 9, 9]
