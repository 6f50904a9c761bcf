"""Commands: every form, what is refused and with which sentence, and that client and mount agree."""

from __future__ import annotations

import dataclasses
import inspect
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmofs.status import InvalidArgsError
from vmofs.units import UINT64_MAX
from vmofs.vocabulary import AuxKind, ChildKind, PagerOp, VmoOp
from vmofs.wire import commands
from vmofs.wire.commands import (
    USAGE,
    Command,
    CommandKind,
    CreateVmo,
    DetachVmo,
    Evict,
    Mark,
    OpRange,
    QueryDirtyRanges,
    QueryVmoStats,
    ServeDirectory,
    SupplyPages,
    VmoCreate,
    VmoCreateChild,
    VmoOpRange,
    VmoPin,
    VmoSetStreamSize,
    command_kind,
    format_command,
    parse_command,
)

K = CommandKind
CREATE_USAGE = (
    "VMO SIZE [key=N] [resizable] [trap_dirty] [unbounded] [writeback] [noevict] [mode=OCTAL] [port=NAME]"
    " [readahead=SIZE] [blksize=SIZE] [source=TEXT] [version=TEXT]"
)
SUPPLY_USAGE = "VMO OFFSET LENGTH AUX AUX_OFFSET [xxh3=HEX]"

# Lines as format_command writes them.
CANONICAL: list[tuple[str, Command]] = [
    ("vmo/a 8193", CreateVmo("vmo/a", 8193)),
    (
        r"vmo/a 0 source=https://x/a\040b version=\134e",
        CreateVmo("vmo/a", 0, source="https://x/a b", version="\\e"),
    ),
    (
        "vmo/a\\040b 0 key=7 resizable trap_dirty unbounded writeback noevict mode=0640 port=w1 readahead=1 blksize=2",
        CreateVmo(
            "vmo/a b",
            0,
            7,
            resizable=True,
            trap_dirty=True,
            unbounded=True,
            mode=0o640,
            port="w1",
            writeback=True,
            noevict=True,
            readahead=1,
            blksize=2,
        ),
    ),
    ("vmo/d trap_dirty writeback port=w", ServeDirectory("vmo/d", trap_dirty=True, writeback=True, port="w")),
    ("vmo/a 4096 8192 aux/s 0", SupplyPages("vmo/a", 4096, 8192, "aux/s", 0)),
    ("vmo/a 0 4096 aux/s 0 xxh3=00000000000000ff", SupplyPages("vmo/a", 0, 4096, "aux/s", 0, 255)),
    ("vmo/a", DetachVmo("vmo/a")),
    ("FAIL vmo/a 0 4096 ZX_ERR_IO", OpRange(PagerOp.FAIL, "vmo/a", 0, 4096, -40)),
    ("FAIL vmo/a 0 4096 ZX_OK", OpRange(PagerOp.FAIL, "vmo/a", 0, 4096, 0)),
    ("FAIL vmo/a 0 4096 77309411327", OpRange(PagerOp.FAIL, "vmo/a", 0, 4096, 0x11FFFFFFFF)),
    (
        r"FAIL vmo/a 0 4096 ZX_ERR_IO reason=503\040from\040the\040server",
        OpRange(PagerOp.FAIL, "vmo/a", 0, 4096, -40, reason="503 from the server"),
    ),
    ("DIRTY vmo/a 0 4096", OpRange(PagerOp.DIRTY, "vmo/a", 0, 4096)),
    ("DIRTY vmo/a 0 4096 5", OpRange(PagerOp.DIRTY, "vmo/a", 0, 4096, 5)),
    ("WRITEBACK_BEGIN vmo/a 0 4096", OpRange(PagerOp.WRITEBACK_BEGIN, "vmo/a", 0, 4096)),
    ("WRITEBACK_BEGIN vmo/a 0 4096 is_zero", OpRange(PagerOp.WRITEBACK_BEGIN, "vmo/a", 0, 4096, 1)),
    ("WRITEBACK_END vmo/a 0 4096", OpRange(PagerOp.WRITEBACK_END, "vmo/a", 0, 4096)),
    ("Sync vmo/a 0 4096 -7", OpRange(None, "vmo/a", 0, 4096, -7, "Sync")),
    ("vmo/a 0 4096", Evict("vmo/a", 0, 4096)),
    ("vmo/a 0 4096", Mark("vmo/a", 0, 4096)),
    ("vmo/a 1 2", QueryDirtyRanges("vmo/a", 1, 2)),
    ("vmo/a", QueryVmoStats("vmo/a")),
    ("vmo/a reset", QueryVmoStats("vmo/a", reset=True)),
    ("aux/a 4096", VmoCreate("aux/a", 4096)),
    ("aux/a 4096 resizable contiguous", VmoCreate("aux/a", 4096, resizable=True, kind=AuxKind.CONTIGUOUS)),
    ("aux/a 4096 physical", VmoCreate("aux/a", 4096, kind=AuxKind.PHYSICAL)),
    ("slice vmo/a vmo/b 0 4096", VmoCreateChild(ChildKind.SLICE, "vmo/a", "vmo/b", 0, 4096)),
    (
        "snapshot_modified vmo/a vmo/b 0 1 no_write resizable",
        VmoCreateChild(ChildKind.SNAPSHOT_MODIFIED, "vmo/a", "vmo/b", 0, 1, no_write=True, resizable=True),
    ),
    ("always_need vmo/a 0 4096", VmoOpRange(VmoOp.ALWAYS_NEED, "vmo/a", 0, 4096)),
    ("vmo/a 5", VmoSetStreamSize("vmo/a", 5)),
    ("vmo/a 0 4096", VmoPin("vmo/a", 0, 4096)),
]


