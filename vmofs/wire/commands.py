r"""Commands: the text of the command files and the values that it stands for.

One line is one command, for the file whose name is the kind of command. The grammar, where blanks and tabs separate
words, and names and operations are accepted in either case::

    create_vmo          VMO SIZE [key=N] [resizable] [trap_dirty] [unbounded] [writeback] [noevict] [mode=OCTAL] [port=NAME] [readahead=SIZE] [blksize=SIZE] [source=TEXT] [version=TEXT]
    serve_directory     DIRECTORY [trap_dirty] [writeback] [port=NAME]
    supply_pages        VMO OFFSET LENGTH AUX AUX_OFFSET [xxh3=HEX]
    detach_vmo          VMO
    op_range            OP VMO OFFSET LENGTH [DATA] [reason=REASON]
    evict               VMO OFFSET LENGTH
    mark                VMO OFFSET LENGTH
    query_dirty_ranges  VMO OFFSET LENGTH
    query_vmo_stats     VMO [reset]
    vmo_create          AUX SIZE [resizable] [contiguous | physical]
    vmo_create_child    KIND PARENT CHILD OFFSET SIZE [no_write] [resizable]
    vmo_op_range        OP VMO OFFSET LENGTH
    vmo_set_stream_size VMO SIZE
    vmo_pin             VMO OFFSET LENGTH

    VMO AUX PARENT CHILD DIRECTORY    a path relative to the mount point: names.parse_path
    SIZE OFFSET LENGTH AUX_OFFSET N   a number: numbers.parse_number; bytes, except N, which is a pager's own key
    OCTAL    permission bits, 0 to 777
    NAME     the name of a FIFO of the pager, one component
    HEX      16 hexadecimal digits: XXH3-64 with seed 0 of the LENGTH bytes
    OP       op_range:      FAIL  DIRTY  WRITEBACK_BEGIN  WRITEBACK_END
             vmo_op_range:  commit  decommit  zero  prefetch  always_need  dont_need
    DATA     a status (ZX_ERR_IO or IO), is_zero (which is 1) or a number that fits in 64 bits, signed or not;
             0 when it is left out, which FAIL does not permit
    REASON   why a range fails: 1 to 500 bytes, written as names are (names.escape); FAIL alone takes it
    TEXT     1 to 4000 bytes, written as names are
    KIND     snapshot  snapshot_at_least_on_write  snapshot_modified  slice  reference

Only the text is judged here. Alignment, ranges, and whether options and DATA go together with the operation is
the business of the core, since Zircon looks at handles before it looks at most of that. For the same reason an OP of
op_range that does not exist is no error here: it is NOT_SUPPORTED once the handles are found to be good.
"""  # noqa: E501 - a form is one line

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from vmofs.status import InvalidArgsError
from vmofs.vocabulary import AuxKind, ChildKind, PagerOp, VmoOp
from vmofs.wire.forms import Form
from vmofs.wire.values import CHECKSUM, DATA, MODE, NAME, NUMBER, PATH, REASON, TEXT, WORD, fold, one_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmofs.wire.values import Codec


class CommandKind(StrEnum):
    """The name of a command file."""

    CREATE_VMO = "create_vmo"
    SERVE_DIRECTORY = "serve_directory"
    SUPPLY_PAGES = "supply_pages"
    DETACH_VMO = "detach_vmo"
    OP_RANGE = "op_range"
    EVICT = "evict"
    MARK = "mark"
    QUERY_DIRTY_RANGES = "query_dirty_ranges"
    QUERY_VMO_STATS = "query_vmo_stats"
    VMO_CREATE = "vmo_create"
    VMO_CREATE_CHILD = "vmo_create_child"
    VMO_OP_RANGE = "vmo_op_range"
    VMO_SET_STREAM_SIZE = "vmo_set_stream_size"
    VMO_PIN = "vmo_pin"


@dataclass(frozen=True, slots=True)
class CreateVmo:
    """Create a pager VMO. Zircon: zx_pager_create_vmo."""

    vmo: str
    size: int
    key: int | None = None
    resizable: bool = False
    trap_dirty: bool = False
    unbounded: bool = False
    mode: int | None = None
    port: str | None = None
    writeback: bool = False
    noevict: bool = False
    readahead: int | None = None
    blksize: int | None = None
    source: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class ServeDirectory:
    """Let files that are made in a directory, and below, be resizable VMOs of this pager. No call of Zircon's."""

    directory: str
    trap_dirty: bool = False
    writeback: bool = False
    port: str | None = None


