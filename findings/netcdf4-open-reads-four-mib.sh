#!/usr/bin/env bash
# netCDF4.Dataset(path) reads 4 MiB of a netCDF-4 file before it shows a name; h5py opens the same file with some KB.
#
# One would guess: a netCDF-4 file is an HDF5 file, and to open one costs its superblock and a few headers.
#
# Seen (netCDF4 1.7.5.1.post1 with libnetcdf 4.10.1 and HDF5 2.2.0, h5py 3.16.0, numpy 2.4.6): of a file of 32 MB with
# one variable, opening reads 4.2 MB by netCDF4 and less than 0.1 MB by h5py; one number then costs its chunk of 0.4
# MB in both. So a catalogue of lazily fetched files is cheaper by h5py.
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
"$place/venv/bin/pip" install --quiet --no-compile netCDF4==1.7.5.1.post1 h5py==3.16.0 numpy==2.4.6 ||
    cannot "the packages are not to be had"

cat >"$place/open.py" <<'PYTHON'
import os
import sys

path, kind = sys.argv[1:]
if kind == "h5py":
    from h5py import File as Dataset
else:
    from netCDF4 import Dataset


def bytes_read():
    with open("/proc/self/io") as counters:
        return int(counters.readline().split()[1])


before = bytes_read()
dataset = Dataset(path, "r")
opened = bytes_read() - before
assert dataset["numbers"][5] == 5
print(opened, bytes_read() - before - opened)
PYTHON
"$place/venv/bin/python" - "$place/file.nc" <<'PYTHON'
import sys

import h5py
import netCDF4
import numpy

print("netCDF4", netCDF4.__version__, "libnetcdf", netCDF4.__netcdf4libversion__, "h5py", h5py.__version__)
with netCDF4.Dataset(sys.argv[1], "w") as dataset:
    dataset.createDimension("x", 8000000)
    numbers = dataset.createVariable("numbers", "f4", ("x",), chunksizes=(100000,))
    numbers[:] = numpy.arange(8000000, dtype="f4")
PYTHON
read -r netcdf_open netcdf_number <<<"$("$place/venv/bin/python" "$place/open.py" "$place/file.nc" netCDF4)"
read -r h5py_open h5py_number <<<"$("$place/venv/bin/python" "$place/open.py" "$place/file.nc" h5py)"
echo "bytes read of $(stat -c %s "$place/file.nc") to open, then for one number:"
echo "netCDF4 $netcdf_open, $netcdf_number; h5py $h5py_open, $h5py_number"
[ "$netcdf_open" -gt 4000000 ] && [ "$h5py_open" -lt 100000 ]
