"""What a mount consists of: the tree with its first names, and who does what for each kind of node."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from vmofs import __version__
from vmofs.core.vmos.aux import AuxVmo
from vmofs.units import PageRange
from vmofs_mount.files.open_files import AuxHandle, Opener
from vmofs_mount.tree.directory_rules import AuxRealm, ControlRealm, FileRealm, Realm
from vmofs_mount.tree.inodes import AuxFile, Directory, Fifo, Node, TextFile, VmoFile
from vmofs_mount.tree.limits import Limits
from vmofs_mount.tree.tree import Tree

if TYPE_CHECKING:
    from vmofs.core.requests.system import System
    from vmofs_mount.linux.caller import Caller

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
    echo $vmo $offset $length aux/stage 0 >control/me/supply_pages    # moves the pages: aux/stage is zeros then

Or, instead of the last line, let the reader get an error: echo FAIL $vmo $offset $length ZX_ERR_IO >control/me/op_range

    cat control/me/supply_pages    # reading a command file says how it is used; every command is one line
    cat control/me/pending         # what nobody has answered yet, and for how long
    cat control/log                # the last commands and their results
    getfattr -d vmo/hello          # the file's pager key, options and pages

A command that fails is an error of the write; a read of the same open file gives the reason in a sentence. Numbers are
bytes, also as 0x1000 or 4K. In names, blank, tab, newline and backslash are written \\040 \\011 \\012 \\134.
"""


class Memory(NamedTuple):
    """For ``df``."""

    total_pages: int
    free_pages: int


