#!/usr/bin/env bash
# Image.open, which Pillow calls lazy, reads all of a WebP or AVIF file; of PNG, JPEG, TIFF and JPEG 2000 under 1 KB.
#
# One would guess: to ask for the size of an image costs its header, whatever the format.
#
# Seen (pillow 13.0.0): Image.open(file).size of pictures of 800 x 600 pixels of noise reads 57 bytes of a PNG of 1.2
# MB, 639 of a JPEG, and every byte of a WebP and an AVIF, whose plugins hand the whole file to the decoder when it is
# opened. So a catalogue of lazily fetched pictures fetches all of those.
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
"$place/venv/bin/pip" install --quiet --no-compile pillow==13.0.0 || cannot "the packages are not to be had"

"$place/venv/bin/python" - <<'PYTHON'
import io
import sys

import PIL
from PIL import Image


class Counting(io.BytesIO):
    count = 0

    def read(self, *arguments):
        data = super().read(*arguments)
        self.count += len(data)
        return data


print("pillow", PIL.__version__)
picture = Image.effect_noise((800, 600), 80).convert("RGB")
whole, little = [], []
for kind in ("PNG", "JPEG", "TIFF", "JPEG2000", "WEBP", "AVIF"):
    saved = io.BytesIO()
    picture.save(saved, kind, **({"speed": 10} if kind == "AVIF" else {}))
    file = Counting(saved.getvalue())
    assert Image.open(file).size == (800, 600)
    size = len(saved.getvalue())
    print(f"{kind}: {file.count} of {size} bytes read for the size of the picture")
    (whole if file.count >= size else little if file.count < 1024 else []).append(kind)
sys.exit((whole, little) != (["WEBP", "AVIF"], ["PNG", "JPEG", "TIFF", "JPEG2000"]))
PYTHON
