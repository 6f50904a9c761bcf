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


# Sizes and shapes. What is listed by name is not as it should be yet; nothing may join it.

MOST_CLASS_LINES = 300
LONG_CLASSES = {"Pager", "PagerPages", "CowPages", "PageCache"}
MOST_PARAMETERS = 6
LONG_CONSTRUCTORS = {"PagerPages", "VmoPages"}
MOST_ANY_IN_MOUNT = 5
CIRCLES = {
    frozenset({"access", "outstanding", "page_source", "port", "request", "system"}),
    frozenset({"cow_pages", "found"}),
}


def _classes() -> list[tuple[Path, ast.ClassDef]]:
    return [
        (module, node)
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]


def test_a_class_is_short() -> None:
    long = {node.name for _, node in _classes() if (node.end_lineno or 0) - node.lineno >= MOST_CLASS_LINES}
    assert long <= LONG_CLASSES


def test_a_constructor_has_few_parameters() -> None:
    found = set()
    for _, node in _classes():
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                arguments = method.args
                if len(arguments.args) - 1 + len(arguments.kwonlyargs) > MOST_PARAMETERS:
                    found.add(node.name)
    assert found <= LONG_CONSTRUCTORS


def test_the_mount_has_hardly_any_any() -> None:
    names = [
        node
        for module in (ROOT / "mount").rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "Any"
    ]
    assert len(names) <= MOST_ANY_IN_MOUNT


def _dotted(module: Path) -> str:
    source = next(source for source in SOURCES if module.is_relative_to(source))
    base = ROOT if source.name == "vmofs" else source
    return ".".join(module.relative_to(base).with_suffix("").parts).removesuffix(".__init__")


def _imports(module: Path, known: set[str]) -> set[str]:
    """Return the modules of ours that a module imports, those for annotations only as well."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in known else node.module)
    return found & known - {_dotted(module)}


def test_files_do_not_import_each_other_in_circles() -> None:
    known = {_dotted(module) for module in MODULES}
    reached = {_dotted(module): _imports(module, known) for module in MODULES}
    for through in known:  # Warshall
        for imports in reached.values():
            if through in imports:
                imports.update(reached[through])
    circles = {
        frozenset(other.rpartition(".")[2] for other in known if other in reached[name] and name in reached[other])
        for name in known
        if name in reached[name]
    }
    assert circles <= CIRCLES
