"""Finds the small ways in which a module can be broken, and breaks it in one of them.

A mutant is known by the qualified name of its function, its kind, and its number among those of this kind in the
function: so it is found again after its file has moved. Outside of functions the name that is assigned counts.

Not mutated: annotations, decorators, texts and what is formatted into them, asserts and functions of checks that hold
asserts, ``__repr__`` and ``__str__``, ``if TYPE_CHECKING``. Some mutants change nothing that anybody can see.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

Put = Callable[[ast.AST], None]
"""Puts another node in the place of one."""


class Kind(StrEnum):
    """How a module is broken."""

    OPERATOR = "operator"
    BOUND = "bound"  # off by one: < for <=
    COMPARISON = "comparison"  # the opposite: == for !=
    CONSTANT = "constant"  # one more, or the other truth
    STATE = "state"  # another member of the same enumeration
    STATUS = "status"  # another error
    CALL = "call"  # not called
    RETURN = "return"  # goes on instead
    BRANCH = "branch"  # taken when it should not be


_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
_BOUNDS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
_OPPOSITES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "type_comment", "bases"}
_ENUMERATIONS = {"Enum", "IntEnum", "StrEnum", "Flag", "IntFlag"}
_ERROR = "VmoError"


@dataclass(frozen=True, order=True)
class Identity:
    """What a mutant is known by."""

    function: str
    kind: str
    ordinal: int

    def __str__(self) -> str:
        return f"{self.function} {self.kind} {self.ordinal}"

    @staticmethod
    def of(text: str) -> Identity:
        """Return what a line begins with that ``str`` has made."""
        function, kind, ordinal = text.split()[:3]
        return Identity(function, kind, int(ordinal))


@dataclass(frozen=True)
class Mutant:
    """One way to break a module. ``change`` is what a reader wants to know: what was there, and what is now."""

    identity: Identity
    change: str
    apply: Callable[[], None] = field(compare=False)
    """Changes the tree in which it was found."""


@dataclass(frozen=True)
class Vocabulary:
    """The members of each enumeration of the project, and the names of its errors, in their order."""

    members: dict[str, list[str]]
    errors: list[str]

    @staticmethod
    def of(sources: Iterable[str]) -> Vocabulary:
        """Return what these modules define."""
        members: dict[str, list[str]] = {}
        errors: list[str] = []
        for source in sources:
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.ClassDef):
                    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                    if bases & _ENUMERATIONS:
                        members[node.name] = [name for item in node.body for name in _assigned(item) if name.isupper()]
                    if _ERROR in bases:
                        errors.append(node.name)
        return Vocabulary(members, errors)


def mutants(tree: ast.Module, vocabulary: Vocabulary) -> list[Mutant]:
    """Return all mutants of a module. Only one of them may be applied to a tree."""
    finder = _Finder(vocabulary, tree)
    for statement in tree.body:
        names = _assigned(statement)
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            finder.visit(statement, lambda _: None)
        elif names:
            finder.inside(names[0], statement)
    return finder.found


def broken(source: str, identity: Identity, vocabulary: Vocabulary) -> str:
    """Return the text of a module with one mutant.

    Raises:
        KeyError: it has no such mutant.
    """
    tree = ast.parse(source)
    by_identity = {mutant.identity: mutant for mutant in mutants(tree, vocabulary)}
    by_identity[identity].apply()
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


class _Finder:
    """Walks through a module. ``put`` is handed down with each node, and replaces it."""

    def __init__(self, vocabulary: Vocabulary, tree: ast.Module) -> None:
        self.found: list[Mutant] = []
        self._vocabulary = vocabulary
        self._path: list[str] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._aliases = {
            name: value.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            for name, value in _pairs(target, node.value)
            if isinstance(value, ast.Name)
        }

    def inside(self, name: str, node: ast.AST) -> None:
        """Look at what is below a node that has a name."""
        self._path.append(name)
        self._look_below(node)
        self._path.pop()

    def visit(self, node: ast.AST, put: Put) -> None:
        """Look at a node and at all below it."""
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if name not in {"__repr__", "__str__"} and not _is_check(node):
                    self.inside(name, node)
                return
            case ast.ClassDef(name=name):
                self.inside(name, node)
                return
            case ast.JoinedStr() | ast.Assert() | ast.If(test=ast.Name(id="TYPE_CHECKING")):
                return
            case ast.stmt():
                self._look_at_statement(node, put)
            case ast.expr():
                self._look_at_expression(node, put)
            case ast.comprehension():
                for index, test in enumerate(node.ifs):
                    self._negate(test, _item(node.ifs, index))
        self._look_below(node)

    def _look_below(self, node: ast.AST) -> None:
        for name, value in ast.iter_fields(node):
            if name in _SKIPPED_FIELDS:
                continue
            if isinstance(value, ast.AST):
                self.visit(value, _attribute(node, name))
            elif isinstance(value, list):
                for index, item in enumerate(value):
                    if isinstance(item, ast.AST):
                        self.visit(item, _item(value, index))

    def _look_at_statement(self, node: ast.stmt, put: Put) -> None:
        match node:
            case ast.Expr(value=ast.Call() as call) | ast.Expr(value=ast.Await(value=ast.Call() as call)):
                if not ast.unparse(call.func).startswith("_log."):
                    self._add(Kind.CALL, node, ast.Pass(), put)
            case ast.Return(value=None):
                self._add(Kind.RETURN, node, ast.Pass(), put)
            case ast.Return(value=ast.expr() as value):
                self._add(Kind.RETURN, node, ast.Expr(value), put)
            case ast.If(test=test) | ast.While(test=test):
                self._negate(test, _attribute(node, "test"))
            case ast.AugAssign(op=op) if type(op) in _ARITHMETIC:
                new = ast.AugAssign(node.target, _ARITHMETIC[type(op)](), node.value)
                self._add(Kind.OPERATOR, node, new, put)

    def _look_at_expression(self, node: ast.expr, put: Put) -> None:
        match node:
            case ast.Attribute() | ast.Call():
                self._look_at_name(node, put)
            case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
                self._add(Kind.OPERATOR, node, ast.BinOp(node.left, _ARITHMETIC[type(op)](), node.right), put)
            case ast.BoolOp(op=op):
                other: ast.boolop = ast.Or() if isinstance(op, ast.And) else ast.And()
                self._add(Kind.OPERATOR, node, ast.BoolOp(other, node.values), put)
            case ast.UnaryOp(op=ast.Not()):
                self._add(Kind.OPERATOR, node, node.operand, put)
            case ast.Compare():
                self._look_at_comparison(node, put)
            case ast.Constant(value=bool() as value):
                self._add(Kind.CONSTANT, node, ast.Constant(not value), put)
            case ast.Constant(value=int() as value):
                self._add(Kind.CONSTANT, node, ast.Constant(value + 1), put)
            case ast.IfExp(test=test):
                self._negate(test, _attribute(node, "test"))

    def _look_at_name(self, node: ast.Attribute | ast.Call, put: Put) -> None:
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=member):
                members = self._vocabulary.members.get(self._aliases.get(name, name), [])
                if member in members:
                    self._add(Kind.STATE, node, ast.Attribute(node.value, _next(members, member), node.ctx), put)
            case ast.Call(func=ast.Name(id=name) as function) if name in self._vocabulary.errors:
                self._swap_error(function, _next(self._vocabulary.errors, name), _attribute(node, "func"))

    def _swap_error(self, old: ast.Name, name: str, put: Put) -> None:
        """Raise another error, which the module need not have imported."""
        found = f"next(error for error in {old.id}.__base__.__subclasses__() if error.__name__ == {name!r})"
        self._add(Kind.STATUS, old, ast.parse(found, mode="eval").body, put, name)

    def _look_at_comparison(self, node: ast.Compare, put: Put) -> None:
        for index, op in enumerate(node.ops):
            kind, table = (Kind.BOUND, _BOUNDS) if type(op) in _BOUNDS else (Kind.COMPARISON, _OPPOSITES)
            ops = [*node.ops[:index], table[type(op)](), *node.ops[index + 1 :]]
            self._add(kind, node, ast.Compare(node.left, ops, node.comparators), put)

    def _negate(self, test: ast.expr, put: Put) -> None:
        """Negate a condition, unless that is done by another kind of mutant."""
        match test:
            case ast.UnaryOp(op=ast.Not()):
                return
            case ast.Compare(ops=[op]) if type(op) in _OPPOSITES:
                return
        self._add(Kind.BRANCH, test, ast.UnaryOp(ast.Not(), test), put)

    def _add(self, kind: Kind, old: ast.AST, new: ast.AST, put: Put, said: str = "") -> None:
        function = ".".join(self._path)
        identity = Identity(function, kind, self._counts[function, kind])
        self._counts[function, kind] += 1
        self.found.append(Mutant(identity, f"{_short(old)} => {said or _short(new)}", lambda: put(new)))


def _attribute(node: ast.AST, name: str) -> Put:
    return lambda new: setattr(node, name, new)


def _item(items: list[ast.expr] | list[ast.AST], index: int) -> Put:
    def put(new: ast.AST) -> None:
        items[index] = new  # type: ignore[call-overload] # a statement for a statement, an expression for an expression

    return put


def _next(names: list[str], name: str) -> str:
    return names[(names.index(name) + 1) % len(names)]


def _assigned(statement: ast.AST) -> list[str]:
    """Return the names that a statement assigns to."""
    match statement:
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _pairs(target: ast.expr, value: ast.expr) -> list[tuple[str, ast.expr]]:
    """Return what is assigned to which name."""
    match target, value:
        case ast.Name(id=name), _:
            return [(name, value)]
        case ast.Tuple(elts=targets), ast.Tuple(elts=values):
            return [pair for one, other in zip(targets, values, strict=True) for pair in _pairs(one, other)]
    return []


def _is_check(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a function checks that the model is whole."""
    named = function.name.lstrip("_").split("_")[0] == "check"
    return named and any(isinstance(node, ast.Assert) for node in ast.walk(function))


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(node)).split())
    return text if len(text) <= 70 else f"{text[:67]}..."
