"""The whole contract: several pagers, VMOs and children, every operation, the core against the naive model."""

from __future__ import annotations

from tests.support.contract_core import CoreMachine
from tests.support.searching import in_parts, search


@in_parts
def test_the_whole_contract_is_what_the_model_says(part: int) -> None:
    search(CoreMachine, part, times=3)
