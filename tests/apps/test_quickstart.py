"""``tools/quickstart`` does what it says, and leaves nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.apps.serving import run
from tests.support.mounted import ROOT


@pytest.mark.slow
def test_quickstart_reads_a_real_file_through_the_mount_and_leaves_nothing(tmp_path: Path) -> None:
    done = run(ROOT / "tools" / "quickstart", env={**os.environ, "TMPDIR": str(tmp_path)})
    source, through, count = done.stdout.decode().splitlines()
    assert source.split()[1] == through.split()[2]
    assert len(source.split()[1]) == 64
    found = re.fullmatch(r"The shell pager answered (\d+) page requests for (\d+) bytes\.", count)
    assert found
    assert int(found[1]) > 0
    assert int(found[2]) == Path(source.split()[2]).stat().st_size
    assert done.stderr == b""
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
