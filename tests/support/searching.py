"""How long hypothesis searches with a state machine: a bounded number of examples in the gate, a night otherwise."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

EXAMPLES_OF_PART = 1000
"""Hypothesis remembers every example of one search, a third of a megabyte each: a night is cut into parts."""

PARTS = max(1, settings().max_examples // EXAMPLES_OF_PART)

in_parts = pytest.mark.parametrize("part", range(PARTS))
"""Makes a test run once for each part; it hands ``part`` on to ``search``."""


def search(machine: type[RuleBasedStateMachine], part: int, times: int = 1) -> None:
    """Run one part of the examples of a machine; no two parts are the same.

    Args:
        machine: which.
        part: which part.
        times: by how much more the machine searches than others, unless a night is given to all of them.
    """
    assert part < PARTS
    examples = settings().max_examples // PARTS * (times if PARTS == 1 else 1)
    run_state_machine_as_test(machine, settings=settings(max_examples=examples))
