"""The map says what is there: ARCHITECTURE, CONCURRENCY and CONTRIBUTING name nothing that does not exist."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmofs.core
import vmofs_mount

ROOT = Path(__file__).parents[2]
MAPS = [ROOT / "mount/ARCHITECTURE.md", ROOT / "mount/CONCURRENCY.md", ROOT / "CONTRIBUTING.md"]
SOURCES = (ROOT / "mount/vmofs_mount", ROOT / "vmofs")
PLACES = (ROOT, ROOT / "mount", ROOT / "mount/vmofs_mount")
"""What a path in a map may begin at."""

IN_A_MOUNT = {"aux", "control", "supply", "vmo"}
FOREIGN_ROOTS = {"pyfuse3", "trio"}
FOREIGN = {
    *("O_DIRECT", "O_NONBLOCK", "PIPE_BUF", "faccessat2", "setfsgid", "setfsuid", "setgroups"),  # system calls
    *("exec_update_lock", "i_rwsem", "inotify_add_watch", "killsb", "mmap_lock"),  # the kernel's
    *("ZX_OK", "zx_vmo_op_range"),  # Zircon's
    *("ignore_imports",),  # import-linter's
}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    """Yield what a module or a class defines in its own body."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def _attributes(tree: ast.AST) -> Iterator[str]:
    """Yield what is assigned to attributes, and the parameters of functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.arg):
            yield node.arg


class Code:
    """What the modules of the product define."""

    def __init__(self) -> None:
        self.modules: dict[str, set[str]] = {}
        self.classes: dict[str, set[str]] = {}
        self.bases: dict[str, list[str]] = {}
        self.names: set[str] = set()
        for path in (path for source in SOURCES for path in source.rglob("*.py")):
            tree = ast.parse(path.read_text())
            stem = path.parent.name if path.stem == "__init__" else path.stem
            self.modules.setdefault(stem, set()).update(_defined(tree.body))
            self.names.update(_attributes(tree))
            for node in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
                members = {*_defined(node.body), *_attributes(node)}
                self.classes.setdefault(node.name, set()).update(members)
                self.bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
        self.names.update(*self.modules.values(), *self.classes.values())

    def has(self, dotted: str) -> bool:
        """Return whether a name is there: ``name``, ``Class.member``, ``module.name``, or ``a.package.module``."""
        *path, last = dotted.split(".")
        if not path:
            return last in self.names or last in self.modules
        if path[0] in FOREIGN_ROOTS:
            return True
        if path[0] == "vmofs":
            place = ROOT.joinpath(*path, last)
            return place.is_dir() or place.with_suffix(".py").exists()
        return last in self._of(path[-1]) or last in self.modules.get(path[-1], ())

    def _of(self, name: str) -> Iterator[str]:
        yield from self.classes.get(name, ())
        for base in self.bases.get(name, ()):
            yield from self._of(base)


CODE = Code()


def _quoted(document: Path) -> list[str]:
    """Return what stands in backquotes, drawings and examples left out."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`]+)`", text)


def _paths(document: Path) -> list[str]:
    words = [word for text in _quoted(document) for word in text.split()[:1] if re.fullmatch(r"[\w./-]+", word)]
    return [
        word
        for word in words
        if ("/" in word or re.search(r"\.(py|md|toml)$", word))
        and not word.startswith("/")
        and word.split("/")[0] not in IN_A_MOUNT
    ]


def _names(document: Path) -> list[str]:
    """Return the names of code: with a dot, an underscore, or a capital and a small letter."""
    words = [re.sub(r"\(.*", "", text) for text in _quoted(document)]
    return [
        word
        for word in words
        if re.fullmatch(r"[A-Za-z_][\w.]*", word)
        and not re.search(r"\.(py|md|toml)$", word)
        and ("." in word or "_" in word or re.search(r"[A-Z].*[a-z]", word))
    ]


@pytest.mark.parametrize("document", MAPS, ids=_name)
def test_every_path_of_a_map_is_there(document: Path) -> None:
    paths = _paths(document)
    assert paths
    modules = {path.name for source in SOURCES for path in source.rglob("*.py")}
    there = {path for path in paths if path in modules or any((place / path).exists() for place in PLACES)}
    assert sorted(set(paths) - there) == []


@pytest.mark.parametrize("document", MAPS, ids=_name)
def test_every_class_and_function_of_a_map_is_there(document: Path) -> None:
    names = _names(document)
    assert names
    assert [name for name in names if name not in FOREIGN and not CODE.has(name)] == []


def test_a_map_that_names_what_is_not_there_is_found_out() -> None:
    assert not CODE.has("Engine.hurry")
    assert not CODE.has("engine.Motor")
    assert not CODE.has("Motor")
    assert not CODE.has("vmofs.core.motor")


def _rooms(container: str) -> set[str]:
    """Return the rooms of a package, as its import contract lists them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract.get("containers") == [container])
    return set(re.findall(r"\w+", " ".join(layers)))


@pytest.mark.parametrize("package", [vmofs_mount, vmofs.core], ids=lambda package: package.__name__)
def test_every_room_is_in_the_map(package: object) -> None:
    rooms = _rooms(getattr(package, "__name__"))  # noqa: B009 - a module has one
    assert rooms
    drawing, text = (ROOT / "mount/ARCHITECTURE.md").read_text(), package.__doc__ or ""
    assert [room for room in sorted(rooms) if f"`{room}`" not in drawing] == []
    assert [room for room in sorted(rooms) if not re.search(rf"\b{room}\b", text)] == []


MODULES = sorted(path for source in SOURCES for path in source.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_every_path_that_a_module_names_is_there(module: Path) -> None:
    named = set(re.findall(r"\b(?:mount|tests|tools|vmofs)/[\w/]+\.(?:md|py|toml)\b", module.read_text()))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
