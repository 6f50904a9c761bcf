"""What all tests share: how long hypothesis searches, a mount namespace, and a way to mount."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.mounted import Mounter
from tests.support.own_namespace import leave_mount_namespace

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


def pytest_configure() -> None:
    leave_mount_namespace()
    # Whoever ends us by SIGTERM, such as tools/check, wants what we have mounted to be taken down, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell that starts us by "&" has SIGINT ignored, and the programs that we start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=NIGHTLY)
def _no_traceback_of_long_tests() -> None:
    """Take back ``faulthandler_timeout``: at night a test may take long, and dumping a running thread can crash."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def mounter(tmp_path: Path) -> Iterator[Mounter]:
    """A function that mounts with options; what it mounted is checked and taken down after the test."""
    mounter = Mounter(tmp_path)
    try:
        yield mounter
        mounter.finish()
    finally:
        mounter.clean_up()
