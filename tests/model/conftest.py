"""What all models need."""

from __future__ import annotations

import pytest

from vmofs.core.pages import frames


@pytest.fixture(scope="session", autouse=True)
def little_address_space() -> None:
    """Let each system reserve 4 GiB of addresses: hundreds live until garbage is collected, and there are 128 TiB."""
    patch = pytest.MonkeyPatch()
    patch.setattr(frames, "_RESERVE_BYTES", 2**32)
