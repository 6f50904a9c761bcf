"""A pytest plugin for the tests of one mutant: searches stop at the first failure, and no test goes on for ever.

Searches are short and the same each time, and what they find is not made smaller. A test that has computed for too long
ends the process, as a mutant may loop where no error can get out.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

MOST_CPU_SECONDS = 20.0
"""Of one test. The longest takes 6."""

EXAMPLES = 25
"""Of each search; the gate has 100. With them a mutant that survives takes twice as long."""

_stderr = os.dup(2)  # pytest puts something else there while a test runs
_running = ""


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """Change how hypothesis searches, after ``conftest`` has said it."""
    phases = (Phase.explicit, Phase.generate)
    options = {"max_examples": EXAMPLES, "derandomize": True, "database": None}
    settings.register_profile("mutant", settings(), phases=phases, **options)
    settings.load_profile("mutant")
    signal.signal(signal.SIGVTALRM, _end)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Give each test its time."""
    global _running  # noqa: PLW0603 - for the signal handler
    _running = item.nodeid
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_CPU_SECONDS)
    return (yield)


def _end(*_: object) -> None:
    os.write(_stderr, f"\nTIMEOUT {_running}\n".encode())
    os._exit(3)
