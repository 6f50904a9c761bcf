"""The five minutes of the top-level README: its commands are run as they stand there, and give what stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.apps.serving import EXAMPLES, STEP_SECONDS, bash, run
from tests.support.mounted import ROOT, Mounted, vmofs_environment, wait_for

README = (ROOT / "README.md").read_text()
MARK = "--- end of command ---"


def blocks(info: str) -> list[str]:
    """Return the code blocks with this text behind the backquotes."""
    return re.findall(rf"^```{re.escape(info)}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def tour(info: str = "sh tour") -> list[tuple[str, str]]:
    """Return the commands of the tour, or of other blocks, each with the output that is shown."""
    found: list[tuple[str, str]] = []
    for line in "".join(blocks(info)).splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), ""))
        else:
            command, output = found.pop()
            found.append((command, f"{output}{line}\n"))
    return found


def run_tour(commands: list[str], scratch: Path) -> list[str]:
    """Run the commands one after the other in one shell, and return the output of each."""
    script = "".join(f"{command}\nprintf '%s\\n' '{MARK}'\n" for command in commands)
    home = scratch / "mounts"
    home.mkdir()
    done = subprocess.run(
        ["bash"],
        input=script.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=STEP_SECONDS,
        cwd=ROOT,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(scratch), "TMPDIR": str(home)},
    )
    assert done.returncode == 0
    output = re.sub(r"^bash: line \d+: ", "bash: ", done.stdout.decode(), flags=re.MULTILINE)
    return output.split(f"{MARK}\n")[:-1]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path


def test_the_commands_of_the_tour_give_what_the_readme_shows(scratch: Path) -> None:
    shown = tour()
    assert len(shown) > 30
    outputs = run_tour([command for command, _ in shown], scratch)
    assert list(zip([command for command, _ in shown], outputs, strict=True)) == shown
    assert str(scratch) not in Path("/proc/mounts").read_text()


def test_the_page_for_authors_shows_a_pager_of_ten_lines_that_works(mount: Mounted) -> None:
    page = (ROOT / "mount/PAGERS.md").read_text()
    (shown,) = re.findall(r"^```python squares.py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = [line for line in shown.splitlines() if line]
    assert len(lines) <= 10
    beside_the_code = re.compile(r'^ *""".*\n|^#.*\n| -> [^:]*|: (?:int|Object)|  #.*', re.MULTILINE)
    example = beside_the_code.sub("", (EXAMPLES / "squares.py").read_text())
    assert [line for line in example.splitlines() if line] == lines
    pager = subprocess.Popen([sys.executable, "-c", shown, mount.path], env=vmofs_environment())
    try:
        path = mount.path / "vmo/squares"
        wait_for(path.exists, "the pager makes its file")
        assert path.read_bytes() == bytes(n * n % 251 for n in range(1_000_000))
        (mount.path / "control/squares").rmdir()
        assert pager.wait(10) == 0
    finally:
        pager.kill()
        pager.wait()


def test_the_readme_shows_the_shell_pager_as_it_is() -> None:
    (shown,) = blocks("sh pager.sh")
    lines = (EXAMPLES / "pager.sh").read_text().splitlines()
    assert shown.splitlines() == [line for line in lines if not line.lstrip().startswith("#")]


def test_the_commands_of_a_mounts_readme_work_and_it_is_short(mount: Mounted) -> None:
    text = (mount.path / "README").read_text()
    assert len(text.splitlines()) <= 25
    assert max(map(len, text.splitlines())) <= 120
    commands = re.findall(r"^    ((?:mkdir|echo|printf|\(cat|read|cat|getfattr) .*)$", text, re.MULTILINE)
    assert len(commands) == 10
    script = "\n".join([f"cd {mount.path}", *commands[:6], "cat vmo/hello", *commands[6:]])
    output = bash(script).decode()
    assert output.count("Hello world\n") == 2
    assert "AUX_OFFSET" in output
    assert "size_pages=1\n" in output


def test_the_commands_of_a_mounts_readme_work_in_any_shell_and_for_any_name(mount: Mounted) -> None:
    """The echo of dash takes the octal numbers of a name for its own."""
    text = (mount.path / "README").read_text().replace("control/me/", "control/dash/")
    commands = re.findall(r"^    ((?:echo|\(cat|read|printf) .*)$", text, re.MULTILINE)
    made, waiting, asked, staged, answered = commands[:5]
    made = made.replace("echo vmo/hello 12", "printf '%s\\n' 'vmo/two\\040words\\011and\\134more 12'")
    waiting = waiting.replace("vmo/hello", '"$file"')
    file = "vmo/two words\tand\\more"
    lines = [f"cd {mount.path}", "mkdir control/dash", made, waiting, asked, staged, answered, 'cat "$file"']
    done = run("sh", "-euc", "\n".join(lines), env={**os.environ, "file": file})
    assert (done.stdout, done.stderr) == (b"Hello world\n" * 2, b"")
    (mount.path / "control/dash").rmdir()
