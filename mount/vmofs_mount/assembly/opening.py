"""What becomes of ``open``, by the kind of file."""

from __future__ import annotations

import errno

from vmofs_mount.commands.execute import Commands
from vmofs_mount.files.aux_file import AuxFiles, AuxHandle
from vmofs_mount.files.command_file import CommandHandle
from vmofs_mount.files.open_files import Handle, TextHandle
from vmofs_mount.files.vmo_file import OpenVmos, VmoHandle
from vmofs_mount.linux.caller import Caller
from vmofs_mount.pagers.answers_file import AnswersFile, AnswersFiles, AnswersHandle
from vmofs_mount.pagers.supply_tree import SupplyFile, SupplyHandle
from vmofs_mount.rights.resolver import Names
from vmofs_mount.tree.inodes import AuxFile, CommandFile, Node, VmoFile
from vmofs_mount.tree.text_file import TextFile


class Opening:
    """Makes open files, and gives each kind what it needs."""

    def __init__(
        self, vmos: OpenVmos, auxes: AuxFiles, commands: Commands, names: Names, answers: AnswersFiles
    ) -> None:
        self._vmos = vmos
        self._auxes = auxes
        self._commands = commands
        self._names = names
        self._answers = answers
        self._slices = answers.slices

    def open(self, node: Node, flags: int, caller: Caller) -> Handle:
        """Open a file.

        Raises:
            OSError, VmoError: this kind of file refuses; EPERM, it is not opened at all.
        """
        limits = self._vmos.limits
        match node:
            case VmoFile():
                return VmoHandle(node, flags, caller, self._vmos)
            case AuxFile():
                return AuxHandle(node, flags, caller, self._auxes)
            case CommandFile():
                return CommandHandle(node, flags, caller, self._commands, limits, self._slices)
            case TextFile():
                return TextHandle(node, flags, caller, limits, self._slices)
            case SupplyFile():
                return SupplyHandle(node, flags, caller, self._names, self._answers.answers)
            case AnswersFile():
                return AnswersHandle(node, flags, caller, self._answers)
        raise OSError(errno.EPERM, f"{node.path} cannot be opened")
