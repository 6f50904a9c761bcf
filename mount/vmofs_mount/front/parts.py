"""What the handlers need of a mount. They are made before there is one, and get this before the first request."""

from __future__ import annotations

from dataclasses import dataclass

from vmofs_mount.files.aux_file import AuxFiles
from vmofs_mount.files.open_files import Handles
from vmofs_mount.files.vmo_file import OpenVmos
from vmofs_mount.pagers.registry import Pagers
from vmofs_mount.tree.room import Room
from vmofs_mount.tree.tree import Tree


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one mount that requests are about."""

    tree: Tree
    room: Room
    handles: Handles
    auxes: AuxFiles
    vmos: OpenVmos
    pagers: Pagers
