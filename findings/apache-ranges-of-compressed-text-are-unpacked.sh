#!/usr/bin/env bash
# Behind Apache's mod_deflate a range is one of the compressed bytes, and requests unpacks it to more than was asked.
#
# One would guess: bytes=0-999 gives the first 1,000 bytes of the file, or status 200 and everything, as nginx does.
#
# Seen (Apache 2.4.71, requests 2.34.2): for a text of 160,000 bytes status 206 and Content-Range "0-999/41...", of
# the compressed length, with Content-Encoding: gzip. requests unpacks the 1,000 bytes into some 4,000 and raises
# nothing; a range from the middle raises ContentDecodingError. That is HTTP by the letter, since the range is of the
# representation that was chosen. So a reader by ranges has to say Accept-Encoding: identity, and to look at
# Content-Encoding as well as at Content-Range.
#
# Needs Debian 12 and its package archive, python3 with venv, and PyPI. Exits 1 if the behaviour has changed, 2 if it
# cannot be tried here.
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
"$place/venv/bin/pip" install --quiet --no-compile requests==2.34.2 || cannot "the packages are not to be had"

cd "$place"
packages=(apache2-bin=2.4.71-1~deb12u1 libapr1=1.7.2-3+deb12u1 libaprutil1=1.6.3-1+deb12u1 libexpat1 libpcre2-8-0)
apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}" ||
    { apt-get update -qq && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}"; } ||
    cannot "the packages are not to be had"
for package in ./*.deb; do dpkg -x "$package" root; done

# Whether somebody listens at a port.
listening() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

mkdir www
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
echo "text/plain txt" >types
cat >apache.conf <<CONF
ServerRoot $place
ServerName localhost
Listen 127.0.0.1:$port
PidFile $place/pid
ErrorLog $place/error.log
LoadModule mpm_event_module $place/root/usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module $place/root/usr/lib/apache2/modules/mod_authz_core.so
LoadModule filter_module $place/root/usr/lib/apache2/modules/mod_filter.so
LoadModule mime_module $place/root/usr/lib/apache2/modules/mod_mime.so
LoadModule deflate_module $place/root/usr/lib/apache2/modules/mod_deflate.so
TypesConfig $place/types
SetOutputFilter DEFLATE
DocumentRoot $place/www
CONF
export LD_LIBRARY_PATH=$place/root/usr/lib/x86_64-linux-gnu
"$place/root/usr/sbin/apache2" -v || cannot "apache does not start"
chmod 755 "$place"
"$place/root/usr/sbin/apache2" -f "$place/apache.conf" -X &
server=$!
for _ in $(seq 50); do
    if listening "$port"; then break; fi
    sleep 0.1
done

seq -f %07.0f 20000 >www/text.txt
unset LD_LIBRARY_PATH
"$place/venv/bin/python" - "http://127.0.0.1:$port/text.txt" <<'PYTHON'
import sys

import requests

url = sys.argv[1]
print("requests", requests.__version__)
size = len(requests.get(url, timeout=10).content)
start = requests.get(url, headers={"Range": "bytes=0-999"}, timeout=10)
try:
    requests.get(url, headers={"Range": "bytes=1000-1015"}, timeout=10)
    middle = "nothing"
except requests.RequestException as error:
    middle = type(error).__name__
plain = requests.get(url, headers={"Range": "bytes=0-999", "Accept-Encoding": "identity"}, timeout=10)
total = int(start.headers["Content-Range"].split("/")[1])
print(f"of {size} bytes, range 0-999: {start.status_code}, total {total}, {len(start.content)} bytes unpacked")
print(f"range 1000-1015 raises {middle}; identity: {plain.status_code}, {len(plain.content)} bytes")
sys.exit(
    not (
        start.status_code == 206
        and total < size
        and len(start.content) > 1000
        and middle == "ContentDecodingError"
        and len(plain.content) == 1000
    )
)
PYTHON
