#!/usr/bin/env bash
# requests, httpx and aiohttp get the whole file for a range behind nginx with `gzip on`; urllib3 gets the range.
#
# One would guess: Range is the client's wish for 16 bytes, and gzip an offer: a server that does both leaves the
# compression out.
#
# Seen (nginx 1.22.1, requests 2.34.2, httpx 0.28.1, aiohttp 3.14.5, urllib3 2.8.0): the first three send
# Accept-Encoding: gzip by default; nginx then compresses, takes ranges back, and answers 200 with all of it, which
# the client unpacks without a word. With Accept-Encoding: identity, or none as urllib3 does, it is 206 and 16 bytes.
# So a reader by ranges has to say identity.
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
"$place/venv/bin/pip" install --quiet --no-compile requests==2.34.2 httpx==0.28.1 aiohttp==3.14.5 \
    urllib3==2.8.0 ||
    cannot "the packages are not to be had"

cd "$place"
packages=(nginx=1.22.1-9+deb12u11 libpcre2-8-0)
apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}" ||
    { apt-get update -qq && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}"; } ||
    cannot "the packages are not to be had"
for package in ./*.deb; do dpkg -x "$package" root; done

# Whether somebody listens at a port.
listening() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

mkdir -p www logs temporary
cat >nginx.conf <<CONF
daemon off;
master_process off;
pid $place/pid;
error_log $place/error.log;
events {}
http {
    client_body_temp_path $place/temporary/body;
    proxy_temp_path $place/temporary/proxy;
    fastcgi_temp_path $place/temporary/fastcgi;
    uwsgi_temp_path $place/temporary/uwsgi;
    scgi_temp_path $place/temporary/scgi;
    access_log off;
    types { text/plain txt; }
    default_type application/octet-stream;
    gzip on;
    gzip_types text/plain;
    server { listen 127.0.0.1:PORT; root $place/www; }
}
CONF
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
sed -i "s/PORT/$port/" nginx.conf
export LD_LIBRARY_PATH=$place/root/usr/lib/x86_64-linux-gnu
"$place/root/usr/sbin/nginx" -v || cannot "nginx does not start"
"$place/root/usr/sbin/nginx" -p "$place" -e "$place/error.log" -c "$place/nginx.conf" &
server=$!
for _ in $(seq 50); do
    if listening "$port"; then break; fi
    sleep 0.1
done

seq -f "line %.0f of a text" 20000 >www/text.txt
unset LD_LIBRARY_PATH
"$place/venv/bin/python" - "http://127.0.0.1:$port/text.txt" <<'PYTHON'
import asyncio
import sys

import aiohttp
import httpx
import requests
import urllib3

url, wanted = sys.argv[1], {"Range": "bytes=1000-1015"}


def by_requests(headers):
    answer = requests.get(url, headers=headers, timeout=10)
    return answer.status_code, len(answer.content)


def by_httpx(headers):
    answer = httpx.get(url, headers=headers)
    return answer.status_code, len(answer.content)


def by_aiohttp(headers):
    async def get():
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            return answer.status, len(await answer.read())

    return asyncio.run(get())


def by_urllib3(headers):
    answer = urllib3.request("GET", url, headers=headers)
    return answer.status, len(answer.data)


plain, identity = [], []
for client in (by_requests, by_httpx, by_aiohttp, by_urllib3):
    plain.append(client(wanted))
    identity.append(client({**wanted, "Accept-Encoding": "identity"}))
    print(f"{client.__name__}: {plain[-1]}; with Accept-Encoding: identity {identity[-1]}")
whole = [status == 200 and size > 100000 for status, size in plain]
sys.exit(not (whole == [True, True, True, False] and plain[3] == (206, 16) and set(identity) == {(206, 16)}))
PYTHON
