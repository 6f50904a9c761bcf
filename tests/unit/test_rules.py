"""The list of the contract's rules is whole, and what it names is there and does what the list says."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

EXPECTED = """
2.1.1 2.1.2 2.1.3
2.2.1 2.2.2 2.2.3 2.2.4 2.2.5 2.2.6 2.2.7 2.2.8 2.2.9 2.2.10 2.2.11 2.2.+
2.3.1 2.3.2 2.3.3 2.3.4
2.4.1 2.4.2 2.4.3 2.4.4 2.4.5 2.4.6.1 2.4.6.2 2.4.6.3 2.4.6.4 2.4.6.5 2.4.6.6 2.4.6.7
2.4.7.1 2.4.7.2 2.4.7.3 2.4.7.4 2.4.7.5 2.4.+ 2.4.++
2.5.1 2.5.2 2.5.3 2.5.4 2.5.5 2.5.FAIL.a 2.5.FAIL.b 2.5.FAIL.c 2.5.FAIL.d 2.5.FAIL.e
2.5.DIRTY.a 2.5.DIRTY.b 2.5.DIRTY.c 2.5.DIRTY.d 2.5.DIRTY.e 2.5.DIRTY.f 2.5.DIRTY.g 2.5.DIRTY.h 2.5.DIRTY.i
2.5.BEGIN.a 2.5.BEGIN.b 2.5.BEGIN.c 2.5.END.a 2.5.END.b 2.5.END.c 2.5.+
2.6.1 2.6.2 2.6.3 2.6.4 2.6.5 2.6.+
2.7.1 2.7.2 2.7.3 2.7.4 2.7.5 2.7.6 2.7.7
2.8 2.9
2.10.1 2.10.2 2.10.3 2.10.4 2.10.5 2.10.6 2.10.+ 2.10.S1 2.10.S2 2.10.S+
2.11.unknown 2.11.COMMIT 2.11.DECOMMIT 2.11.PREFETCH 2.11.ALWAYS_NEED 2.11.DONT_NEED 2.11.hints 2.11.ZERO
2.12.1 2.12.2 2.12.3
2.12.4.SNAPSHOT 2.12.4.ON_WRITE 2.12.4.MODIFIED 2.12.4.SLICE 2.12.4.REFERENCE 2.12.+
2.13
3.1 3.2 3.3 3.4 3.5 3.6
3.7.detach 3.7.pager 3.7.vmo 3.7.port
3.8.killed 3.8.suspended 3.8.shrink 3.8.ZERO 3.8.unmap 3.9
4.1 4.1.mapping 4.2 4.3 4.4 4.5 4.5.mapping 4.6 4.7 4.8 4.9 4.10
5.1 5.2 5.2.VMAR
5.3.read 5.3.write 5.3.commit 5.3.kinds 5.3.shrink 5.3.past 5.3.zero 5.3.race 5.3.close 5.3.slice
8.1 8.2 8.3 8.4 8.5 8.6 8.7 8.8 8.9 8.10 8.11 8.12 8.13 8.14 8.15 8.16 8.17 8.18 8.19 8.20 8.21 8.22 8.23 8.24 8.25
"""
"""The contract itself is not part of this tree; these are its rules."""


class Rule(NamedTuple):
    """A rule, and the names of its tests: see the head of ``rules.toml``."""

    number: str
    what: str
    core: tuple[str, ...] = ()
    mount: tuple[str, ...] = ()
    both: tuple[str, ...] = ()
    no_file: bool = False


def _rules() -> list[Rule]:
    sections = tomllib.loads((ROOT / "tests/rules.toml").read_text())["section"]
    return [Rule(**rule) for section in sections for rule in section["rule"]]


def _tests(*folders: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of every test below folders of tests."""
    for path in (path for folder in folders for path in (ROOT / "tests" / folder).glob("test_*.py")):
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                yield node.name, "\n".join(lines[first - 1 : node.end_lineno])


RULES = _rules()
CORE = dict(_tests("unit", "model"))
MOUNT = dict(_tests("fuse", "apps"))


def test_no_rule_is_missing() -> None:
    assert [rule.number for rule in RULES] == EXPECTED.split()


@pytest.mark.parametrize("rule", RULES, ids=[rule.number for rule in RULES])
def test_a_rule_has_tests_where_it_says(rule: Rule) -> None:
    assert rule.what
    assert [name for name in rule.core if name not in CORE] == []
    assert [name for name in (*rule.mount, *rule.both) if name not in MOUNT] == []
    assert rule.core or rule.mount or rule.both or rule.no_file


def test_the_tests_for_both_look_by_pread_and_through_a_mapping() -> None:
    both = {name for rule in RULES for name in rule.both}
    assert len(both) > 30
    for name in both:
        text = MOUNT[name]
        looks = re.search(r'pread|"direct"', text) and re.search("mmap|mapping|mapped", text)
        assert looks or "look: Look" in text, name


def test_what_no_file_can_express_is_explained_in_the_semantics() -> None:
    text = (ROOT / "mount/SEMANTICS.md").read_text()
    section = text[text.index("## What of Zircon no file can express") :].split("\n## ")[0]
    explained = [
        number for cell in re.findall(r"^\| (\d[^|]*) \|", section, re.MULTILINE) for number in cell.split(", ")
    ]
    assert sorted(explained) == sorted(rule.number for rule in RULES if rule.no_file)
