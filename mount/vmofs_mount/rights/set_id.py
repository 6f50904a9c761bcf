"""Set-user-ID and set-group-ID go from a file whose content is changed by somebody without CAP_FSETID.

Of the file that is written to, cut off or extended the kernel takes them itself, by a SETATTR of the mode, as it does
on a tmpfs. Not of an aux that is open for writing only, whose data do not go through the page cache; and it knows
nothing of the other names of the memory. What is done here is for these.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from vmofs_mount.tree.inodes import AuxFile, VmoFile, vmo_of

SET_ID = stat.S_ISUID | stat.S_ISGID


def drop_privileges(
    file: VmoFile | AuxFile, keeps: Callable[[], bool], changed: Callable[[VmoFile | AuxFile], None], *, own: bool
) -> None:
    """Take the bits from all files that show what is written to ``file``; from itself only if ``own``.

    Not if the writer ``keeps`` them, which is asked only if there is something to take. ``changed`` is told of each.
    """
    node = vmo_of(file).node
    if not (own and file.mode & SET_ID) and not (node.windows or node.children):
        return
    for shown in node.seen_by():
        other = shown.owner
        if isinstance(other, VmoFile | AuxFile) and other.mode & SET_ID and (own or other is not file):
            if keeps():
                return
            other.drop_privileges()
            changed(other)
