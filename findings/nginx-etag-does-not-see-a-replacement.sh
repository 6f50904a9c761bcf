#!/usr/bin/env bash
# nginx gives the same strong ETag to two contents of a file that were written within one second.
#
# One would guess: a strong ETag that was the same in two answers promises that the bytes are the same; two files that
# differ in inode and in nanoseconds of the time do not have the same one.
#
# Seen (nginx 1.22.1): the ETag is the modification time in whole seconds and the size. A file is replaced (rename) by
# one of the same size, 0.8 s younger: the ETag stays, and a range request with If-Match of it is answered 206 with
# the new bytes. So a reader by ranges cannot see such a replacement by any header.
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
    gzip off;
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

python3 - "$place/www" "http://127.0.0.1:$port/object" <<'PYTHON'
import os
import sys
import urllib.request

folder, url = sys.argv[1:]


def put(content, nanoseconds):
    with open(f"{folder}/new", "wb") as file:
        file.write(content)
    os.utime(f"{folder}/new", ns=(nanoseconds, nanoseconds))
    os.rename(f"{folder}/new", f"{folder}/object")


def get(**headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(url, headers=names)) as answer:
        return answer.status, answer.headers["ETag"], answer.read()


put(b"old " * 1000, 1700000000_100000000)
first = get(Range="bytes=0-3")
put(b"new " * 1000, 1700000000_900000000)
second = get(Range="bytes=4-7", If_Match=first[1])
print(f"before: {first}; after the replacement, with If-Match of that ETag: {second}")
sys.exit(not (first[0] == second[0] == 206 and first[1] == second[1] and (first[2], second[2]) == (b"old ", b"new ")))
PYTHON