@dataclass(frozen=True, slots=True)
class SupplyPages:
    """Move pages from an aux VMO into a pager VMO. Zircon: zx_pager_supply_pages."""

    vmo: str
    offset: int
    length: int
    aux: str
    aux_offset: int
    xxh3: int | None = None


@dataclass(frozen=True, slots=True)
class DetachVmo:
    """Detach a VMO from its pager. Zircon: zx_pager_detach_vmo."""

    vmo: str


@dataclass(frozen=True, slots=True)
class OpRange:
    """Fail, acknowledge or write back a range. Zircon: zx_pager_op_range."""

    op: PagerOp | None
    """None: no operation of this API; ``op_text`` is what was written."""

    vmo: str
    offset: int
    length: int
    data: int = 0
    op_text: str = ""
    """Empty unless ``op`` is None."""

    reason: str | None = None
    """Only of FAIL."""


@dataclass(frozen=True, slots=True)
class Evict:
    """Drop clean, unpinned pages. Zircon: what the kernel does under memory pressure."""

    vmo: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Be told of the first read of each page of a range. No call of Zircon's."""

    vmo: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class QueryDirtyRanges:
    """Ask for the dirty ranges. Zircon: zx_pager_query_dirty_ranges."""

    vmo: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class QueryVmoStats:
    """Ask whether the VMO was modified. Zircon: zx_pager_query_vmo_stats."""

    vmo: str
    reset: bool = False


@dataclass(frozen=True, slots=True)
class VmoCreate:
    """Create an aux VMO that is no ordinary file. Zircon: zx_vmo_create, _contiguous, _physical."""

    aux: str
    size: int
    resizable: bool = False
    kind: AuxKind = AuxKind.PLAIN


@dataclass(frozen=True, slots=True)
class VmoCreateChild:
    """Create a child VMO. Zircon: zx_vmo_create_child."""

    kind: ChildKind
    parent: str
    child: str
    offset: int
    size: int
    no_write: bool = False
    resizable: bool = False


@dataclass(frozen=True, slots=True)
class VmoOpRange:
    """Commit, zero or hint at a range. Zircon: zx_vmo_op_range."""

    op: VmoOp
    vmo: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class VmoSetStreamSize:
    """Set the byte-exact size. Zircon: zx_vmo_set_stream_size."""

    vmo: str
    size: int


@dataclass(frozen=True, slots=True)
class VmoPin:
    """Pin a range until the open file is closed. Zircon: zx_bti_pin."""

    vmo: str
    offset: int
    length: int


Command: TypeAlias = (
    CreateVmo
    | ServeDirectory
    | SupplyPages
    | DetachVmo
    | OpRange
    | Evict
    | Mark
    | QueryDirtyRanges
    | QueryVmoStats
    | VmoCreate
    | VmoCreateChild
    | VmoOpRange
    | VmoSetStreamSize
    | VmoPin
)


def parse_command(kind: CommandKind, line: str) -> Command:
    """Return the command that this line is for the command file ``kind``.

    Raises:
        InvalidArgsError: The line is not of the form of this kind; the sentence says where, and often the form.
    """
    syntax = _SYNTAXES[kind]
    values = syntax.form.parse(line)
    if kind is CommandKind.OP_RANGE:
        return _op_range(**values)
    if kind is CommandKind.VMO_CREATE and values["kind"] is None:
        values["kind"] = AuxKind.PLAIN
    return syntax.command(**values)


def format_command(command: Command) -> str:
    """Return the line, without newline, that ``parse_command`` makes into an equal command."""
    values = {field.name: getattr(command, field.name) for field in fields(command)}
    if isinstance(command, OpRange):
        values["op"] = command.op_text if command.op is None else command.op.name
        values["data"] = command.data if command.data or command.op is PagerOp.FAIL else None
    if isinstance(command, VmoCreate) and command.kind is AuxKind.PLAIN:
        values["kind"] = None  # it has no word
    return _SYNTAXES[command_kind(command)].form.format(values)


def command_kind(command: Command) -> CommandKind:
    """Return the kind of a command: the name of the file that it is written to."""
    return _KINDS[type(command)]


def _op_range(*, op: str, data: int | None, **values: Any) -> OpRange:  # noqa: ANN401 - of the form
    known = _PAGER_OPS.get(fold(op))
    if known is PagerOp.FAIL and data is None:
        raise InvalidArgsError(f"FAIL needs a status; usage: {_OP_RANGE_USAGE[0]}")
    if known not in {None, PagerOp.FAIL} and values["reason"] is not None:
        raise InvalidArgsError(f"{op} takes no reason; usage: {_OP_RANGE_USAGE[known.value - 1]}")
    return OpRange(op=known, data=data or 0, op_text="" if known else op, **values)