def machine_memory() -> Memory:
    """Return the memory of the machine."""
    return Memory(os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_AVPHYS_PAGES"))


async def resize_aux(node: AuxFile, size_bytes: int) -> None:
    """Resize an aux in one go."""
    node.aux.set_size(size_bytes)


async def refuse_resize(node: VmoFile, size_bytes: int, thread: int) -> None:
    """Refuse to resize a VMO. Zircon: ZX_ERR_UNAVAILABLE."""
    del thread
    raise OSError(errno.EPERM, f"{node.path} cannot be resized to {size_bytes} bytes")


def refuse_file(parent: Directory, mode: int, caller: Caller) -> VmoFile:
    """Refuse to make a VMO."""
    del mode, caller
    raise OSError(errno.EPERM, f"no pager serves {parent.path}")


def ignore(*_arguments: object) -> None:
    """Do nothing."""


async def wait_for_nothing(*_arguments: object) -> None:
    """Do nothing."""


@dataclass
class Seams:
    """What the parts of the mount plug in. Every entry has a working default.

    Attributes:
        openers: how a kind of node is opened.
        releasers: what is done when the last reference to a kind of node is gone.
        computed_xattrs: the ``user.vmofs.*`` attributes of a kind of node, without the prefix.
        aux_set_size: resizes an aux; may take long.
        vmo_set_size: resizes a VMO (truncate, ftruncate) for a thread; may wait.
        on_fifo_lookup: awaited when a FIFO is looked up, that is, about to be opened; by which thread.
        add_fifo: told of a FIFO that was made in a pager's directory.
        open_pager: fills the directory of a new pager.
        opened_to_write: awaited when a VMO was opened for writing, before the kernel is told.
        before_removal: awaited before a name is removed.
        close_pager: told before a pager's directory goes.
        make_vmo: makes the VMO of a file that is made in a directory that a pager serves.
        content_changed: told by whom a file was changed, and if the kernel does not take set-user-ID from it then.
        memory: for ``statfs``.
        shown_elsewhere: awaited when an aux was written to or resized that other files show too.
        written_directly: awaited when pages of an aux were written with O_DIRECT, before the kernel is told.
    """

    openers: dict[type[Node], Opener] = field(default_factory=dict)
    releasers: dict[type[Node], Callable[[Any], None]] = field(default_factory=dict)
    computed_xattrs: dict[type[Node], Callable[[Any], Mapping[bytes, bytes]]] = field(default_factory=dict)
    aux_set_size: Callable[[AuxFile, int], Awaitable[None]] = resize_aux
    vmo_set_size: Callable[[VmoFile, int, int], Awaitable[None]] = refuse_resize
    content_changed: Callable[[VmoFile | AuxFile, Caller, bool], None] = ignore
    shown_elsewhere: Callable[[AuxFile], Awaitable[None]] = wait_for_nothing
    written_directly: Callable[[AuxHandle, AuxFile, PageRange], Awaitable[None]] = wait_for_nothing
    on_fifo_lookup: Callable[[Fifo, int], Awaitable[None]] = wait_for_nothing
    add_fifo: Callable[[Directory, Fifo], None] = ignore
    open_pager: Callable[[Directory, Caller], None] = ignore
    opened_to_write: Callable[[VmoFile], Awaitable[None]] = wait_for_nothing
    before_removal: Callable[[Node], Awaitable[None]] = wait_for_nothing
    close_pager: Callable[[Directory], None] = ignore
    make_vmo: Callable[[Directory, int, Caller], VmoFile] = refuse_file
    memory: Callable[[], Memory] = machine_memory


@dataclass(frozen=True)
class Layout:
    """The parts of a mount that others need to find."""

    tree: Tree
    seams: Seams
    vmo: Directory
    aux: Directory
    control: Directory
    limits: Limits


def build_layout(
    system: System,
    *,
    uid: int,
    gid: int,
    open_to_all: bool,
    limits: Limits | None = None,
    pager_gid: int | None = None,
) -> Layout:
    """Make the tree of a new mount, which belongs to the given user.

    ``open_to_all``: every user may make files and pagers, and remove only their own, as in ``/tmp``.
    ``pager_gid``: only members of this group, and root, may make pagers.
    """
    seams = Seams()
    limits = Limits() if limits is None else limits

    def last_reference(node: Node) -> None:
        limits.remove(node)
        seams.releasers.get(type(node), ignore)(node)

    root = Directory(0o755, uid, gid, realm=None)  # type: ignore[arg-type] # a realm needs the tree first
    tree = Tree(root, on_last_reference=last_reference)
    root.realm = Realm(tree)
    permissions = 0o1777 if open_to_all else 0o755
    vmo = Directory(permissions, uid, gid, FileRealm(tree, lambda *arguments: seams.make_vmo(*arguments)))  # noqa: PLW0108
    aux = Directory(
        permissions, uid, gid, AuxRealm(tree, lambda caller: AuxVmo(system, account=limits.account(caller.uid)))
    )
    control_realm = ControlRealm(
        tree,
        open_pager=lambda directory, caller: seams.open_pager(directory, caller),  # noqa: PLW0108 - late binding
        close_pager=lambda directory: seams.close_pager(directory),  # noqa: PLW0108
        add_fifo=lambda directory, fifo: seams.add_fifo(directory, fifo),  # noqa: PLW0108
    )
    if pager_gid is None:
        control = Directory(permissions, uid, gid, control_realm)
    else:  # the kernel refuses all others
        control = Directory(0o1775, uid, pager_gid, control_realm)
    layout = Layout(tree, seams, vmo, aux, control, limits)
    _add_first_names(layout, uid, gid)
    tree.admit = limits.add
    tree.on_forgotten = limits.forget
    seams.openers[AuxFile] = lambda node, flags, caller: AuxHandle(
        node, flags, caller, tree, seams.written_directly, seams.content_changed, seams.shown_elsewhere
    )
    seams.releasers[AuxFile] = lambda node: node.aux.close()
    seams.computed_xattrs[Directory] = lambda node: _daemon_xattrs() if node is root else {}
    return layout


def _add_first_names(layout: Layout, uid: int, gid: int) -> None:
    root = layout.tree.root
    readme = TextFile(0o444, uid, gid, lambda: iter((README_TEXT,)), constant=True)
    for name, node in ((b"README", readme), (b"vmo", layout.vmo), (b"aux", layout.aux), (b"control", layout.control)):
        layout.tree.add(root, name, node)
    version = TextFile(0o444, uid, gid, lambda: iter((VERSION_TEXT,)), constant=True)
    layout.tree.add(layout.control, b"version", version)


def _daemon_xattrs() -> dict[bytes, bytes]:
    """Return what ``vmofs umount`` must know of the daemon, as attributes of the mount point."""
    return {b"pid": str(os.getpid()).encode(), b"version": __version__.encode()}
