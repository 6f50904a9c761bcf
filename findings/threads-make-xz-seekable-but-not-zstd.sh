#!/usr/bin/env bash
# xz -T2 makes many blocks, which can be read at random; zstd -T2 makes a single frame, which cannot.
#
# One would guess: both cut their input into pieces, one for each thread at a time, so both files can be entered in
# the middle.
#
# Seen (zstd 1.5.4, xz-utils 5.4.1): of 8 MB, xz -0 -T1 makes 1 block and xz -0 -T2 8; zstd makes 1 frame with -T1,
# -T2 and --rsyncable, because its jobs share the window across their borders. pzstd, in zstd's own package, makes
# several frames, without an index. So the same flag decides about random access in one tool and says nothing in the
# other.
#
# Needs Debian 12 and its package archive. Exits 1 if the behaviour has changed, 2 if it cannot be tried here.
set -euo pipefail

cannot() {
    echo "cannot be tried here: $1"
    exit 2
}

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

cd "$place"
packages=(zstd=1.5.4+dfsg2-5+deb12u1 xz-utils=5.4.1-1+deb12u2 liblzma5=5.4.1-1+deb12u2 libzstd1=1.5.4+dfsg2-5+deb12u1)
apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}" ||
    { apt-get update -qq && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}"; } ||
    cannot "the packages are not to be had"
for package in ./*.deb; do dpkg -x "$package" root; done

export LD_LIBRARY_PATH=$place/root/usr/lib/x86_64-linux-gnu:$place/root/lib/x86_64-linux-gnu
tools=$place/root/usr/bin
"$tools/zstd" --version | head -n 1
"$tools/xz" --version | head -n 1
head -c 6000000 /dev/urandom | base64 -w 0 >data

frames() { "$tools/zstd" -l "$1" | awk 'END { print $1 }'; }
blocks() { "$tools/xz" --list --robot "$1" | awk '$1 == "file" { print $3 }'; }
for threads in 1 2; do
    "$tools/zstd" -q -1 -T$threads -c data >zstd-T$threads
    "$tools/xz" -0 -T$threads -c data >xz-T$threads
done
"$tools/zstd" -q -1 -T2 --rsyncable -c data >zstd-rsyncable
"$tools/pzstd" -q -1 -p 2 data -o pzstd
result="zstd $(frames zstd-T1) $(frames zstd-T2) $(frames zstd-rsyncable) xz $(blocks xz-T1) $(blocks xz-T2)"
parallel=$(frames pzstd)
echo "frames of zstd -T1, -T2, --rsyncable, blocks of xz -T1, -T2: $result; frames of pzstd: $parallel"
[ "${result% *}" = "zstd 1 1 1 xz 1" ] && [ "$(blocks xz-T2)" -gt 4 ] && [ "$parallel" -gt 1 ]
