"""Where formats keep their directories: what readers want first, though it does not stand first.

Zip, Parquet, PDF, squashfs, MP4, zstd with a table of frames and others end with it; readers fetch the first page and
then the last 64 to 128 KiB. Index files are read whole. Measured: this saves polars 17 round trips, others one or two.
"""

from __future__ import annotations

from vmofs.units import PAGE_SIZE

_TAIL = 128 << 10
_MOST_OF_AN_INDEX = 4 << 20

_TAIL_NAMES = (
    ".zip .jar .whl .npz .apk .docx .xlsx .pptx .odt .ods .epub .kmz .parquet .geoparquet .orc .feather .arrow "
    ".pdf .mcap .vortex .lance .sst .zst .sqfs .squashfs .mp4 .mov .m4a .ann .xz .bam .laz .tif .tiff"
)
_INDEX_NAMES = ".bai .csi .tbi .crai .fai .gzi .shx .idx"
_MAGIC = (
    *(b"PK\x03\x04", b"PAR1", b"%PDF", b"ORC", b"hsqs", b"ARROW1", b"\x89MCAP", b"VTXF", b"\x28\xb5\x2f\xfd"),
    *(b"\xfd7zXZ", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
)
_MAGIC_OF_MP4 = b"ftyp"

_TAILED = frozenset(_TAIL_NAMES.split())
_INDEXES = frozenset(_INDEX_NAMES.split())


def ranges_by_name(name: str, size: int) -> list[tuple[int, int]]:
    """Return the ranges (start, end) that readers of a file of that name want first, beside what they ask for."""
    stem, dot, suffix = name.rpartition(".")
    kind = (dot + suffix).lower() if stem else ""
    if kind in _INDEXES:
        return [(0, min(size, _MOST_OF_AN_INDEX))]
    return [tail(size)] if kind in _TAILED else []


def ranges_by_content(first_bytes: bytes, size: int) -> list[tuple[int, int]]:
    """Return the ranges that readers of a file that begins like this want first."""
    is_tailed = first_bytes.startswith(_MAGIC) or first_bytes[4:8] == _MAGIC_OF_MP4
    return [tail(size)] if is_tailed else []


def tail(size: int) -> tuple[int, int]:
    """Return the end of a file, as much of it as directories mostly are."""
    return max(0, size - _TAIL) // PAGE_SIZE * PAGE_SIZE, size
