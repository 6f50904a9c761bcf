#!/usr/bin/env bash
# faiss.read_index with IO_FLAG_MMAP reads flat and HNSW indexes into memory; only IVF lists are mapped.
#
# One would guess: the flag maps the index whatever its kind, or is refused for a kind that it cannot map.
#
# Seen (faiss-cpu 1.15.1, numpy 2.4.6): of a flat index of 5 MB and an HNSW one of 1 MB all bytes are read, the file
# is not in /proc/self/maps, and nothing says so; of an IVF index some 18 KB of 5 MB are. IO_FLAG_MMAP_IFC maps all
# three and reads 122 bytes. So an index that is served page by page needs the second flag.
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
"$place/venv/bin/pip" install --quiet --no-compile faiss-cpu==1.15.1 numpy==2.4.6 ||
    cannot "the packages are not to be had"

"$place/venv/bin/python" - "$place" <<'PYTHON'
import os
import sys

import faiss
import numpy

print("faiss", faiss.__version__)
vectors = numpy.random.default_rng(1).random((20000, 64), dtype="f4")
flat, hnsw = faiss.IndexFlatL2(64), faiss.IndexHNSWFlat(64, 16)
ivf = faiss.IndexIVFFlat(faiss.IndexFlatL2(64), 64, 50)
ivf.train(vectors)
flat.add(vectors)
ivf.add(vectors)
hnsw.add(vectors[:3000])


def bytes_read():
    with open("/proc/self/io") as counters:
        return int(counters.readline().split()[1])


def part_read(name, flag):
    """Return which percentage of an index is read by opening it, and whether it is mapped."""
    path = f"{sys.argv[1]}/{name}"
    before = bytes_read()
    index = faiss.read_index(path, flag)
    percentage = 100 * (bytes_read() - before) // os.path.getsize(path)
    with open("/proc/self/maps") as mappings:
        return percentage, path in mappings.read() and index.ntotal > 0


outcomes = {}
for name, index in (("flat", flat), ("hnsw", hnsw), ("ivf", ivf)):
    faiss.write_index(index, f"{sys.argv[1]}/{name}")
    outcomes[name] = [part_read(name, flag) for flag in (faiss.IO_FLAG_MMAP, faiss.IO_FLAG_MMAP_IFC)]
    mapped, mapped_ifc = outcomes[name]
    print(f"{name}: percent read, mapped: {mapped} with IO_FLAG_MMAP, {mapped_ifc} with IO_FLAG_MMAP_IFC")
whole, mapped = (100, False), (0, True)
sys.exit(outcomes != {"flat": [whole, mapped], "hnsw": [whole, mapped], "ivf": [mapped, mapped]})
PYTHON
