"""Runs the tests against one mutant, in a copy of the tree."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tools.house.foreground import ROOT
from tools.house.mutating import Identity, Vocabulary, broken

FOLDERS = ("tests/unit", "tests/model")
MOST_SECONDS = 600
"""For all tests of one mutant, beside what each of them may take."""

_LEFT_OUT = re.compile(r"children_cost|\bmount/|test_mount_|test_map")
"""The first counts bytes of memory, and takes as long as all others of the core; the rest are about something else."""

_FAILED = re.compile(r"^(?:FAILED|ERROR|TIMEOUT) (\S+)", re.MULTILINE)


class Tree:
    """A copy of the tree, in which one module at a time is broken."""

    def __init__(self, directory: Path) -> None:
        self.root = directory
        nothing = shutil.ignore_patterns(".*", "__pycache__", "bench-results")
        shutil.copytree(ROOT, directory, ignore=nothing, dirs_exist_ok=True)

    def trial(self, file: str, identity: Identity, vocabulary: Vocabulary) -> str:
        """Return the test that kills a mutant of ``file``, or the empty string."""
        path = self.root / file
        source = path.read_text()
        try:
            _write(path, broken(source, identity, vocabulary))
            near, others = relevant_tests(self.root, file)
            return (near and self.first_failure(near)) or self.first_failure(others)
        finally:
            _write(path, source)

    def first_failure(self, tests: list[str]) -> str:
        """Run tests in this order, and return the first that fails, or the empty string.

        Raises:
            RuntimeError: pytest did not run them.
        """
        options = ["-x", "-q", "--tb=no", "-rfE", "-p", "tools.house.one_mutant", "-p", "no:randomly"]
        environment = {**os.environ, "PYTHONPATH": str(self.root), "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-m", "pytest", *options, *tests]
        try:
            ran = subprocess.run(
                command,
                cwd=self.root,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=MOST_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return "(all tests together took too long)"
        if ran.returncode == 0:
            return ""
        found = _FAILED.search(ran.stdout + ran.stderr)
        if found is None and ran.returncode not in {1, 2, 3, 4} and ran.returncode > 0:
            raise RuntimeError(ran.stdout + ran.stderr)
        return found[1] if found else f"(pytest ended with {ran.returncode})"


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)  # it goes by whole seconds and sizes


def relevant_tests(root: Path, file: str) -> tuple[list[str], list[str]]:
    """Return the test files that use the package of a module: those of unit/ that import the module; all others.

    Whoever uses ``tests.oracle`` uses the core. The models come last.
    """
    parts = Path(file).with_suffix("").parts
    module, package = ".".join(parts), ".".join(parts[:2])
    packages = rf"{re.escape(package)}\b" + (r"|tests\.oracle\b|\bworld\b" if package == "vmofs.core" else "")
    near: list[str] = []
    others: list[str] = []
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("test_*.py")):
            if _LEFT_OUT.search(str(path.relative_to(root))) or not re.search(packages, _text_with_imports(root, path)):
                continue
            imports_it = folder == FOLDERS[0] and re.search(rf"\b{re.escape(module)}\b", path.read_text())
            (near if imports_it else others).append(str(path.relative_to(root)))
    return near, others


def _text_with_imports(root: Path, path: Path) -> str:
    """Return the text of a test file, and of what it imports from ``tests``."""
    paths = [path]
    for one in paths:
        for name in re.findall(r"^from (tests[.\w]*) import", one.read_text(), re.MULTILINE):
            imported = root / f"{name.replace('.', '/')}.py"
            if imported.exists() and imported not in paths:
                paths.append(imported)
    return "".join(one.read_text() for one in paths)