class _Syntax(NamedTuple):
    """How one kind of command is written, and the class of what it stands for."""

    command: type[Command]
    form: Form
    usage: str


def _syntax(command: type[Command], form: str, *, op: Codec | None = None, usage: str = "") -> _Syntax:
    """Return the syntax; ``op`` is the codec of OP in this form, ``usage`` what stands for the form in ``USAGE``."""
    codecs = _CODECS if op is None else {**_CODECS, "OP": op}
    return _Syntax(command, Form(form, codecs), f"{usage or form}\n")


_CODECS = {
    **dict.fromkeys(("VMO", "AUX", "PARENT", "CHILD", "DIRECTORY"), PATH),
    **dict.fromkeys(("SIZE", "OFFSET", "LENGTH", "AUX_OFFSET", "N"), NUMBER),
    "OCTAL": MODE,
    "NAME": NAME,
    "HEX": CHECKSUM,
    "REASON": REASON,
    "TEXT": TEXT,
    "DATA": DATA,
    "KIND": one_of(ChildKind),
    "contiguous | physical": one_of(kind for kind in AuxKind if kind is not AuxKind.PLAIN),
}

_OP_RANGE_USAGE = (
    "FAIL VMO OFFSET LENGTH STATUS [reason=REASON]",
    "DIRTY VMO OFFSET LENGTH",
    "WRITEBACK_BEGIN VMO OFFSET LENGTH [is_zero]",
    "WRITEBACK_END VMO OFFSET LENGTH",
)
_PAGER_OPS = {op.name.lower(): op for op in PagerOp}
_CHILD_FORM = "KIND PARENT CHILD OFFSET SIZE [no_write] [resizable]"
_VMO_OP_FORM = "OP VMO OFFSET LENGTH"

_SYNTAXES: Mapping[CommandKind, _Syntax] = {
    CommandKind.CREATE_VMO: _syntax(
        CreateVmo,
        "VMO SIZE [key=N] [resizable] [trap_dirty] [unbounded] [writeback] [noevict] [mode=OCTAL] [port=NAME]"
        " [readahead=SIZE] [blksize=SIZE] [source=TEXT] [version=TEXT]",
    ),
    CommandKind.SERVE_DIRECTORY: _syntax(ServeDirectory, "DIRECTORY [trap_dirty] [writeback] [port=NAME]"),
    CommandKind.SUPPLY_PAGES: _syntax(SupplyPages, "VMO OFFSET LENGTH AUX AUX_OFFSET [xxh3=HEX]"),
    CommandKind.DETACH_VMO: _syntax(DetachVmo, "VMO"),
    CommandKind.OP_RANGE: _syntax(
        OpRange, "OP VMO OFFSET LENGTH [DATA] [reason=REASON]", op=WORD, usage="\n".join(_OP_RANGE_USAGE)
    ),
    CommandKind.EVICT: _syntax(Evict, "VMO OFFSET LENGTH"),
    CommandKind.MARK: _syntax(Mark, "VMO OFFSET LENGTH"),
    CommandKind.QUERY_DIRTY_RANGES: _syntax(QueryDirtyRanges, "VMO OFFSET LENGTH"),
    CommandKind.QUERY_VMO_STATS: _syntax(QueryVmoStats, "VMO [reset]"),
    CommandKind.VMO_CREATE: _syntax(VmoCreate, "AUX SIZE [resizable] [contiguous | physical]"),
    CommandKind.VMO_CREATE_CHILD: _syntax(
        VmoCreateChild, _CHILD_FORM, usage=f"{_CHILD_FORM}      KIND = {' '.join(ChildKind)}"
    ),
    CommandKind.VMO_OP_RANGE: _syntax(
        VmoOpRange, _VMO_OP_FORM, op=one_of(VmoOp), usage=f"{_VMO_OP_FORM}      OP = {' '.join(VmoOp)}"
    ),
    CommandKind.VMO_SET_STREAM_SIZE: _syntax(VmoSetStreamSize, "VMO SIZE"),
    CommandKind.VMO_PIN: _syntax(VmoPin, "VMO OFFSET LENGTH"),
}

_KINDS: Mapping[type[Command], CommandKind] = {syntax.command: kind for kind, syntax in _SYNTAXES.items()}

USAGE: Mapping[CommandKind, str] = MappingProxyType({kind: syntax.usage for kind, syntax in _SYNTAXES.items()})
"""What reading a command file that was opened read-only gives: one line for every form."""
