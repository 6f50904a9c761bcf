"""The layout of the house: contracts between the packages, names and sizes of modules."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "vmofs", ROOT / "mount"]
MODULES = sorted(module for source in SOURCES for module in source.rglob("*.py"))

WORDS_THAT_NAME_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc"}
MOST_LINES = 600


def _name(module: Path) -> str:
    return str(module.relative_to(ROOT))


def test_the_modules_are_found() -> None:
    assert {"vmofs/__init__.py", "mount/vmofs_mount/__init__.py"} <= set(map(_name, MODULES))


def test_packages_import_only_what_their_contracts_allow() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_module_names_say_what_is_inside() -> None:
    assert [_name(module) for module in MODULES if WORDS_THAT_NAME_NOTHING & set(module.stem.split("_"))] == []


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_a_module_is_short_and_documented(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    line_count = text.count("\n")
    assert line_count <= MOST_LINES
    private = module.stem.startswith("_") and module.stem != "__init__"
    assert private or ast.get_docstring(ast.parse(text))
