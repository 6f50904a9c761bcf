#!/usr/bin/env bash
# Apache gives a new file a weak ETag for a second and a strong one later; If-Match with the first one fails for ever.
#
# One would guess: the ETag of a file that does not change does not change.
#
# Seen (Apache 2.4.71): W/"X" while the file is younger than a second or so, then "X". If-Match compares strongly, so
# a reader that remembered the first one gets 412 for each range, although the file is the same. So leave W/ out of
# what is remembered, and send If-Match only with what came strong.
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

python3 - "$place/www/object" "http://127.0.0.1:$port/object" <<'PYTHON'
import sys
import time
import urllib.error
import urllib.request

path, url = sys.argv[1:]


def get(**headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=names)) as answer:
            return answer.status, answer.headers["ETag"]
    except urllib.error.HTTPError as error:
        return error.code, None


with open(path, "wb") as file:
    file.write(bytes(1000))
first = get()
time.sleep(2.5)
later, with_first, with_later = get(), get(If_Match=first[1]), get(If_Match=get()[1])
print(f"at once: {first}; 2.5 s later: {later}")
print(f"If-Match: {with_first[0]} with the first, {with_later[0]} with the later")
sys.exit(not (first[1] == "W/" + later[1] and with_first[0] == 412 and with_later[0] == 200))
PYTHON