@pytest.mark.parametrize(("line", "command"), CANONICAL)
def test_a_line_and_its_command_stand_for_each_other(line: str, command: Command) -> None:
    assert parse_command(command_kind(command), line) == command
    assert format_command(command) == line


def test_every_command_has_an_example_a_kind_and_a_usage() -> None:
    assert {type(command) for _, command in CANONICAL} == set(get_args(Command))
    assert {command_kind(command) for _, command in CANONICAL} == set(CommandKind) == set(USAGE)


@pytest.mark.parametrize(
    ("kind", "line", "command"),
    [
        (K.EVICT, "\t vmo/a  0x1000\t4K \t", Evict("vmo/a", 4096, 4096)),
        (K.CREATE_VMO, "vmo/a 1M RESIZABLE Key=0x10", CreateVmo("vmo/a", 2**20, 16, resizable=True)),
        (K.CREATE_VMO, "vmo/a 1 port=a\\040b MODE=7", CreateVmo("vmo/a", 1, mode=7, port="a b")),
        (K.CREATE_VMO, "vmo/a 1 mode=00777 port=a=b", CreateVmo("vmo/a", 1, mode=0o777, port="a=b")),
        (
            K.SUPPLY_PAGES,
            "vmo/a 0 0 aux/s 0 XXH3=ABCDEFabcdef0123",
            SupplyPages("vmo/a", 0, 0, "aux/s", 0, 0xABCDEFABCDEF0123),
        ),
        (K.OP_RANGE, "fail vmo/a 0 0 io_data_integrity", OpRange(PagerOp.FAIL, "vmo/a", 0, 0, -42)),
        (K.OP_RANGE, "Fail vmo/a 0 0 zx_err_no_space", OpRange(PagerOp.FAIL, "vmo/a", 0, 0, -54)),
        (K.OP_RANGE, "FAIL vmo/a 0 0 -40", OpRange(PagerOp.FAIL, "vmo/a", 0, 0, -40)),
        (K.OP_RANGE, "FAIL vmo/a 0 0 0x11ffffffff", OpRange(PagerOp.FAIL, "vmo/a", 0, 0, 0x11FFFFFFFF)),
        (K.OP_RANGE, "FAIL vmo/a 0 0 0", OpRange(PagerOp.FAIL, "vmo/a", 0, 0, 0)),
        (K.OP_RANGE, "writeback_begin vmo/a 0 0 IS_ZERO", OpRange(PagerOp.WRITEBACK_BEGIN, "vmo/a", 0, 0, 1)),
        (K.OP_RANGE, "writeback_end vmo/a 0 0 0", OpRange(PagerOp.WRITEBACK_END, "vmo/a", 0, 0)),
        (K.OP_RANGE, "d\u0131rty vmo/a 0 0", OpRange(None, "vmo/a", 0, 0, 0, "d\u0131rty")),
        (K.VMO_OP_RANGE, "DONT_NEED vmo/a 0 0", VmoOpRange(VmoOp.DONT_NEED, "vmo/a", 0, 0)),
        (K.VMO_CREATE, "aux/a 1 Physical resizable", VmoCreate("aux/a", 1, resizable=True, kind=AuxKind.PHYSICAL)),
        (K.VMO_CREATE_CHILD, "Reference vmo/a aux/b 0 0", VmoCreateChild(ChildKind.REFERENCE, "vmo/a", "aux/b", 0, 0)),
        (K.QUERY_VMO_STATS, "vmo/a Reset", QueryVmoStats("vmo/a", reset=True)),
        (K.DETACH_VMO, "vmo/gr\u00f6\u00dfe\u00a0x", DetachVmo("vmo/gr\u00f6\u00dfe\u00a0x")),
    ],
)
def test_spelling_is_free_where_the_grammar_says_so(kind: CommandKind, line: str, command: Command) -> None:
    assert parse_command(kind, line) == command


