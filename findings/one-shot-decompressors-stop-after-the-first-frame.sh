#!/usr/bin/env bash
# Of a file of several frames, three one-shot decompressors return the first frame only, without an error.
#
# One would guess: zstandard's decompress, lz4.frame.decompress and deflate.gzip_decompress give what zstd -d, lz4 -d
# and gzip -d give: everything. Seekable files (a frame for each piece) are ordinary concatenations of frames.
#
# Seen (zstandard 0.25.0, lz4 4.4.5, deflate 0.9.0): 1,000 of 4,000 bytes, no exception, from each; what follows the
# frame is not looked at. In the same packages zstandard's stream_reader and copy_stream, and lz4.frame.open, give all
# 4,000. So test a decompressor with two frames before you serve seekable files to it.
#
# Needs python3 with venv, and PyPI. Exits 1 if the behaviour has changed, 2 if it cannot be tried here.
set -euo pipefail

cannot() {
    echo "cannot be tried here: $1"
    exit 2
}

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

python3 -m venv "$place/venv" || cannot "no venv"
"$place/venv/bin/pip" install --quiet --no-compile zstandard==0.25.0 lz4==4.4.5 deflate==0.9.0 ||
    cannot "the packages are not to be had"

"$place/venv/bin/pip" list 2>/dev/null | grep -E '^(zstandard|lz4|deflate) '
"$place/venv/bin/python" - <<'PYTHON'
import gzip
import io
import sys

import deflate
import lz4.frame
import zstandard

pieces = [bytes([65 + number]) * 1000 for number in range(4)]
zst = b"".join(zstandard.ZstdCompressor().compress(piece) for piece in pieces)
lz4s = b"".join(lz4.frame.compress(piece) for piece in pieces)
gz = b"".join(gzip.compress(piece) for piece in pieces)
one_shot = {
    "zstandard": zstandard.ZstdDecompressor().decompress(zst),
    "lz4.frame": lz4.frame.decompress(lz4s),
    "deflate": deflate.gzip_decompress(gz),
}
streamed = {
    "zstandard": zstandard.ZstdDecompressor().stream_reader(io.BytesIO(zst)).read(),
    "lz4.frame": lz4.frame.open(io.BytesIO(lz4s)).read(),
    "gzip": gzip.decompress(gz),
}
print("bytes of 4000, one-shot:", {name: len(data) for name, data in one_shot.items()})
print("bytes of 4000, streamed:", {name: len(data) for name, data in streamed.items()})
whole = all(data == b"".join(pieces) for data in streamed.values())
sys.exit(not (whole and all(data == pieces[0] for data in one_shot.values())))
PYTHON
