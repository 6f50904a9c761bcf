#!/usr/bin/env python3
"""Serve a file as a pager VMO: pager.py MOUNT PAGER SOURCE NAME.

The same as pager.sh: makes the pager and the VMO if they are not there, stages page data in an aux file, supplies it
from there, and fails the request when SOURCE cannot be read. Nothing but the standard library.
"""

import os
import sys
from pathlib import Path

# In commands and requests a blank, tab, newline or backslash of a name is written in octal.
ESCAPES = {ord(character): f"\\{ord(character):03o}" for character in " \t\n\\"}

mount, pager, source = Path(sys.argv[1]), Path(sys.argv[1], "control", sys.argv[2]), os.open(sys.argv[3], os.O_RDONLY)
pager.mkdir(exist_ok=True)
if not Path(mount, "vmo", sys.argv[4]).exists():
    (pager / "create_vmo").write_text(f"vmo/{sys.argv[4].translate(ESCAPES)} {os.fstat(source).st_size}\n")
requests = (line[:-1].split(" ") for line in (pager / "requests").open(newline="\n") if line.startswith("READ "))
for _, key, offset, length, vmo in requests:
    try:
        Path(mount, "aux", f"stage-{key}").write_bytes(os.pread(source, int(length), int(offset)))
        (pager / "supply_pages").write_text(f"{vmo} {offset} {length} aux/stage-{key} 0\n")
    except OSError:
        (pager / "op_range").write_text(f"FAIL {vmo} {offset} {length} ZX_ERR_IO\n")
