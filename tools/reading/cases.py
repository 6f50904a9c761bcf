"""Programs, the files that they read, and what they look at, as scripts for a Python that has their packages.

``make`` writes files into the working directory. ``{}`` in a look is the first of them. Sizes are some 4 to 20 MiB: so
that looking at a part is a part.
"""

from __future__ import annotations

from typing import NamedTuple


class Look(NamedTuple):
    """Something that a program is asked for. It prints what it found."""

    label: str
    command: tuple[str, ...]


class Case(NamedTuple):
    """A format. ``file`` is what the looks are given; ``packages`` are from PyPI, ``programs`` from the machine."""

    name: str
    file: str
    make: str
    looks: tuple[Look, ...]
    packages: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()


def _py(label: str, code: str) -> Look:
    return Look(label, ("python", "-c", code, "{}"))


def _sh(label: str, *command: str) -> Look:
    return Look(label, command)


_SUM = "import sys, hashlib; show = lambda b: print(hashlib.sha256(bytes(b)).hexdigest()[:16])\n"

CASES = (
    Case(
        "any file",
        "data.bin",
        "import random; open('data.bin', 'wb').write(random.Random(1).randbytes(8 << 20))",
        (
            _sh("head -c 1", "head", "-c", "1", "{}"),
            _sh("tail -c 1", "tail", "-c", "1", "{}"),
            _sh("sha256sum", "sha256sum", "{}"),
            _sh("file", "file", "-b", "{}"),
            _py(
                "mmap, 1 MiB in the middle",
                _SUM + "import mmap; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0,"
                " prot=mmap.PROT_READ); show(m[4 << 20 : 5 << 20])",
            ),
        ),
        programs=("file",),
    ),
    Case(
        "zip, 1,000 members",
        "data.zip",
        "import random, zipfile; r = random.Random(1)\n"
        "with zipfile.ZipFile('data.zip', 'w') as z:\n"
        "    for n in range(1000): z.writestr(f'm{n:04}', r.randbytes(20_000))",
        (
            _sh("unzip -l", "unzip", "-l", "{}"),
            _sh("bsdtar tf", "bsdtar", "tf", "{}"),
            _py("zipfile: namelist", "import sys, zipfile; print(len(zipfile.ZipFile(sys.argv[1]).namelist()))"),
            _py("zipfile: one member", _SUM + "import zipfile; show(zipfile.ZipFile(sys.argv[1]).read('m0500'))"),
        ),
        programs=("unzip", "bsdtar"),
    ),
    Case(
        "tar, 400 members",
        "data.tar",
        "import io, random, tarfile; r = random.Random(1)\n"
        "with tarfile.open('data.tar', 'w') as t:\n"
        "    for n in range(400):\n"
        "        i = tarfile.TarInfo(f'm{n:04}'); i.size = 20_000; t.addfile(i, io.BytesIO(r.randbytes(i.size)))",
        (
            _sh("tar tf", "tar", "tf", "{}"),
            _py(
                "tarfile: one member",
                _SUM + "import tarfile; t = tarfile.open(sys.argv[1]); show(t.extractfile('m0200').read())",
            ),
        ),
    ),
    Case(
        "SQLite, 200,000 rows",
        "data.db",
        "import random, sqlite3; r = random.Random(1); c = sqlite3.connect('data.db')\n"
        "c.execute('create table t (k integer primary key, v blob)')\n"
        "c.executemany('insert into t values (?, ?)', ((n, r.randbytes(60)) for n in range(200_000))); c.commit()",
        (
            _py(
                "one row by key",
                "import sqlite3, sys; c = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True)\n"
                "print(c.execute('select hex(v) from t where k = 123456').fetchall())",
            ),
            _py(
                "sum over all",
                "import sqlite3, sys; c = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True)\n"
                "print(c.execute('select sum(length(v)), max(v) from t').fetchall())",
            ),
        ),
    ),
    Case(
        "lmdb",
        "data.mdb",
        "import lmdb, random; r = random.Random(1); e = lmdb.open('data.mdb', subdir=False, map_size=1 << 30)\n"
        "with e.begin(write=True) as t:\n"
        "    for n in range(100_000): t.put(b'%08d' % n, r.randbytes(60))\n"
        "e.close(); import os; os.unlink('data.mdb-lock')",
        (
            _py(
                "one key, lock=False",
                "import lmdb, sys; e = lmdb.open(sys.argv[1], subdir=False, readonly=True, "
                "lock=False)\nprint(e.begin().get(b'00054321').hex())",
            ),
        ),
        packages=("lmdb==1.6.2",),
    ),
    Case(
        "NumPy, 16 MiB",
        "data.npy",
        "import numpy as np; np.save('data.npy', np.arange(1 << 21, dtype='f8').reshape(-1, 128))",
        (
            _py(
                "load(mmap_mode='r')[k]", "import numpy as np, sys; print(np.load(sys.argv[1], mmap_mode='r')[9000, 5])"
            ),
            _py("load", "import numpy as np, sys; print(np.load(sys.argv[1]).sum())"),
        ),
        packages=("numpy==2.2.6",),
    ),
    Case(
        "safetensors, 16 tensors of 1 MiB",
        "data.safetensors",
        "import numpy as np; from safetensors.numpy import save_file; r = np.random.default_rng(1)\n"
        "save_file({f't{n}': r.random(1 << 18, dtype='f4') for n in range(16)}, 'data.safetensors')",
        (
            _py(
                "keys",
                "import sys; from safetensors import safe_open\nprint(len(list(safe_open(sys.argv[1], 'np').keys())))",
            ),
            _py(
                "one tensor",
                "import sys; from safetensors import safe_open\n"
                "print(safe_open(sys.argv[1], 'np').get_tensor('t7').sum())",
            ),
        ),
        packages=("numpy==2.2.6", "safetensors==0.5.3"),
    ),
    Case(
        "Parquet, 3 columns",
        "data.parquet",
        "import numpy as np, pyarrow as pa, pyarrow.parquet as pq; r = np.random.default_rng(1)\n"
        "pq.write_table(pa.table({c: r.random(1 << 19) for c in 'abc'}), 'data.parquet', row_group_size=1 << 17)",
        (
            _py(
                "pyarrow: metadata", "import sys, pyarrow.parquet as pq; print(pq.read_metadata(sys.argv[1]).num_rows)"
            ),
            _py(
                "pyarrow: one column",
                "import sys, pyarrow.parquet as pq, pyarrow.compute as pc\n"
                "print(pc.sum(pq.read_table(sys.argv[1], columns=['b'])['b']))",
            ),
            _py(
                "pyarrow: the same, memory_map",
                "import sys, pyarrow.parquet as pq, pyarrow.compute as pc\n"
                "print(pc.sum(pq.read_table(sys.argv[1], columns=['b'], memory_map=True)['b']))",
            ),
            _py(
                "duckdb: count(*)",
                "import sys, duckdb\nprint(duckdb.sql(f\"select count(*) from '{sys.argv[1]}'\").fetchall())",
            ),
            _py(
                "duckdb: sum of one column",
                "import sys, duckdb\nprint(duckdb.sql(f\"select sum(b) from '{sys.argv[1]}'\").fetchall())",
            ),
        ),
        packages=("numpy==2.2.6", "pyarrow==20.0.0", "duckdb==1.3.0"),
    ),
    Case(
        "HDF5",
        "data.h5",
        "import h5py, numpy as np; r = np.random.default_rng(1)\n"
        "with h5py.File('data.h5', 'w') as f:\n"
        "    for n in range(16): f[f'd{n}'] = r.random(1 << 17)\n"
        "    f.create_dataset('c', data=r.random((512, 512)), chunks=(64, 64))",
        (
            _py("keys", "import sys, h5py; print(len(h5py.File(sys.argv[1]).keys()))"),
            _py("a dataset of 1 MiB", "import sys, h5py; print(h5py.File(sys.argv[1])['d7'][:].sum())"),
            _py("one element of a chunk", "import sys, h5py; print(h5py.File(sys.argv[1])['c'][300, 300])"),
        ),
        packages=("numpy==2.2.6", "h5py==3.13.0"),
    ),
    Case(
        "netCDF-3",
        "data.nc",
        "import netCDF4, numpy as np; r = np.random.default_rng(1)\n"
        "d = netCDF4.Dataset('data.nc', 'w', format='NETCDF3_CLASSIC'); d.createDimension('x', 1 << 20)\n"
        "v = d.createVariable('v', 'f8', ('x',)); v[:] = r.random(1 << 20); d.close()",
        (
            _py("open", "import sys, netCDF4; print(list(netCDF4.Dataset(sys.argv[1]).variables))"),
            _py("all of a variable", "import sys, netCDF4; print(netCDF4.Dataset(sys.argv[1])['v'][:].sum())"),
        ),
        packages=("numpy==2.2.6", "netCDF4==1.7.2"),
    ),
    Case(
        "TIFF, 100 images",
        "data.tif",
        "import numpy as np, tifffile; r = np.random.default_rng(1)\n"
        "with tifffile.TiffWriter('data.tif') as t:\n"
        "    for n in range(100): t.write(r.integers(0, 255, (200, 400), dtype='u1'), contiguous=False)",
        (
            _py("tifffile: number of images", "import sys, tifffile; print(len(tifffile.TiffFile(sys.argv[1]).pages))"),
            _py(
                "tifffile: image 50",
                "import sys, tifffile; print(tifffile.TiffFile(sys.argv[1]).pages[50].asarray().sum())",
            ),
            _py(
                "Pillow: number of images", "import sys; from PIL import Image; print(Image.open(sys.argv[1]).n_frames)"
            ),
        ),
        packages=("numpy==2.2.6", "tifffile==2025.5.10", "pillow==11.2.1"),
    ),
    Case(
        "PNG, 12 Mpixel",
        "data.png",
        "import numpy as np; from PIL import Image; r = np.random.default_rng(1)\n"
        "Image.fromarray(r.integers(0, 255, (2000, 2000, 3), dtype='u1')).save('data.png')",
        (
            _py("Pillow: size", "import sys; from PIL import Image; print(Image.open(sys.argv[1]).size)"),
            _py(
                "Pillow: a pixel", "import sys; from PIL import Image; print(Image.open(sys.argv[1]).getpixel((9, 9)))"
            ),
        ),
        packages=("numpy==2.2.6", "pillow==11.2.1"),
    ),
    Case(
        "Shapefile, 100,000 points",
        "data.shp",
        "import numpy as np, pyogrio.raw as raw, struct; r = np.random.default_rng(1)\n"
        "wkb = np.array([struct.pack('<BIdd', 1, 1, *p) for p in r.random((100_000, 2))], dtype=object)\n"
        "raw.write('data.shp', wkb, [np.arange(100_000)], ['n'], geometry_type='Point', crs='EPSG:4326')",
        (
            _py("pyogrio: info", "import sys, pyogrio; print(pyogrio.read_info(sys.argv[1])['features'])"),
            _py(
                "pyogrio: all",
                "import sys, zlib, pyogrio.raw as raw; g = raw.read(sys.argv[1])[2]\n"
                "print(sum(x is not None for x in g), zlib.crc32(b''.join(x or b'' for x in g)))",
            ),
        ),
        packages=("numpy==2.2.6", "pyogrio==0.11.0"),
    ),
    Case(
        "VCF with an index",
        "data.vcf.gz",
        "import pysam, random; r = random.Random(1)\n"
        "with open('data.vcf', 'w') as f:\n"
        "    f.write('##fileformat=VCFv4.2\\n##contig=<ID=1,length=9999999>\\n"
        "#CHROM\\tPOS\\tID\\tREF\\tALT\\tQUAL\\tFILTER\\tINFO\\n')\n"
        "    for n in range(200_000):\n"
        "        f.write(f'1\\t{n * 10 + 1}\\t{r.randbytes(20).hex()}\\tA\\tC\\t.\\t.\\t.\\n')\n"
        "pysam.tabix_index('data.vcf', preset='vcf')",
        (
            _py(
                "pysam: a region",
                "import sys, pysam; f = pysam.VariantFile(sys.argv[1])\n"
                "print(sum(1 for _ in f.fetch('1', 1_000_000, 1_100_000)))",
            ),
            _py(
                "cyvcf2: a region",
                "import sys; from cyvcf2 import VCF\nprint(sum(1 for _ in VCF(sys.argv[1])('1:1000000-1100000')))",
            ),
        ),
        packages=("numpy==2.2.6", "pysam==0.23.0", "cyvcf2==0.31.1"),
    ),
    Case(
        "NIfTI",
        "data.nii",
        "import nibabel, numpy as np; r = np.random.default_rng(1)\n"
        "nibabel.Nifti1Image(r.integers(0, 99, (128, 128, 256), dtype='i2'), np.eye(4)).to_filename('data.nii')",
        (
            _py("shape", "import sys, nibabel; print(nibabel.load(sys.argv[1]).shape)"),
            _py("a slice", "import sys, nibabel; print(nibabel.load(sys.argv[1]).dataobj[..., 100].sum())"),
        ),
        packages=("numpy==2.2.6", "nibabel==5.3.2"),
    ),
    Case(
        "Avro",
        "data.avro",
        "import fastavro, random; r = random.Random(1)\n"
        "fields = [{'name': 'k', 'type': 'long'}, {'name': 'v', 'type': 'bytes'}]\n"
        "s = {'type': 'record', 'name': 'R', 'fields': fields}\n"
        "with open('data.avro', 'wb') as f:\n"
        "    fastavro.writer(f, s, ({'k': n, 'v': r.randbytes(80)} for n in range(100_000)))",
        (
            _py(
                "schema", "import sys, fastavro; print(fastavro.reader(open(sys.argv[1], 'rb')).writer_schema['name'])"
            ),
            _py("all", "import sys, fastavro; print(sum(x['k'] for x in fastavro.reader(open(sys.argv[1], 'rb'))))"),
        ),
        packages=("fastavro==1.11.1",),
    ),
)
"""What is tried; ``tools/readers --only REGEX`` chooses by name."""
