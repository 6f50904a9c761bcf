"""What the documents name is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import vmofs
from vmofs_mount.daemon.options import _PASSED_ON, _SETTERS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(path for folder in (".", "mount", "tests", "tools") for path in (ROOT / folder).glob("*.md"))
MOST_CHARACTERS = 120


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_test_that_the_semantics_name_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "mount/SEMANTICS-TESTS.md").read_text()))
    defined = {
        name
        for module in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", module.read_text(), re.MULTILINE)
    }
    assert len(named) > 200
    assert named - defined == set()


@pytest.mark.parametrize("page", ["SEMANTICS", "ADMINISTRATION"])
def test_a_page_for_users_names_no_test(page: str) -> None:
    assert re.findall(r"test_\w+", (ROOT / f"mount/{page}.md").read_text()) == []


def test_tests_stand_under_the_headings_of_the_pages_for_users() -> None:
    pages = (ROOT / f"mount/{page}.md" for page in ("SEMANTICS", "ADMINISTRATION"))
    headings = {heading for page in pages for heading in re.findall("^##+ (.*)", page.read_text(), re.MULTILINE)}
    used = re.findall("^## (.*)", (ROOT / "mount/SEMANTICS-TESTS.md").read_text(), re.MULTILINE)
    assert set(used) - {"Shown once"} <= headings


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_link_of_a_document_leads_to_a_file(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_module_and_tool_that_a_document_names_exists(document: Path) -> None:
    names = re.findall(r"`((?:tools|tests|mount|vmofs|vmofs_mount)/[\w./-]+)`", document.read_text())
    roots = (ROOT, ROOT / "mount")
    assert [name for name in names if not any((root / name).exists() for root in roots)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_lines_of_a_document_are_short_but_for_rows_of_tables(document: Path) -> None:
    lines = document.read_text().splitlines()
    assert [line for line in lines if len(line) > MOST_CHARACTERS and not line.startswith("|")] == []


def test_the_version_is_the_same_wherever_it_stands() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == vmofs.__version__
    assert f"## [{vmofs.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_a_document_names_no_place_of_the_machine_it_was_written_on(document: Path) -> None:
    assert not re.search(r"/work/|/root/", document.read_text())


def test_the_readme_has_every_mount_option() -> None:
    text = (ROOT / "README.md").read_text()
    shown = set(re.findall(r"`([a-z_]+)(?:=[A-Z]+)?`", text[text.index("## Mounting") :]))
    old_names = {"memory"}
    assert {*_SETTERS, *_PASSED_ON, "allow_other", "no_allow_other"} - old_names - shown == set()
