"""Counters in the Prometheus text format."""

from __future__ import annotations

import math

import pytest

from vmofs.wire.metrics import format_labelled_metrics, format_metrics


def test_every_value_is_a_sample_with_its_type() -> None:
    text = format_metrics("vmofs", {"requests_total": 3, "pages": 2**63})
    assert text == (
        "# TYPE vmofs_requests_total counter\n"
        "vmofs_requests_total 3\n"
        "# TYPE vmofs_pages gauge\n"
        "vmofs_pages 9223372036854775808\n"
    )


def test_no_values_are_no_text() -> None:
    assert format_metrics("vmofs", {}) == ""


def test_help_stands_before_the_type_on_one_line() -> None:
    text = format_metrics("vmofs", {"pages": 1}, help_texts={"pages": 'Pages\nin a \\ "VMO".', "other": "x"})
    assert text == '# HELP vmofs_pages Pages\\nin a \\\\ "VMO".\n# TYPE vmofs_pages gauge\nvmofs_pages 1\n'


def test_labels_are_escaped() -> None:
    text = format_metrics("vmofs", {"pages": 1}, {"pager": 'a"b\\c\nd', "port": "ä{,}"})
    assert text.splitlines()[-1] == 'vmofs_pages{pager="a\\"b\\\\c\\nd",port="ä{,}"} 1'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((True, "1"), (0.5, "0.5"), (1e300, "1e+300"), (-1, "-1"), (0.0, "0.0")),
        *((math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN")),
    ],
)
def test_numbers_are_written_as_prometheus_reads_them(value: float, text: str) -> None:
    assert format_metrics("p", {"x": value}).splitlines()[-1] == f"p_x {text}"


def test_samples_that_differ_in_a_label_stand_together() -> None:
    text = format_labelled_metrics("vmofs", {"pages": {1: 2, 3: 4}, "nothing": {}}, "uid")
    assert text == '# TYPE vmofs_pages gauge\nvmofs_pages{uid="1"} 2\nvmofs_pages{uid="3"} 4\n'
