"""Counters as text, in the Prometheus exposition format 0.0.4, which every monitoring tool reads.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOTHING: Mapping[str, str] = MappingProxyType({})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})
_LABEL_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def format_metrics(
    prefix: str,
    values: Mapping[str, float],
    labels: Mapping[str, str] = _NOTHING,
    *,
    help_texts: Mapping[str, str] = _NOTHING,
) -> str:
    """Return one sample for every value, each after its ``# HELP`` and ``# TYPE`` lines.

    Args:
        prefix: What the names begin with: ``vmofs`` makes ``pages`` into ``vmofs_pages``.
        values: Names without prefix. A name that ends with ``_total`` is a counter, any other a gauge.
        labels: The labels that every sample gets.
        help_texts: By name without prefix; a name that is missing here gets no ``# HELP`` line.
    """
    label_text = ",".join(f'{name}="{text.translate(_LABEL_ESCAPES)}"' for name, text in labels.items())
    braces = f"{{{label_text}}}" if label_text else ""
    lines = []
    for short_name, value in values.items():
        name = f"{prefix}_{short_name}"
        if short_name in help_texts:
            lines.append(f"# HELP {name} {help_texts[short_name].translate(_HELP_ESCAPES)}\n")
        lines.append(f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}\n")
        lines.append(f"{name}{braces} {_number(value)}\n")
    return "".join(lines)


def format_labelled_metrics(prefix: str, values: Mapping[str, Mapping[int, int]], label: str) -> str:
    """Return samples that differ in one label: those of a name together, after its ``# TYPE`` line.

    Args:
        prefix: As of ``format_metrics``.
        values: For every name, as of ``format_metrics``, the value for each value of the label.
        label: The name of the label.
    """
    texts = []
    for short_name, samples in values.items():
        first = True
        for value, number in samples.items():
            text = format_metrics(prefix, {short_name: number}, {label: str(value)})
            texts.append(text if first else text.partition("\n")[2])
            first = False
    return "".join(texts)


def _number(value: float) -> str:
    if isinstance(value, int):
        return format(value, "d")  # "d", or True would be "True"
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else f"{value:+}".replace("inf", "Inf")
