"""The random sequences of ``model/test_contract_against_model.py``, through a mount: it agrees with the core."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import NIGHTLY
from tests.support.contract_machine import ContractMachine
from tests.support.contract_mount import MountedWorlds
from tests.support.contract_worlds import Worlds
from tests.support.mounted import Mounted

EXAMPLES, STEPS = (500, 60) if NIGHTLY else (10, 25)


def test_random_sequences_through_a_mount_agree_with_the_core(shared_mount: Mounted) -> None:
    """Reads are by O_DIRECT, pread and mmap, writes by pwrite with and without O_DIRECT."""

    class ThroughMount(ContractMachine):
        def make_worlds(self) -> Worlds:
            return MountedWorlds(shared_mount.path)

    run_state_machine_as_test(ThroughMount, settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS))
