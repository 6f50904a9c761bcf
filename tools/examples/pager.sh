#!/usr/bin/env bash
# Serve a file as a pager VMO: pager.sh MOUNT PAGER SOURCE NAME
#
# Makes the pager control/PAGER and the VMO vmo/NAME of SOURCE's size if they are not there yet, then supplies from
# SOURCE whatever pages are asked for, until the pager is closed (rmdir control/PAGER). Killed and started again it goes
# on where it was: the requests that it did not answer come again.
#
# The loop is bash's builtins and dd. Page data is staged in an aux file and moves from there. dd truncates it
# first, so the aux file is never longer than what was read: rounded up to a page it covers the whole request also
# at SOURCE's end, and if SOURCE has become shorter, the supply fails and the reader gets EIO, not zeros.
pager=$1/control/$2 vmo=vmo/${4:?usage: pager.sh MOUNT PAGER SOURCE NAME}
# In commands and requests a blank, tab, newline or backslash of a name is written in octal; printf hands that on as it
# is, which echo does not in every shell. supply/ shows the pager's own VMOs: create_vmo refuses a name of another pager.
name=${vmo//\\/\\134} name=${name// /\\040} name=${name//$'\t'/\\011} name=${name//$'\n'/\\012}
[ -d "$pager" ] || mkdir "$pager" || exit
[ -e "$pager/supply/$vmo" ] || printf '%s %s\n' "$name" "$(stat -L -c %s "$3")" >"$pager/create_vmo" || exit
while read -r request key offset length vmo; do
    [ "$request" = READ ] || continue # COMPLETE: this VMO is gone, another may still be served
    # shellcheck disable=SC2015 # meant so: when the supply fails, the request fails too
    dd status=none bs=1M iflag=skip_bytes,count_bytes skip="$offset" count="$length" if="$3" of="$1/aux/stage-$key" &&
        printf '%s\n' "$vmo $offset $length aux/stage-$key 0" >"$pager/supply_pages" ||
        printf '%s\n' "FAIL $vmo $offset $length ZX_ERR_IO" >"$pager/op_range"
done <"$pager/requests"
