#!/usr/bin/env bash
# obstore.get_range gives fewer bytes than were asked for when the range passes the end, without an error.
#
# One would guess: get_range(start, length) returns length bytes or raises, since `length` was said and the total is
# in Content-Range.
#
# Seen (obstore 0.12.1, on HTTP): 100 bytes asked 10 before the end are 10 bytes; with get_ranges too. Only a range
# that begins behind the end is an error. So the end of an object and a body that was cut are both just short: compare
# the length of every answer.
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
"$place/venv/bin/pip" install --quiet --no-compile obstore==0.12.1 || cannot "the packages are not to be had"

"$place/venv/bin/pip" list 2>/dev/null | grep '^obstore '
"$place/venv/bin/python" - <<'PYTHON'
import http.server
import re
import sys
import threading

import obstore
import obstore.store


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


store = obstore.store.HTTPStore.from_url(serve(Handler), client_options={"allow_http": True})
size = len(Handler.content)
single = len(obstore.get_range(store, "file", start=size - 10, length=100))
many = [len(part) for part in obstore.get_ranges(store, "file", starts=[0, size - 10], lengths=[100, 100])]
print(f"get_range of 100 bytes at the end less 10: {single} bytes; get_ranges of the first 100 and of these: {many}")
sys.exit(not (single == 10 and many == [100, 10]))
PYTHON
