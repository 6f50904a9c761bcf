#!/usr/bin/env bash
# Without /etc/mtab an ordinary user can mount by fusermount3, and can not unmount.
#
# One would guess: on a system whose mounts stand in /proc/self/mountinfo nothing needs the file /etc/mtab any more, and
# what fusermount3 has mounted for a user, "fusermount3 -u" of that user unmounts.
#
# Seen (fuse3 3.14.0, bindfs 1.14.7): fusermount3 mounts without a word. "fusermount3 -u" opens /etc/mtab to find out
# whose the mount is, fails with "failed to open /etc/mtab: No such file or directory", and the mount stays until root
# unmounts it. With the link to /proc/self/mounts that installers make, it unmounts. 3.17.2 of Debian 13 says the same.
# A tree made by debootstrap has no /etc/mtab: so this is met in chroots and small containers.
#
# Needs root on Debian 12 with its package archive, /dev/fuse, and overlay. Exits 1 if the behaviour has changed, 2 if it
# cannot be tried here.
set -euo pipefail

cannot() {
    echo "cannot be tried here: $1"
    exit 2
}

[ "$EUID" -eq 0 ] || cannot "not root"
# A mount namespace of its own: what is done to /etc and /dev/fuse below is done there only.
[ -n "${FINDING_NAMESPACE-}" ] || FINDING_NAMESPACE=1 exec unshare --mount --propagation private "$0"

place=$(mktemp -d)
clean_up() {
    umount -l "$place/mount" 2>/dev/null || true
    umount -l /etc /dev/fuse 2>/dev/null || true
    umount -l "$place"
    rmdir "$place"
}
mount -t tmpfs -o mode=755 tmpfs "$place"
trap clean_up EXIT
cd "$place"

packages=(bindfs=1.14.7-1 fuse3=3.14.0-4)
apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}" ||
    { apt-get update -qq && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}"; } ||
    cannot "the packages are not to be had"
for package in ./*.deb; do dpkg -x "$package" root; done
bin=$place/root/bin
[ -x "$bin/fusermount3" ] || bin=$place/root/usr/bin
chmod u+s "$bin/fusermount3"
export PATH=$bin:$place/root/usr/bin:$PATH
bindfs --version | head -n 1 || cannot "bindfs does not start"
fusermount3 --version

# A device that an ordinary user may open, and an /etc in which a file can be taken away.
mknod -m 666 device c 10 229
mount --bind device /dev/fuse
mkdir source mount upper work
chown nobody source mount
mount -t overlay -o "lowerdir=/etc,upperdir=$place/upper,workdir=$place/work" overlay /etc || cannot "no overlay"

as_user() { setpriv --reuid nobody --regid nogroup --clear-groups "$@"; }

try() {
    local mounted=no unmounted=no
    as_user bindfs --no-allow-other source mount && mounted=yes
    as_user fusermount3 -u mount 2>&1 && unmounted=yes
    umount mount 2>/dev/null || true
    printf '%s: mounts: %s, unmounts: %s\n' "$1" "$mounted" "$unmounted"
    result="$mounted $unmounted"
}

ln -sf /proc/self/mounts /etc/mtab
try "with /etc/mtab"
with=$result
rm /etc/mtab
try "without /etc/mtab"
[ "$with" = "yes yes" ] && [ "$result" = "yes no" ]
