"""What all tests share: how long hypothesis searches."""

from __future__ import annotations

import faulthandler
import os

import pytest
from hypothesis import HealthCheck, settings

NIGHTLY = os.environ.get("VMOFS_NIGHTLY") == "1"

# No deadline: a busy machine is no defect. VMOFS_NIGHTLY=1 searches as long as a night allows, and never twice the same
# (hypothesis searches deterministically where CI is set).
_QUIET = [HealthCheck.too_slow]
settings.register_profile("gate", deadline=None, suppress_health_check=_QUIET, print_blob=True)
settings.register_profile(
    "nightly",
    deadline=None,
    suppress_health_check=_QUIET,
    print_blob=True,
    max_examples=10_000,
    stateful_step_count=80,
    derandomize=False,
)
settings.load_profile("nightly" if NIGHTLY else "gate")


@pytest.fixture(autouse=NIGHTLY)
def _no_traceback_of_long_tests() -> None:
    """Take back ``faulthandler_timeout``: at night a test may take long, and dumping a running thread can crash."""
    faulthandler.cancel_dump_traceback_later()
