"""The names that a mount begins with."""

from __future__ import annotations

import os
from collections.abc import Mapping

from vmofs import __version__
from vmofs.wire.commands import CommandKind
from vmofs_mount.assembly.statistics import Statistics
from vmofs_mount.observe.event_log import EventLog
from vmofs_mount.tree.inodes import CommandFile, Directory, Node, Realm
from vmofs_mount.tree.text_file import ConstantText, TextFile
from vmofs_mount.tree.tree import Tree

VERSION_TEXT = f"vmofs {__version__} interface 1\n"

README_TEXT = f"""\
vmofs {__version__}: files whose pages a program, the pager, supplies when somebody reads them.

    vmo/      such files: a read of what is not there asks the file's pager, and waits
    aux/      ordinary files in memory, in which a pager stages data
    control/  mkdir control/NAME makes a pager, rmdir closes it

To be a pager, here in the mount point:

    mkdir control/me                                              # make a pager
    echo vmo/hello 12 >control/me/create_vmo                      # and a file of 12 bytes
    (cat vmo/hello &)                                             # whose reader waits
    read -r request key offset length vmo <control/me/requests    # one line for each request
    echo Hello world >aux/stage                                   # the data, whole pages but for the last
    printf '%s\\n' "$vmo $offset $length aux/stage 0" >control/me/supply_pages    # moves pages: aux/stage is zeros then

Or, so that the reader gets an error: printf '%s\\n' "FAIL $vmo $offset $length ZX_ERR_IO" >control/me/op_range

    cat control/me/supply_pages    # reading a command file says how it is used; every command is one line
    cat control/me/pending         # what nobody has answered yet, and for how long
    cat control/log                # the last commands and their results
    getfattr --only-values -n user.vmofs.all vmo/hello    # the file's pager key, options and pages

A command that fails is an error of the write; a read of the same open file gives the reason in a sentence. Numbers are
bytes, also as 0x1000 or 4K. In names, blank, tab, newline and backslash are written \\040 \\011 \\012 \\134.
"""

_COMMANDS = (
    CommandKind.VMO_CREATE,
    CommandKind.VMO_CREATE_CHILD,
    CommandKind.VMO_OP_RANGE,
    CommandKind.VMO_SET_STREAM_SIZE,
    CommandKind.VMO_PIN,
)


class Root(Directory):
    """The mount point."""

    __slots__ = ("_readahead_bytes",)

    def __init__(self, uid: int, gid: int, readahead_bytes: int) -> None:
        super().__init__(0o755, uid, gid, Realm())
        self._readahead_bytes = readahead_bytes

    def computed_xattrs(self) -> Mapping[bytes, bytes]:
        """Return what ``vmofs umount`` and ``vmofs doctor`` must know of the daemon."""
        values = {"pid": os.getpid(), "version": __version__, "readahead": self._readahead_bytes}
        return {name.encode(): str(value).encode() for name, value in values.items()}


def add_first_names(tree: Tree, vmo: Directory, aux: Directory, control: Directory) -> None:
    """Fill the mount point."""
    root = tree.root
    first: dict[bytes, Node] = {
        b"README": ConstantText(0o444, root.uid, root.gid, README_TEXT),
        b"vmo": vmo,
        b"aux": aux,
        b"control": control,
    }
    for name, node in first.items():
        tree.add(root, name, node)


def fill_control(tree: Tree, control: Directory, statistics: Statistics, log: EventLog) -> None:
    """Add what stands in ``control/`` beside pagers. It belongs to whom the mount does."""
    uid, gid = control.uid, control.gid
    files: dict[bytes, Node] = {
        b"version": ConstantText(0o444, tree.root.uid, tree.root.gid, VERSION_TEXT),
        b"stats": TextFile(0o444, uid, gid, statistics.text, personal=statistics.of_user),
        b"log": TextFile(0o400, uid, gid, log.text),
    }
    for kind in _COMMANDS:  # whom they may be used on is decided by the rights on the files that are named
        files[kind.value.encode()] = CommandFile(0o666, uid, gid, kind)
    for name, node in files.items():
        tree.add(control, name, node)
