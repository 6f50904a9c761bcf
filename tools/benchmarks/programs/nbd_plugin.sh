#!/bin/sh
# nbdkit's sh plugin: the object $BENCH_DATA, read with one dd per request.
case "$1" in
get_size) stat -c %s "$BENCH_DATA" ;;
pread) dd if="$BENCH_DATA" bs=1048576 iflag=skip_bytes,count_bytes skip="$4" count="$3" status=none ;;
can_multi_conn) exit 0 ;;
can_write | can_flush | can_trim | can_zero) exit 3 ;;
*) exit 2 ;;
esac
