"""Puts a mount together, top to bottom: each part is made of those above it, and none is changed afterwards."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from vmofs.core.requests.system import System
from vmofs_mount.assembly.first_names import Root, add_first_names, fill_control
from vmofs_mount.assembly.opening import Opening
from vmofs_mount.assembly.statistics import Statistics
from vmofs_mount.cache.mapped_stores import MappedStores
from vmofs_mount.cache.page_cache import PageCache
from vmofs_mount.cache.read_ahead import ReadAhead
from vmofs_mount.cache.waiting_reads import WaitingReads
from vmofs_mount.commands.execute import Commands
from vmofs_mount.commands.pager_commands import PagerCommands
from vmofs_mount.commands.vmo_commands import VmoCommands
from vmofs_mount.files.aux_file import AuxFiles
from vmofs_mount.files.open_files import Handles
from vmofs_mount.files.vmo_file import OpenVmos, Surroundings
from vmofs_mount.front.parts import Parts
from vmofs_mount.front.session import Session
from vmofs_mount.linux.place import Place
from vmofs_mount.loop.engine import Engine
from vmofs_mount.loop.reclaim import Reclaim
from vmofs_mount.loop.slices import Slices
from vmofs_mount.loop.timeouts import Ageing
from vmofs_mount.loop.trim import Idleness
from vmofs_mount.observe.dirty import Dirty
from vmofs_mount.observe.event_log import EventLog
from vmofs_mount.pagers.answers import Answers
from vmofs_mount.pagers.answers_file import AnswersFiles
from vmofs_mount.pagers.delivery import Tasks
from vmofs_mount.pagers.fifos import Fifos
from vmofs_mount.pagers.forgotten_names import ForgottenNames, VmoRealm
from vmofs_mount.pagers.known_pagers import KnownPagers
from vmofs_mount.pagers.pager_directory import Deadlines
from vmofs_mount.pagers.registry import Pagers
from vmofs_mount.pagers.unserved import Unserved
from vmofs_mount.rights.resolver import Names
from vmofs_mount.tree.directory_rules import AuxRealm, ControlRealm
from vmofs_mount.tree.inodes import Directory
from vmofs_mount.tree.limits import Limits
from vmofs_mount.tree.reading import Reading
from vmofs_mount.tree.room import Room
from vmofs_mount.tree.tree import Tree
from vmofs_mount.waits.listers import Listers
from vmofs_mount.waits.self_deadlock import Deadlocks


class Settings(Protocol):
    """What a mount needs of its options; see ``MountOptions``."""

    allow_other: bool
    deadline_seconds: float
    max_deadline_seconds: float
    warn_seconds: float
    stall_seconds: float | None
    readahead_bytes: int
    block_bytes: int
    pager_gid: int | None


@dataclass(frozen=True)
class AssembledMount:
    """A mount at work, and its end."""

    parts: Parts
    engine: Engine
    cache: PageCache
    known: KnownPagers

    def shut_down(self) -> Dirty:
        """End all waits with an error: the mount is going down. Return what the pagers have not written back."""
        dirty = self.known.dirty()
        with self.engine.change():
            self.parts.pagers.close_all()
        return dirty

    @property
    def unanswered(self) -> int:
        """How many READs are not answered yet."""
        return self.parts.vmos.reads.unanswered

    def check(self) -> None:
        """Assert the invariants of all parts."""
        tree = self.parts.tree
        self.parts.handles.check()
        tree.check()
        tree.limits.check(tree.nodes())
        self.engine.system.check()
        self.cache.check()
        self.parts.vmos.check()
        self.parts.pagers.check()


def assemble(system: System, settings: Settings, limits: Limits, session: Session) -> AssembledMount:
    """Put a mount together that belongs to the user of this process.

    To be called inside the event loop, before the first request is read. Tasks run in the session's nursery.
    """
    spawn, kernel, turns = session.nursery.start_soon, session.kernel, session.turns
    place = Place.of(session.mountpoint)
    log = EventLog()

    # The model, and who learns what its calls brought about: pagers of requests, the page cache of pages that went.
    known = KnownPagers(Deadlines(settings.deadline_seconds, settings.max_deadline_seconds))
    cache = PageCache(kernel, system.frames, spawn, known.controller_of, WaitingReads(system.promote))
    slices = Slices(spawn, lambda: turns.requests)
    engine = Engine(system, known.kick, cache.stale, turns, slices)
    if system.eviction is not None:
        system.frames.reclaim = Reclaim(engine, spawn).make_room

    # Names, and the rules of each directory.
    uid, gid = os.geteuid(), os.getegid()
    permissions = 0o1777 if settings.allow_other else 0o755  # as in /tmp: everybody makes some, and removes only his
    tree = Tree(Root(uid, gid, settings.readahead_bytes), limits, engine.change)
    forgotten = ForgottenNames(known, kernel, spawn)
    vmo = Directory(permissions, uid, gid, VmoRealm(tree, forgotten))
    aux = Directory(permissions, uid, gid, AuxRealm(tree, system))
    pagers = Pagers(known, Fifos(place, Tasks(spawn, turns.when_drained)), forgotten, vmo, tree, engine)
    control_realm = ControlRealm(tree, pagers)
    if settings.pager_gid is None:
        control = Directory(permissions, uid, gid, control_realm)
    else:  # the kernel refuses all others
        control = Directory(0o1775, uid, settings.pager_gid, control_realm)
    add_first_names(tree, vmo, aux, control)
    fill_control(tree, control, Statistics(system, tree, known, cache, log), log)

    # Open files, and the commands that are written to some of them.
    stores = MappedStores(cache)
    read_ahead = ReadAhead(place.minor, settings.readahead_bytes, spawn)
    vmos = OpenVmos(engine, cache, stores, tree, place, Surroundings(spawn, session.replies, known, read_ahead))
    auxes = AuxFiles(engine, cache, stores, tree)
    names = Names(tree, place)
    answers = Answers(engine, vmos, cache)
    pager_commands = PagerCommands(engine, names, cache, stores, answers, Reading(None, settings.block_bytes))
    vmo_commands = VmoCommands(engine, names, cache, stores)
    commands = Commands(engine, cache, log, pager_commands.methods, vmo_commands.methods)
    answers_files = AnswersFiles(names, answers, tree.limits, slices, log)
    opening = Opening(vmos, auxes, commands, names, answers_files)
    handles = Handles(tree, opening.open)

    # Who looks now and then.
    shared = (tree.root, vmo, aux, control)
    spawn(Ageing(engine, log, known, warn=settings.warn_seconds, stall=settings.stall_seconds).run)
    spawn(Unserved(known, log).run)
    spawn(Deadlocks(engine, log, place.minor, partial(known.files_of, handles)).run)
    spawn(Listers(engine, log, place.minor, shared, vmos.directories).run)
    spawn(Idleness(system.frames, turns).run)
    return AssembledMount(Parts(tree, Room(system, limits, tree), handles, auxes, vmos, pagers), engine, cache, known)
