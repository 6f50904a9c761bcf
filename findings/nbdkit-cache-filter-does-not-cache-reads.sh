#!/usr/bin/env bash
# nbdkit's cache filter before the curl plugin fetches the same block again at every read.
#
# One would guess: `nbdkit --filter=cache curl URL` keeps what was read, so that the second read of a block is local.
#
# Seen (nbdkit 1.32.5): two reads of the same 4 KiB are two requests of 64 KiB to the server; only what was written is
# kept. With cache-on-read=true it is one request. The manual says so, the name does not; a cache in front of a slow
# server thus adds 64 KiB per read and saves nothing.
#
# Needs Debian 12 and its package archive, python3. Exits 1 if the behaviour has changed, 2 if it cannot be tried
# here.
set -euo pipefail

cannot() {
    echo "cannot be tried here: $1"
    exit 2
}

place=$(mktemp -d)
server=
clean_up() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$place"
}
trap clean_up EXIT

cd "$place"
packages=(nbdkit=1.32.5-1)
apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}" ||
    { apt-get update -qq && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}"; } ||
    cannot "the packages are not to be had"
for package in ./*.deb; do dpkg -x "$package" root; done

modules=$(dirname "$(find "$place/root" -name nbdkit-cache-filter.so)")
curl_plugin=$(find "$place/root" -name nbdkit-curl-plugin.so)
nbdkit=$(find "$place/root" -path '*bin/nbdkit' -type f)
"$nbdkit" --version || cannot "nbdkit does not start"

cat >server.py <<'PYTHON'
import http.server
import re
import threading


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


class Logged(Handler):
    def do_GET(self):
        print(self.command, self.headers.get("Range"), flush=True)
        super().do_GET()

    do_HEAD = do_GET


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Logged)
print("PORT", server.server_port, flush=True)
server.serve_forever()
PYTHON
python3 server.py >log &
server=$!
for _ in $(seq 50); do
    if grep -q PORT log; then break; fi
    sleep 0.1
done
url=http://127.0.0.1:$(awk '/PORT/ { print $2 }' log)/file

cat >client.py <<'PYTHON'
import socket
import struct
import sys

connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
nbd = connection.makefile("rwb")
nbd.read(18)  # magic, magic, handshake flags
nbd.write(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, 0))  # no zeroes; NBD_OPT_EXPORT_NAME, the default export
nbd.flush()
nbd.read(10)  # size, flags
for handle in (1, 2):
    nbd.write(struct.pack(">IHHQQI", 0x25609513, 0, 0, handle, 8192, 4096))
    nbd.flush()
    nbd.read(16)
    assert nbd.read(4096).startswith(b"0001024\n")
nbd.write(struct.pack(">IHHQQI", 0x25609513, 0, 2, 3, 0, 0))
nbd.flush()
PYTHON

# Prints how many range requests two reads of the same 4 KiB make.
requests_with() {
    local before
    before=$(grep -c bytes= log || true)
    # --run ends nbdkit when the client has ended; nbdkit sets unixsocket.
    # shellcheck disable=SC2016
    "$nbdkit" -U - --filter="$modules/nbdkit-cache-filter.so" "$curl_plugin" "$url" "$@" \
        --run 'python3 client.py $unixsocket'
    echo $(($(grep -c bytes= log) - before))
}
plain=$(requests_with)
on_read=$(requests_with cache-on-read=true)
echo "requests for two reads of the same block: --filter=cache $plain, with cache-on-read=true $on_read"
[ "$plain $on_read" = "2 1" ]
