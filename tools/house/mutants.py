"""The command ``tools/mutants``."""

from __future__ import annotations

import argparse
import ast
import json
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tools.house.foreground import ROOT
from tools.house.mutating import Identity, Mutant, Vocabulary, mutants
from tools.house.trials import Tree, relevant_tests

PACKAGES = ("vmofs/core", "vmofs/wire")


@dataclass(frozen=True)
class Site:
    """A mutant, and the file in which it is now."""

    file: str
    mutant: Mutant


@dataclass(frozen=True)
class Outcome:
    """What the tests made of a mutant. ``killed_by``: a test, or the empty string if it survived."""

    site: Site
    killed_by: str
    seconds: float

    def __str__(self) -> str:
        identity, verdict = self.site.mutant.identity, f"killed by {self.killed_by}" if self.killed_by else "SURVIVED"
        return f"{identity}  {self.site.mutant.change}  {self.site.file}  {verdict}"


def sites(packages: list[str]) -> dict[Identity, Site]:
    """Return all mutants of the packages, in an order in which moved files change nothing.

    Left out are those whose function has the same name as another one, in another file: they could not be told apart.
    """
    words, found = vocabulary(), dict[Identity, Site]()
    files: dict[str, set[str]] = {}
    for path in sorted(path for package in packages for path in _modules(ROOT / package)):
        file = str(path.relative_to(ROOT))
        for mutant in mutants(ast.parse(path.read_text()), words):
            found[mutant.identity] = Site(file, mutant)
            files.setdefault(mutant.identity.function, set()).add(file)
    return {identity: found[identity] for identity in sorted(found) if len(files[identity.function]) == 1}


def _modules(path: Path) -> list[Path]:
    return list(path.rglob("*.py")) if path.is_dir() else [path]


def vocabulary() -> Vocabulary:
    """Return the enumerations and errors of the whole model."""
    return Vocabulary.of(path.read_text() for path in sorted((ROOT / "vmofs").rglob("*.py")))


def chosen(all_sites: dict[Identity, Site], count: int, seed: int) -> list[Site]:
    """Return some of the mutants, the same for the same seed and the same code."""
    identities = random.Random(seed).sample(list(all_sites), min(count, len(all_sites)))  # noqa: S311
    return [all_sites[identity] for identity in identities]


def again(all_sites: dict[Identity, Site], text: str) -> list[Site]:
    """Return the mutants of a list, and say which no longer exist, and which are about other code now.

    What a run has printed is a list, too.
    """
    found = []
    for line in text.splitlines():
        if " => " not in line:  # the summary
            continue
        identity, change = Identity.of(line), line.split("  ")[1]
        site = all_sites.get(identity)
        if site is None:
            print(f"{identity}  NO LONGER EXISTS  {change}")
            continue
        if site.mutant.change != change:
            print(f"{identity}  OTHER CODE  it was {change}")
        found.append(site)
    return found


def tried(wanted: list[Site], jobs: int, directory: Path) -> list[Outcome]:
    """Run the tests against each of the mutants, and print what became of it."""
    trees: SimpleQueue[Tree] = SimpleQueue()
    for number in range(jobs):
        trees.put(Tree(directory / f"tree{number}"))
    words = vocabulary()

    def attempt(site: Site) -> Outcome:
        tree, began = trees.get(), time.monotonic()
        try:
            outcome = Outcome(site, tree.trial(site.file, site.mutant.identity, words), time.monotonic() - began)
        finally:
            trees.put(tree)
        print(outcome, flush=True)
        return outcome

    tree = trees.get()
    for package in sorted({"/".join(site.file.split("/")[:2]) for site in wanted}):
        near, others = relevant_tests(tree.root, f"{package}/__init__.py")
        if failure := tree.first_failure(near + others):
            raise RuntimeError(f"without any mutant {failure} fails")
    trees.put(tree)
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(attempt, wanted))


def summary(outcomes: list[Outcome]) -> str:
    """Return how many were killed, by kind, by folder of the test, and by package."""
    killed = [outcome for outcome in outcomes if outcome.killed_by]
    lines = [f"{len(outcomes)} mutants, {len(killed)} killed, {len(outcomes) - len(killed)} survived"]
    for title, key in (
        ("kind", lambda outcome: outcome.site.mutant.identity.kind),
        ("package", lambda outcome: "/".join(outcome.site.file.split("/")[:2])),
    ):
        total, dead = Counter(map(key, outcomes)), Counter(map(key, killed))
        lines += [f"  {title} {name}: {dead[name]} of {total[name]} killed" for name in sorted(total)]
    folders = Counter("/".join(outcome.killed_by.split("/")[:2]) for outcome in killed)
    lines += [f"  killed by {folder}: {folders[folder]}" for folder in sorted(folders)]
    return "\n".join(lines)


def as_json(outcomes: list[Outcome]) -> str:
    """Return the outcomes as data."""
    records = [
        {
            "function": outcome.site.mutant.identity.function,
            "kind": outcome.site.mutant.identity.kind,
            "ordinal": outcome.site.mutant.identity.ordinal,
            "file": outcome.site.file,
            "change": outcome.site.mutant.change,
            "killed_by": outcome.killed_by,
            "seconds": round(outcome.seconds, 1),
        }
        for outcome in outcomes
    ]
    return json.dumps(records, indent=1) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/mutants", description="Break core and wire in small ways, and see whether the tests notice."
    )
    add = parser.add_argument
    add("--count", type=int, default=200, help="how many mutants are chosen (200)")
    add("--seed", type=int, default=1, help="which (1)")
    add("--list", action="store_true", help="run nothing; print the chosen mutants, for --only")
    add("--only", type=Path, metavar="FILE", help="those of a list, instead of a choice")
    add("--in", dest="packages", action="append", metavar="PATH", help=f"what is broken ({', '.join(PACKAGES)})")
    add("--jobs", type=int, default=1, help="how many at a time (1)")
    add("--json", type=Path, metavar="FILE", help="also write the outcomes there")
    return parser.parse_args()


def main() -> int:
    """Run, and return the exit code."""
    parsed = _arguments()
    all_sites = sites(parsed.packages or list(PACKAGES))
    if parsed.only is None:
        wanted = chosen(all_sites, parsed.count, parsed.seed)
    else:
        wanted = again(all_sites, parsed.only.read_text())
    if parsed.list:
        print("\n".join(f"{site.mutant.identity}  {site.mutant.change}" for site in wanted))
        return 0
    with tempfile.TemporaryDirectory(prefix="vmofs-mutants-") as directory:
        outcomes = tried(wanted, parsed.jobs, Path(directory))
    print(summary(outcomes))
    if parsed.json is not None:
        parsed.json.write_text(as_json(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
