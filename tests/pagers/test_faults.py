"""What a reader gets of a source that misbehaves: the right bytes or an error, and after the fault the right bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.faulty_server import NEW, OLD, SIZE, FaultyServer, faulty_server
from vmofs.client import Changed, Retry, Unavailable
from vmofs.pagers.bucket_files import Access, Bucket, BucketFile, bucket_files
from vmofs.pagers.http_client import HttpClient
from vmofs.pagers.source import ExitCode, Refusal, Source, patiently
from vmofs.pagers.web_file import WebFile
from vmofs.pagers.whole_file import WholeFile
from vmofs.testing import pattern

PAGE = 4096
SECONDS = 0.6
"""How long a request may take here; 10 s for users."""

Opener = Callable[[FaultyServer], Source]


def open_web(server: FaultyServer) -> WebFile:
    return WebFile(server.url("first"), HttpClient(seconds=SECONDS), patience=0.3)


def open_bucket(server: FaultyServer) -> BucketFile:
    access = Access(f"http://127.0.0.1:{server.port}", anonymous=True, seconds=SECONDS)
    return BucketFile(Bucket("s3://bucket", access), "first", patience=0.3)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        yield server


@pytest.fixture(params=[open_web, open_bucket], ids=["http", "s3"])
def opened(request: pytest.FixtureRequest, server: FaultyServer) -> Source:
    opener: Opener = request.param
    return opener(server)


def check(source: Source, offset: int, length: int, key: int = OLD) -> None:
    pattern.check(bytes(source.read(offset, length)), key, offset)


LASTING = {"replaced", "replaced, same tag", "replaced, same date", "404", "410", "412", "shorter"}
MOMENTARY = {"503", "500", "429", "closes", "half the body", "half the body, then silence", "silent"}
WRONG = {"another range", "tells another range", "half the range", "no ranges", "gzip", "401", "403", "400", "418"}
HARMLESS = {"503 every second", ""}


def test_each_fault_is_expected_to_do_one_thing() -> None:
    assert not LASTING & MOMENTARY | LASTING & WRONG | MOMENTARY & WRONG


@pytest.mark.parametrize("fault", sorted(LASTING))
def test_another_version_is_said_at_once_and_for_ever(opened: Source, server: FaultyServer, fault: str) -> None:
    check(opened, 0, PAGE)
    server.fault = fault
    last = SIZE // PAGE * PAGE
    with pytest.raises(Changed):
        opened.read(last, SIZE - last)
    server.fault = ""
    count = server.count
    with pytest.raises(Changed):
        opened.read(0, PAGE)
    assert server.count == count, "a source that is stale need not be asked"


@pytest.mark.parametrize("fault", ["replaced", "replaced, same tag", "replaced, same date"])
def test_a_server_that_takes_if_match_and_does_not_look_is_seen_through(
    opened: Source, server: FaultyServer, fault: str
) -> None:
    server.fault, server.checks_if_match = fault, False
    with pytest.raises(Changed):
        opened.read(8 * PAGE, 2 * PAGE)


@pytest.mark.parametrize("fault", sorted(MOMENTARY))
def test_a_moment_of_trouble_is_worth_another_attempt_and_heals(
    opened: Source, server: FaultyServer, fault: str
) -> None:
    server.fault = fault
    began = time.monotonic()
    with pytest.raises(Retry):
        opened.read(8 * PAGE, 2 * PAGE)
    assert time.monotonic() - began < 5
    server.fault = ""
    server.released.set()
    check(opened, 8 * PAGE, 2 * PAGE)


@pytest.mark.parametrize("fault", sorted(WRONG))
def test_a_wrong_answer_is_no_bytes_and_is_not_remembered(opened: Source, server: FaultyServer, fault: str) -> None:
    server.fault = fault
    with pytest.raises((Unavailable, Retry)):
        opened.read(8 * PAGE, 2 * PAGE)
    server.fault = ""
    check(opened, 8 * PAGE, 2 * PAGE)


def test_a_server_that_refuses_every_second_request_serves(opened: Source, server: FaultyServer) -> None:
    server.fault = "503 every second"
    for page in range(8):
        offset = page * PAGE
        pattern.check(bytes(patiently(lambda offset=offset: opened.read(offset, PAGE), 5)), OLD, offset)  # type: ignore[misc]


def test_a_server_that_was_killed_and_started_again_serves(server: FaultyServer) -> None:
    for opener in (open_web, open_bucket):
        with faulty_server() as first:
            source, port = opener(first), first.port
            check(source, 0, PAGE)
        with pytest.raises(Retry):
            source.read(PAGE, PAGE)
        with faulty_server(port):
            check(source, PAGE, PAGE)
    assert server.count == 0


@pytest.mark.parametrize(
    ("opener", "fault"),
    [(open_web, "weak tag"), (open_web, "no tag"), (open_web, "nothing to compare"), (open_bucket, "weak tag")],
)
def test_a_server_with_a_weak_tag_or_none_serves(server: FaultyServer, opener: Opener, fault: str) -> None:
    server.fault = fault
    source = opener(server)
    check(source, 8 * PAGE, 3 * PAGE)
    assert all("If-Match" not in asked for asked in server.asked)


def test_a_tag_that_is_weak_at_first_and_strong_later_is_the_same(server: FaultyServer) -> None:
    server.fault = "weak tag"  # Apache, in a file's first second
    for opener in (open_web, open_bucket):
        source = opener(server)
        server.fault = ""
        check(source, 8 * PAGE, 3 * PAGE)
        server.fault = "weak tag"


@pytest.mark.parametrize(
    ("fault", "code", "word"),
    [
        ("no ranges", ExitCode.CANNOT, "whole file"),
        ("gzip", ExitCode.CANNOT, "gzip"),
        ("size unknown", ExitCode.CANNOT, "large"),
        ("another range", ExitCode.CANNOT, "first byte"),
        ("404", ExitCode.NOT_FOUND, "404"),
        ("401", ExitCode.NOT_ALLOWED, "401"),
        ("403", ExitCode.NOT_ALLOWED, "403"),
        ("503", ExitCode.TEMPORARY, "503"),
        ("closes", ExitCode.TEMPORARY, "127.0.0.1"),
        ("silent", ExitCode.TEMPORARY, "127.0.0.1"),
        ("418", ExitCode.OTHER, "418"),
    ],
)
def test_a_source_that_cannot_be_served_is_refused_when_it_is_opened(
    server: FaultyServer, fault: str, code: ExitCode, word: str
) -> None:
    server.fault = fault
    with pytest.raises(Refusal, match=word) as refused:
        open_web(server)
    assert refused.value.code == code
    assert server.sent < 2 * SIZE


@pytest.mark.parametrize("fault", ["no ranges", "gzip", "another range", "404", "403", "503", "silent"])
def test_a_store_that_cannot_be_served_is_refused_when_it_is_opened(server: FaultyServer, fault: str) -> None:
    server.fault = fault
    with pytest.raises(Refusal):
        open_bucket(server)


def test_a_server_that_is_not_there_is_temporary(server: FaultyServer) -> None:
    server.kill()
    with pytest.raises(Refusal) as refused:
        open_web(server)
    assert refused.value.code == ExitCode.TEMPORARY


def test_an_empty_file_is_a_file(server: FaultyServer) -> None:
    server.fault = "empty"
    assert open_web(server).size == 0
    assert open_bucket(server).size == 0


def test_a_server_that_asks_for_patience_is_heard(server: FaultyServer) -> None:
    source = open_web(server)
    server.fault = "429"
    with pytest.raises(Retry, match="429") as caught:
        source.read(0, PAGE)
    assert caught.value.after == 7


def test_a_whole_file_instead_of_a_range_is_not_fetched(server: FaultyServer) -> None:
    source = open_web(server)
    server.fault = "no ranges"
    began = time.monotonic()
    with pytest.raises(Unavailable):
        source.read(0, PAGE)
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize("fault", ["", "no ranges"])
def test_a_file_can_be_fetched_as_a_whole(server: FaultyServer, tmp_path: Path, fault: str) -> None:
    server.fault = fault
    source = WholeFile(server.url("first"), HttpClient(seconds=SECONDS), tmp_path)
    server.fault = "replaced"
    check(source, 0, SIZE)
    check(source, 77, 10)
    assert (source.name, source.version) == ("first", '"old-1" Mon, 30 Nov 2026 10:00:00 GMT')
    assert list(tmp_path.iterdir()) == []
    source.close()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("404", ExitCode.NOT_FOUND),
        ("403", ExitCode.NOT_ALLOWED),
        ("503", ExitCode.TEMPORARY),
        ("418", ExitCode.OTHER),
        ("gzip", ExitCode.CANNOT),
        ("half the body", ExitCode.TEMPORARY),
    ],
)
def test_what_cannot_be_fetched_as_a_whole_is_refused(
    server: FaultyServer, tmp_path: Path, fault: str, code: ExitCode
) -> None:
    server.fault = fault
    with pytest.raises(Refusal) as refused:
        WholeFile(server.url("first"), HttpClient(seconds=SECONDS), tmp_path, patience=0.3)
    assert refused.value.code == code


def test_a_redirect_is_kept_until_it_fails(server: FaultyServer) -> None:
    server.fault = "link"
    source = open_web(server)
    for page in range(10):
        check(source, page * PAGE, PAGE)
    # 11 ranges: 3 uses of each of 4 links, 4 redirects, and a refusal before each of the last 3.
    assert (server.links, server.count) == (4, 11 + 4 + 3)


def test_headers_are_read_again_once_when_they_are_refused(server: FaultyServer, tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("# who I am\nAuthorization: Bearer 1\n")
    source = WebFile(server.url("a%20b?sig=1"), HttpClient(file, SECONDS))
    assert (source.name, source.url) == ("a b", server.url("a%20b"))
    file.write_text("Authorization: Bearer 2\n")
    server.fault = "403"
    with pytest.raises(Unavailable, match="expired"):
        source.read(0, PAGE)
    assert [asked["Authorization"] for asked in server.asked] == ["Bearer 1", "Bearer 1", "Bearer 2"]


def test_headers_do_not_go_to_another_server(server: FaultyServer, tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("X-Token: secret\n")
    with faulty_server() as other:
        server.refusals["moved"] = (302, {"Location": other.url("x")})
        server.fault = "moved"
        source = WebFile(server.url("first"), HttpClient(file, SECONDS))
        check(source, PAGE, PAGE)
        assert [asked.get("X-Token") for asked in server.asked] == ["secret"]
        assert [asked.get("X-Token") for asked in other.asked] == [None, None]


def test_a_tree_of_a_store_is_what_its_list_says(server: FaultyServer) -> None:
    access = Access(f"http://127.0.0.1:{server.port}", anonymous=True, seconds=SECONDS)
    files = list(bucket_files("s3://bucket/tree/", access))
    assert [(file.name, file.size) for file in files] == [("a/b", SIZE), ("c", SIZE)]
    assert server.count == 1, "none of them is asked for when it is opened"
    check(files[0], PAGE, PAGE)
    server.fault, server.checks_if_match = "replaced, same tag", False
    with pytest.raises(Changed):  # the first answer had another date
        files[0].read(0, PAGE)
    server.fault = "replaced"
    with pytest.raises(Changed):  # the list had another tag
        files[1].read(0, PAGE)
    server.fault = "403"
    with pytest.raises(Refusal) as refused:
        list(bucket_files("s3://bucket/tree/", access))
    assert refused.value.code == ExitCode.NOT_ALLOWED


def test_both_versions_differ_in_every_word() -> None:
    with pytest.raises(pattern.PatternError):
        pattern.check(pattern.make(NEW, 0, PAGE), OLD)
