"""Input that nobody would write, for the codec of the command files. Strategies and what must hold for every input."""

from __future__ import annotations

from hypothesis import strategies as st

from vmofs.status import InvalidArgsError
from vmofs.units import UINT64_MAX
from vmofs.wire.commands import CommandKind, format_command, parse_command
from vmofs.wire.lines import MAX_LINE_BYTES, Line, split_lines
from vmofs.wire.names import NAME_MAX, escape, parse_path, printable, quote
from vmofs.wire.numbers import INT64_MIN, parse_number, parse_signed_number

LINE_MAX = MAX_LINE_BYTES

NUMBER_TEXTS = st.one_of(
    st.integers(-(2**65), 2**66).map(str),
    st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -1, -(2**63), -(2**63) - 1]).map(str),
    st.builds("{}{}".format, st.integers(0, 2**64), st.sampled_from("KMGTPEkmgtpeZx_.")),
    st.builds("0x{:x}{}".format, st.integers(0, 2**65), st.sampled_from(["", "K", "E", "P", "g"])),
    st.sampled_from(
        ["9" * 5000, "0" * 5000, "18E", "16E", "15E", "0x", "0xE", "1 ", "+1", "--1", "\u0664", "1_0", "1e3"]
    ),
    st.text(max_size=20),
)

NAMES = st.one_of(
    st.text(max_size=300),
    st.binary(max_size=300).map(lambda raw: raw.decode(errors="surrogateescape")),
    st.sampled_from(
        ["..", ".", "", "/", "a//b", "a/../b", "\n", " ", "\\", "\\040", "\\4", "\0", "x" * 255, "x" * 256]
    ),
    st.sampled_from(["é" * 127, "é" * 128, "\udcff", "a/" * 3000, "\\134" * 300, "vmo/a", "aux/b"]),
)

WORDS = st.one_of(
    NUMBER_TEXTS,
    NAMES,
    st.sampled_from(["resizable", "RESIZABLE", "key=", "key=1", "key=1=2", "mode=0777", "mode=8", "port=a/b", "xxh3="]),
    st.sampled_from(
        ["FAIL", "fail", "\u212aommit", "ZX_ERR_IO", "io", "is_zero", "snapshot", "contiguous", "physical"]
    ),
)

LINES = st.lists(WORDS, max_size=9).map(" ".join)

DATA = st.one_of(
    st.binary(max_size=4000),
    st.lists(st.one_of(LINES, st.just("# comment"), st.just("")), max_size=50).map(
        lambda lines: "\n".join(lines).encode(errors="surrogatepass")
    ),
    st.integers(0, 3).map(lambda more: b"x" * (LINE_MAX - 1 + more) + b"\n"),
    st.just(b"vmo/a\n" * 5000),
)

KINDS = st.sampled_from(list(CommandKind))


def check_command(kind: CommandKind, line: str) -> None:
    """A line is a command that is written back as a line of the same meaning, or INVALID_ARGS on one short line."""
    try:
        command = parse_command(kind, line)
    except InvalidArgsError as error:
        check_sentence(str(error))
        return
    assert parse_command(kind, format_command(command)) == command


def check_number(text: str) -> None:
    """A number fits in 64 bits, or is INVALID_ARGS."""
    for parse, lowest in ((parse_number, 0), (parse_signed_number, INT64_MIN)):
        try:
            assert lowest <= parse(text, "N") <= UINT64_MAX
        except InvalidArgsError as error:
            check_sentence(str(error))


def check_name(name: str) -> None:
    """A path has good components only, and survives being written."""
    try:
        components = parse_path(name)
    except InvalidArgsError as error:
        check_sentence(str(error))
    else:
        assert components
        assert all(0 < len(part.encode()) <= NAME_MAX and part not in {".", ".."} for part in components)
        assert parse_path(escape("/".join(components))) == components
    for shown in (printable(name), quote(name)):
        assert shown.isprintable()


def check_data(data: bytes) -> None:
    """What one write brought is lines in order, all of them, whose ends lie at ends of lines; or INVALID_ARGS."""
    try:
        lines = split_lines(data)
    except InvalidArgsError as error:
        check_sentence(str(error))
        return
    check_lines(data, lines)


def check_lines(data: bytes, lines: list[Line]) -> None:
    """The ends rise to the end of the data, and each line's text is there."""
    ends = [line.end for line in lines]
    assert ends == sorted(set(ends))
    assert not lines or ends[-1] == len(data)
    for line in lines:
        assert len(line.text.encode()) <= LINE_MAX
        assert data[line.end - 1 : line.end] == b"\n" or line.end == len(data)


def check_split(data: bytes, cut: int) -> None:
    """Written in two pieces that part at the end of a line, it is the same lines."""
    cut = data.rfind(b"\n", 0, cut) + 1
    try:
        whole = [line.text for line in split_lines(data)]
    except InvalidArgsError:
        return
    assert [line.text for piece in (data[:cut], data[cut:]) for line in split_lines(piece)] == whole


def check_sentence(sentence: str) -> None:
    """An error is one line, not longer than can be read."""
    assert sentence.isprintable(), sentence
    assert len(sentence) < 400, sentence
