"""Names in text: escaping, path checking, and what fits in a request line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmofs.status import InvalidArgsError
from vmofs.vocabulary import PacketCommand
from vmofs.wire.names import (
    MAX_PATH_BYTES,
    PLAIN_PATH,
    escape,
    fits_request_line,
    parse_path,
    printable,
    quote,
    unescape,
)
from vmofs.wire.packets import format_packet

ANY_NAME = st.text(max_size=30) | st.text(" \t\n\\01234/.", max_size=30)
ESCAPES = [
    ("plain", "plain"),
    ("a b", r"a\040b"),
    ("a\tb", r"a\011b"),
    ("a\nb", r"a\012b"),
    ("a\\b", r"a\134b"),
    (r"\040", r"\134040"),
    ("Größe\u2028\r\xa0", "Größe\u2028\r\xa0"),
    ("", ""),
]


@pytest.mark.parametrize(("name", "text"), ESCAPES)
def test_only_blank_tab_newline_and_backslash_are_escaped(name: str, text: str) -> None:
    assert escape(name) == text
    assert unescape(text) == name


@given(ANY_NAME)
def test_every_name_survives_escaping_as_one_field(name: str) -> None:
    text = escape(name)
    assert unescape(text) == name
    assert not set(text) & set(" \t\n")


@pytest.mark.parametrize("text", [r"a\041", r"a\40", r"a\n", "a\\", r"a\\", r"a\x20", r"a\777"])
def test_a_backslash_that_begins_no_known_escape_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgsError, match=r"begins none of \\040 \\011 \\012 \\134, at character 1$") as caught:
        unescape(text)
    assert quote(text) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "components"),
    [
        ("vmo/disk.img", ("vmo", "disk.img")),
        ("aux/a/b/c", ("aux", "a", "b", "c")),
        (r"vmo/a\040b", ("vmo", "a b")),
        ("vmo/...", ("vmo", "...")),
        ("vmo/.hidden", ("vmo", ".hidden")),
        ("#", ("#",)),
        ("vmo/" + "ä" * 127 + "x", ("vmo", "ä" * 127 + "x")),
    ],
)
def test_a_relative_path_gives_its_components(field: str, components: tuple[str, ...]) -> None:
    assert parse_path(field) == components


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("/vmo/a", "path '/vmo/a' begins with '/'"),
        ("/", "path '/' begins with '/'"),
        ("", "path '' has a component that is empty"),
        ("vmo//a", "path 'vmo//a' has a component that is empty"),
        ("vmo/a/", "path 'vmo/a/' has a component that is empty"),
        ("./a", "path './a' has a component that is '.'"),
        ("vmo/../a", "path 'vmo/../a' has a component that is '..'"),
        ("vmo/a\0b", r"path 'vmo/a\000b' has a component that has a NUL character"),
        ("vmo/\udc80", r"path 'vmo/\355\262\200' has a component that is not UTF-8"),
        ("a" * 256, f"path '{'a' * 40}...' has a component that is 256 bytes long, more than 255"),
        ("ä" * 128, f"path '{'ä' * 40}...' has a component that is 256 bytes long, more than 255"),
        (r"vmo/\x", r"name 'vmo/\x' has a backslash"),
    ],
)
def test_a_path_that_is_not_plainly_relative_is_refused(field: str, sentence: str) -> None:
    with pytest.raises(InvalidArgsError) as caught:
        parse_path(field)
    assert str(caught.value).startswith(sentence)


@given(st.text("ab \t\n\\ä/", max_size=20))
def test_a_parsed_path_is_the_path_that_was_escaped(path: str) -> None:
    try:
        components = parse_path(escape(path))
    except InvalidArgsError:
        assert path.startswith("/") or "" in path.split("/")
    else:
        assert "/".join(components) == path


@pytest.mark.parametrize(("filler", "escaped_bytes"), [("a", 1), ("ä", 2), (" ", 4)])
def test_a_path_that_fits_makes_request_lines_shorter_than_pipe_buf(filler: str, escaped_bytes: int) -> None:
    path = filler * (MAX_PATH_BYTES // escaped_bytes)
    path += "a" * (MAX_PATH_BYTES % escaped_bytes)
    biggest = 2**64 - 1
    longest = max(len(format_packet(command, biggest, biggest, biggest, path)) for command in (*PacketCommand,)[:2])
    assert longest == 4095
    assert len(format_packet(PacketCommand.COMPLETE, biggest, 0, 0, path)) < 4096
    assert fits_request_line(path)
    assert not fits_request_line(path + "a")


def test_a_path_that_is_not_utf8_fits_no_request_line() -> None:
    assert not fits_request_line("vmo/\udc80")


def test_printable_keeps_text_on_one_line_and_escapes_once() -> None:
    assert printable("a\nb\x1b\x85c d\u2028 ä \\012") == "a\\012b\\033\\302\\205c d\\342\\200\\250 ä \\012"


@given(st.text(st.characters()))
def test_printable_text_stays_as_it_is_and_can_be_written(text: str) -> None:
    once = printable(text)
    assert printable(once) == once
    assert len(once.splitlines()) <= 1
    assert once.encode() or not text


def test_a_quoted_text_is_shortened_beyond_forty_characters() -> None:
    assert quote("x" * 40) == f"'{'x' * 40}'"
    assert quote("x" * 41) == f"'{'x' * 40}...'"
    assert quote("\x01" * 40) == "'" + r"\001" * 40 + "'"
    assert quote("\U000e0001" * 11) == "'" + r"\363\240\200\201" * 10 + "...'"


@given(st.text(st.sampled_from("ab.-~/\\ #\t\n\x7f\0é"), max_size=8))
def test_a_path_that_is_plain_is_what_it_is_parsed_to(text: str) -> None:
    if PLAIN_PATH.fullmatch(text):
        assert "/".join(parse_path(text)) == text


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("vmo/a.b", True),
        ("a" * 255, True),
        ("a" * 256, False),
        ("vmo/.hidden", False),
        ("vmo/é", False),
        ("a\n", False),
    ],
)
def test_paths_of_printable_ascii_are_plain(path: str, plain: bool) -> None:
    assert bool(PLAIN_PATH.fullmatch(path)) == plain
