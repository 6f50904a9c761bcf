#!/usr/bin/env bash
# File objects over HTTP ranges mix two versions of an object, although the server sends a strong ETag.
#
# One would guess: a reader that got an ETag with its first range sends If-Match with the next, or at least compares
# the ETags.
#
# Seen (obstore 0.12.1, opendal 0.47.12, fsspec 2026.9.0 with aiohttp 3.14.5): obstore.open_reader, opendal's open and
# fsspec's open read 8 bytes of the old version, then, after a seek, 8 bytes of the new one, without an error; none
# sends If-Match. The server here would answer 412. Sizes are equal, so nothing else tells. If it matters, read by
# obstore's get with if_match, range by range.
#
# Needs python3 with venv, and PyPI. Exits 1 if the behaviour has changed, 2 if it cannot be tried here.
set -euo pipefail

cannot() {
    echo "cannot be tried here: $1"
    exit 2
}

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

python3 -m venv "$place/venv" || cannot "no venv"
"$place/venv/bin/pip" install --quiet --no-compile obstore==0.12.1 opendal==0.47.12 fsspec==2026.9.0 \
    aiohttp==3.14.5 ||
    cannot "the packages are not to be had"

"$place/venv/bin/pip" list 2>/dev/null | grep -E '^(opendal|fsspec|obstore) '
"$place/venv/bin/python" - <<'PYTHON'
import http.server
import re
import sys
import threading

import fsspec
import obstore
import obstore.store
import opendal


class Handler(http.server.BaseHTTPRequestHandler):
    """One object; ranges are answered if `ranges` says so, If-Match is checked."""

    protocol_version = "HTTP/1.1"
    content = b"".join(b"%07d\n" % line for line in range(512 * 1024))
    etag, ranges = '"one"', True

    def do_GET(self):
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "") if self.ranges else None
        body, size = self.content, len(self.content)
        if self.headers.get("If-Match", self.etag) != self.etag:
            self.send_response(412)
            body = b""
        elif asked:
            first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            body = body[first : last + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.etag)
        self.send_header("Last-Modified", "Tue, 01 Dec 2020 00:00:00 GMT")
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        try:
            if self.command == "GET":
                self.wfile.write(body)
        except OSError:
            pass

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def store_of(url):
    return obstore.store.HTTPStore.from_url(url, client_options={"allow_http": True})


def obstore_reader(url):
    return obstore.open_reader(store_of(url), "file", buffer_size=65536)


def opendal_reader(url):
    return opendal.Operator("http", endpoint=url).open("file", "rb")


def fsspec_reader(url):
    return fsspec.filesystem("http", skip_instance_cache=True).open(url + "/file", block_size=65536)


def read_during_a_replacement(open_it):
    class Replaced(Handler):
        pass

    file = open_it(serve(Replaced))
    first = bytes(file.read(8))
    Replaced.content, Replaced.etag = b"N" * len(Handler.content), '"two"'
    try:
        file.seek(2 << 20)
        return first, bytes(file.read(8))
    except Exception as error:
        return first, type(error).__name__


outcomes = [read_during_a_replacement(open_it) for open_it in (obstore_reader, opendal_reader, fsspec_reader)]
for name, outcome in zip(("obstore", "opendal", "fsspec"), outcomes):
    print(f"{name}: before and after the replacement: {outcome}")


class Replaced(Handler):
    etag = '"two"'


try:
    obstore.get(store_of(serve(Replaced)), "file", options={"if_match": '"one"', "range": (0, 8)}).bytes()
    refused = "nothing"
except Exception as error:
    refused = type(error).__name__
print("obstore.get with if_match of the old version raises", refused)
sys.exit(not (set(outcomes) == {(b"0000000\n", b"NNNNNNNN")} and refused == "PreconditionError"))
PYTHON
