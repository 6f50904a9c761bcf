"""The wheel that is built from this checkout."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from vmofs_mount.cli.topics import TOPICS

ROOT = Path(__file__).parents[2]
VMOFS = Path(sys.executable).with_name("vmofs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.glob("*.whl")
    with ZipFile(path) as archive:
        yield archive


pytestmark = pytest.mark.slow


def test_the_wheel_holds_the_two_packages_the_manuals_and_nothing_else(wheel: ZipFile) -> None:
    top_level = {name.split("/")[0] for name in wheel.namelist()}
    (metadata,) = (name for name in top_level if name.endswith(".dist-info"))
    data = metadata.replace(".dist-info", ".data")
    assert top_level == {"vmofs", "vmofs_mount", metadata, data}
    assert {name.removeprefix(f"{data}/data/share/") for name in wheel.namelist() if name.startswith(data)} == {
        "man/man1/vmofs.1",
        "bash-completion/completions/vmofs",
        "zsh/site-functions/_vmofs",
    }


def test_the_wheel_holds_the_documents_that_help_shows(wheel: ZipFile) -> None:
    for name, _ in TOPICS.values():
        assert wheel.read(f"vmofs_mount/manual/{name}") == (ROOT / "mount" / name).read_bytes()


@pytest.mark.parametrize("topic", TOPICS)
def test_help_prints_a_document_into_a_pipe(topic: str) -> None:
    result = subprocess.run([VMOFS, "help", topic], capture_output=True, text=True, check=True)
    assert result.stdout == (ROOT / "mount" / TOPICS[topic][0]).read_text()
    assert not result.stderr


def test_manual_and_completions_are_those_of_the_present_parsers() -> None:
    command = [sys.executable, "-m", "tools.house.manuals", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_wheel_holds_every_module(wheel: ZipFile) -> None:
    mount = ROOT / "mount"
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "vmofs").rglob("*.py")}
    modules |= {str(path.relative_to(mount)) for path in mount.rglob("*.py")}
    assert {name for name in wheel.namelist() if name.endswith(".py")} == modules


@pytest.mark.parametrize("package", ["vmofs", "vmofs_mount"])
def test_both_packages_tell_type_checkers_that_they_are_typed(wheel: ZipFile, package: str) -> None:
    assert f"{package}/py.typed" in wheel.namelist()


def test_the_wheel_installs_the_command(wheel: ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "vmofs = vmofs_mount.cli.program:main" in wheel.read(entry_points).decode().splitlines()