@pytest.mark.parametrize(
    ("kind", "line", "sentence"),
    [
        (K.CREATE_VMO, "", f"VMO SIZE missing; usage: {CREATE_USAGE}"),
        (K.CREATE_VMO, "vmo/a", f"SIZE missing; usage: {CREATE_USAGE}"),
        (K.CREATE_VMO, "vmo/a 1 discardable", f"'discardable' is not expected here; usage: {CREATE_USAGE}"),
        (K.CREATE_VMO, "vmo/a 1 resizable=1", f"'resizable=1' is not expected here; usage: {CREATE_USAGE}"),
        (K.CREATE_VMO, "vmo/a 1 key", f"'key' is not expected here; usage: {CREATE_USAGE}"),
        (K.CREATE_VMO, "vmo/a 1 \u212aey=1", f"'\u212aey=1' is not expected here; usage: {CREATE_USAGE}"),
        (
            K.CREATE_VMO,
            "vmo/a 1 resizable RESIZABLE",
            f"'RESIZABLE' repeats or contradicts an option before it; usage: {CREATE_USAGE}",
        ),
        (
            K.CREATE_VMO,
            "vmo/a 1 key=1 key=2",
            f"'key=2' repeats or contradicts an option before it; usage: {CREATE_USAGE}",
        ),
        (K.CREATE_VMO, "vmo/a 1 key=", "key '' is not a number"),
        (K.CREATE_VMO, "vmo/a 1 key=-1", "key '-1' is negative"),
        (K.CREATE_VMO, "vmo/a 1 mode=0o644", "mode '0o644' is not octal permission bits, 0 to 777"),
        (K.CREATE_VMO, "vmo/a 1 mode=1777", "mode '1777' is not octal permission bits, 0 to 777"),
        (K.CREATE_VMO, "vmo/a 1 mode=688", "mode '688' is not octal permission bits, 0 to 777"),
        (K.CREATE_VMO, "vmo/a 1 port=a/b", "port 'a/b' is a path of 2 components, not a name"),
        (K.CREATE_VMO, "vmo/a 1 port=..", "path '..' has a component that is '..'"),
        (K.CREATE_VMO, "vmo/a -1", "SIZE '-1' is negative"),
        (K.CREATE_VMO, "../a 1", "path '../a' has a component that is '..'"),
        (K.SUPPLY_PAGES, "vmo/a 0 4096", f"AUX AUX_OFFSET missing; usage: {SUPPLY_USAGE}"),
        (K.SUPPLY_PAGES, "vmo/a 0 4096 aux/s x", "AUX_OFFSET 'x' is not a number"),
        (K.SUPPLY_PAGES, "vmo/a 0 4096 aux/s 0 xxh3=ff", "xxh3 'ff' is not 16 hexadecimal digits"),
        (K.SUPPLY_PAGES, "vmo/a 0 4096 aux/s 0 xxh3=0x000000000000ff", "xxh3 '0x000000000000ff' is not 16 hex"),
        (K.SUPPLY_PAGES, "vmo/a 0 4096 /aux/s 0", "path '/aux/s' begins with '/'"),
        (K.DETACH_VMO, "vmo/a vmo/b", "'vmo/b' is not expected here; usage: VMO"),
        (K.OP_RANGE, "FAIL vmo/a 0 4096", "FAIL needs a status; usage: FAIL VMO OFFSET LENGTH STATUS [reason=REASON]"),
        (K.OP_RANGE, "FAIL vmo/a 0 4096 IO reason=", "reason is 0 bytes long, not 1 to 500"),
        (K.OP_RANGE, f"FAIL vmo/a 0 4096 IO reason={501 * 'x'}", "reason is 501 bytes long, not 1 to 500"),
        (K.OP_RANGE, "FAIL vmo/a 0 4096 reason=x", "FAIL needs a status"),
        (K.OP_RANGE, "DIRTY vmo/a 0 4096 reason=x", "DIRTY takes no reason; usage: DIRTY VMO OFFSET LENGTH"),
        (K.CREATE_VMO, f"vmo/a 0 source={4001 * 'x'}", "source is 4001 bytes long, not 1 to 4000"),
        (K.OP_RANGE, "FAIL vmo/a 0", "LENGTH missing; usage: OP VMO OFFSET LENGTH [DATA] [reason=REASON]"),
        (K.OP_RANGE, "FAIL vmo/a 0 4096 EIO", "DATA 'EIO' is not a number"),
        (K.OP_RANGE, "FAIL vmo/a 0 4096 -9E", "DATA '-9E' is below -2^63"),
        (K.OP_RANGE, "DIRTY vmo/a 0 4096 0 0", "'0' repeats or contradicts an option before it; usage: OP VMO"),
        (K.EVICT, "vmo/a 0 4096 now", "'now' is not expected here; usage: VMO OFFSET LENGTH"),
        (K.QUERY_VMO_STATS, "vmo/a clear", "'clear' is not expected here; usage: VMO [reset]"),
        (K.VMO_CREATE, "aux/a 1 contiguous physical", "'physical' repeats or contradicts an option before it"),
        (K.VMO_CREATE_CHILD, "copy vmo/a vmo/b 0 0", "KIND 'copy' is none of snapshot, snapshot_at_least_on"),
        (K.VMO_OP_RANGE, "sync vmo/a 0 0", "OP 'sync' is none of commit, decommit, zero, prefetch, always_need, "),
        (K.VMO_SET_STREAM_SIZE, "vmo/a", "SIZE missing; usage: VMO SIZE"),
        (K.VMO_PIN, "vmo/a 0", "LENGTH missing; usage: VMO OFFSET LENGTH"),
    ],
)
def test_a_line_of_another_form_is_refused_with_the_reason(kind: CommandKind, line: str, sentence: str) -> None:
    with pytest.raises(InvalidArgsError) as caught:
        parse_command(kind, line)
    assert str(caught.value).startswith(sentence)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: name not in {".", ".."}
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
UINT64 = st.integers(0, UINT64_MAX)
DATA = st.integers(-(2**63), UINT64_MAX)
KNOWN_OP = st.builds(OpRange, st.sampled_from(PagerOp), PATHS, UINT64, UINT64, DATA)
OTHER_OP = st.builds(OpRange, st.none(), PATHS, UINT64, UINT64, DATA, st.sampled_from(["SYNC", "0", "commit"]))
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        CreateVmo,
        *(PATHS, UINT64, st.none() | UINT64, st.booleans(), st.booleans(), st.booleans()),
        *(st.none() | st.integers(0, 0o777), st.none() | NAMES),
    ),
    st.builds(SupplyPages, PATHS, UINT64, UINT64, PATHS, UINT64, st.none() | UINT64),
    st.builds(DetachVmo, PATHS),
    KNOWN_OP | OTHER_OP,
    st.builds(Evict, PATHS, UINT64, UINT64),
    st.builds(Mark, PATHS, UINT64, UINT64),
    st.builds(QueryDirtyRanges, PATHS, UINT64, UINT64),
    st.builds(QueryVmoStats, PATHS, st.booleans()),
    st.builds(VmoCreate, PATHS, UINT64, st.booleans(), st.sampled_from(AuxKind)),
    st.builds(VmoCreateChild, st.sampled_from(ChildKind), PATHS, PATHS, UINT64, UINT64, st.booleans(), st.booleans()),
    st.builds(VmoOpRange, st.sampled_from(VmoOp), PATHS, UINT64, UINT64),
    st.builds(VmoSetStreamSize, PATHS, UINT64),
    st.builds(VmoPin, PATHS, UINT64, UINT64),
)


