#!/usr/bin/env python3
"""Print a few elements of one tensor of a safetensors file; of a large file on a web server only their pages are read.

    vmofs run https://host/model.safetensors -- safetensors_slice.py {} lm_head.weight 1000 4

The header is a length of 8 bytes and JSON; the elements are read through a mapping.
"""

import json
import mmap
import struct
import sys

FORMATS = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "I16": "h", "I8": "b", "U8": "B", "BOOL": "?"}

path, name, first, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:  # noqa: PTH123 - as users do
    (length,) = struct.unpack("<Q", data[:8])
    tensor = json.loads(data[8 : 8 + length])[name]
    form = struct.Struct("<" + FORMATS[tensor["dtype"]])
    start = 8 + length + tensor["data_offsets"][0] + first * form.size
    print(*(value for (value,) in form.iter_unpack(data[start : start + count * form.size])))
