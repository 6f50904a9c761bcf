"""What ``tools/mutants`` breaks, and how it finds a mutant again."""

from __future__ import annotations

import ast

import pytest

from tools.house.foreground import ROOT
from tools.house.mutants import Outcome, again, chosen, sites
from tools.house.mutating import Identity, Kind, Vocabulary, broken, mutants
from tools.house.trials import relevant_tests

SAMPLE = '''
"""A module with 1 docstring."""
class State(Enum):
    A = 1
    B = 2
class LateError(VmoError): pass
class LostError(VmoError): pass
MOST = 7
class Thing:
    """With 1 docstring."""
    def step(self, count: Most[3], s=State) -> int:
        if count < MOST and s is not None:
            self.note(f"{count + 1}")
        return count + 1
    def end(self):
        raise LateError("it is 3")
    def check(self):
        assert self.count == 0
    def __repr__(self):
        return str(1 + 1)
def state():
    """1."""
    _log.info(1)
    return State.A
'''
WORDS = Vocabulary.of([SAMPLE])


def changes(function: str) -> dict[str, list[str]]:
    """Return the mutants of a function of the sample, by kind."""
    found: dict[str, list[str]] = {}
    for mutant in mutants(ast.parse(SAMPLE), WORDS):
        if mutant.identity.function == function:
            assert mutant.identity.ordinal == len(found.setdefault(mutant.identity.kind, []))
            found[mutant.identity.kind].append(mutant.change)
    return found


def test_a_function_is_broken_in_each_way_that_it_offers() -> None:
    assert changes("Thing.step") == {
        Kind.BRANCH: ["count < MOST and s is not None => not (count < MOST and s is not None)"],
        Kind.OPERATOR: ["count < MOST and s is not None => count < MOST or s is not None", "count + 1 => count - 1"],
        Kind.BOUND: ["count < MOST => count <= MOST"],
        Kind.COMPARISON: ["s is not None => s is None"],
        Kind.CALL: ["self.note(f'{count + 1}') => pass"],
        Kind.RETURN: ["return count + 1 => count + 1"],
        Kind.CONSTANT: ["1 => 2"],
    }


def test_states_and_errors_are_swapped_and_constants_have_the_name_that_is_assigned() -> None:
    assert changes("state")[Kind.STATE] == ["State.A => State.B"]
    assert changes("Thing.end") == {Kind.STATUS: ["LateError => LostError"]}
    assert changes("MOST") == {Kind.CONSTANT: ["7 => 8"]}


def test_texts_logs_checks_and_representations_are_left_alone() -> None:
    assert changes("Thing.check") == changes("Thing.__repr__") == changes("Thing") == {}
    assert Kind.CALL not in changes("state")


@pytest.mark.parametrize(
    ("function", "kind", "line"),
    [
        ("Thing.step", Kind.BOUND, "        if count <= MOST and s is not None:"),
        ("Thing.step", Kind.RETURN, "        count + 1"),
        ("Thing.step", Kind.CALL, "            pass"),
        ("state", Kind.STATE, "    return State.B"),
    ],
)
def test_a_broken_module_differs_in_one_place(function: str, kind: Kind, line: str) -> None:
    whole = ast.unparse(ast.parse(SAMPLE)).splitlines()
    differing = [
        new
        for old, new in zip(whole, broken(SAMPLE, Identity(function, kind, 0), WORDS).splitlines(), strict=True)
        if old != new
    ]
    assert differing == [line]


def test_a_mutant_is_the_same_after_its_function_has_moved() -> None:
    moved = SAMPLE.replace("MOST = 7\n", "").replace("class Thing", "def other():\n    return 1\n\n\nclass Thing")
    before = {mutant for mutant in mutants(ast.parse(SAMPLE), WORDS) if mutant.identity.function != "MOST"}
    assert before < set(mutants(ast.parse(moved), WORDS))


def test_a_list_is_found_again_and_what_is_gone_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    all_sites = sites(["vmofs/wire"])
    wanted = chosen(all_sites, 20, seed=5)
    assert wanted == chosen(all_sites, 20, seed=5)
    lines = [f"{site.mutant.identity}  {site.mutant.change}" for site in wanted]
    outcomes = [str(Outcome(site, "tests/unit/test_a.py::test_b", 1)) for site in wanted]
    assert again(all_sites, "\n".join([*outcomes, "20 mutants, 20 killed, 0 survived"])) == wanted
    gone = [lines[0].split(" ", 1)[0] + "x " + lines[0].split(" ", 1)[1], *lines[1:19], f"{lines[19]} + 1"]
    assert again(all_sites, "\n".join(lines)) == wanted
    assert again(all_sites, "\n".join(gone)) == wanted[1:]
    said = capsys.readouterr().out.splitlines()
    assert ["NO LONGER EXISTS" in said[0], "OTHER CODE" in said[1], len(said)] == [True, True, 2]


def test_the_tests_that_import_the_module_come_first_and_the_models_last() -> None:
    near, others = relevant_tests(ROOT, "vmofs/core/pages/ranges.py")
    assert "tests/unit/test_core_ranges.py" in near
    assert others[-1].startswith("tests/model/")
    assert not any("test_wire" in test for test in near + others)