@given(COMMANDS)
def test_the_mount_reads_the_command_that_the_client_wrote(command: Command) -> None:
    line = format_command(command)
    assert "\n" not in line
    assert parse_command(command_kind(command), line) == command


@given(st.sampled_from(CommandKind), st.text("vmo/a 0123456789xKE=\\\t#", max_size=40) | st.text())
def test_any_line_is_a_command_or_refused(kind: CommandKind, line: str) -> None:
    try:
        command = parse_command(kind, line)
    except InvalidArgsError:
        return
    assert parse_command(kind, format_command(command)) == command


def test_usage_is_one_line_for_every_form() -> None:
    assert USAGE[K.CREATE_VMO] == f"{CREATE_USAGE}\n"
    assert USAGE[K.VMO_OP_RANGE] == (
        "OP VMO OFFSET LENGTH      OP = commit decommit zero prefetch always_need dont_need\n"
    )
    assert USAGE[K.OP_RANGE].splitlines() == [
        "FAIL VMO OFFSET LENGTH STATUS [reason=REASON]",
        "DIRTY VMO OFFSET LENGTH",
        "WRITEBACK_BEGIN VMO OFFSET LENGTH [is_zero]",
        "WRITEBACK_END VMO OFFSET LENGTH",
    ]
    assert all(text.endswith("\n") and "\n\n" not in text for text in USAGE.values())


def test_the_grammar_in_the_docstring_is_the_one_that_is_parsed() -> None:
    table = (inspect.getdoc(commands) or "").split("::\n\n")[1].split("\n\n")[0]
    stated = dict(line.split(None, 1) for line in table.splitlines())
    assert stated == {kind.value: syntax.form.usage for kind, syntax in commands._SYNTAXES.items()}


def test_a_command_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Evict("vmo/a", 0, 0).offset = 1  # type: ignore[misc]
