#!/usr/bin/env bash
# pager.sh MOUNT PAGER FILE: builtins, and one dd per request.
control=$1/control/$2 opened=
while read -r request _ offset length vmo; do
    [ "$request" = READ ] || continue
    if [ "$vmo" != "$opened" ]; then # dd opens it by its descriptor, which takes fewer requests than by its name
        exec 3>>"$control/supply/$vmo" || continue
        opened=$vmo
    fi
    dd if="$3" of=/dev/fd/3 bs=1048576 iflag=skip_bytes,count_bytes oflag=seek_bytes conv=notrunc \
        skip="$offset" seek="$offset" count="$length" status=none
done <"$control/requests"
