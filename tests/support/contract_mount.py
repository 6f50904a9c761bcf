"""A mount as the third world of the whole contract: what the core does, the files of a mount do too.

Whatever is done in the core is done through the mount next: by command files, pread, pwrite, O_DIRECT, ftruncate and
mappings, in threads and processes that may wait. In a mount those who wake run on at once, and packets are taken from
the port at once, since its FIFO is read. Then everything that can be seen must agree: results, request lines, requests
that are outstanding and how many wait for them, sizes, page counts by state, dirty ranges, "modified", and contents, by
pread and by a mapping; and pages that are absent must not be in the page cache.

Not done there: killing who waits (vmofs is not told of it), letting time pass, and pins for writing.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from xxhash import xxh3_64_hexdigest

from tests.support.contract_calls import OPS, Call, Member, Pinned, Side, Tree, core_access, model_access, outcome
from tests.support.contract_running import SIGBUS, ByCommand, InProcess, InThread, Running, read_call, write_call
from tests.support.contract_worlds import LANE, Worlds, read_page
from tests.support.mounted import wait_for
from tests.support.pager_client import SECONDS, PagerClient, Vmo, metric
from tests.support.raw_mapping import RawMapping, mapped
from vmofs.core.pages.pins import Pin
from vmofs.core.pages.states import PageState
from vmofs.core.requests.request import Packet
from vmofs.core.vmos.pager_pages import VmoOptions
from vmofs.status import Status
from vmofs.units import PAGE_SIZE, PageRange
from vmofs.vocabulary import ChildKind, PagerOp
from vmofs.wire.results import Result, parse_dirty_ranges, parse_result, parse_vmo_stats
from vmofs_mount.front.errno_map import ERRNO_OF_STATUS

CACHED = {"file", "mapping"}
"""Ways that lock pages of the page cache."""


@dataclass
class Seen:
    """The file of a VMO, and the descriptor by which it is looked at."""

    file: Vmo
    fd: int


class MountedWorlds(Worlds):
    """The core, the naive model, and a mount."""

    def __init__(self, mount: Path) -> None:
        super().__init__()
        self.mount = mount
        self.clients = [PagerClient(mount) for _ in self.sides]
        for client in self.clients:
            assert client.requests  # open: from now on lines are written as soon as there are any
        self.files: dict[Member, Seen] = {}
        self.names: dict[int, str] = {}
        self.running: dict[Call, Running] = {}
        self.held: dict[Pin, Running] = {}

    def close(self) -> None:
        """Close the pagers, so that nobody waits, and remove everything."""
        running = [*self.running.values(), *self.held.values()]
        for seen in self.files.values():
            os.close(seen.fd)
        for client in self.clients:
            client.close()
        for one in running:
            one.close()
        super().close()
        wait_for(lambda: self._stat("objects") == 0, "everything is freed")

    def _stat(self, name: str) -> int:
        return metric((self.mount / "control" / "stats").read_text(), f"vmofs_{name}")

    # What cannot be done now, because the kernel would make somebody wait who does not wait in the core

    def possible(self, name: str, member: Member, where: tuple[int, int] = (0, 0), way: str = "") -> bool:
        """Whether a call can be made now in all worlds."""
        waiting = [call for call in self.calls if call.member is member]
        holds_file = any(call.name in {"write", "set_size"} for call in waiting)
        holds_pages = any(self._locks(call, where) for call in waiting)
        if name in {"set_size", "set_stream_size"}:
            return not (name == "set_size" and holds_file) and self._can_change_size(member)
        if name == "write":
            return not (holds_file or holds_pages)
        if name == "read" and way in CACHED:
            return not (holds_pages or any(call.name == "write" for call in waiting))
        if name == "read":
            return not (holds_file and holds_pages)  # with O_DIRECT, where a page is locked, it takes the file's lock
        return not waiting if name == "close" else name != "pin_write"

    def _can_change_size(self, member: Member) -> bool:
        """Return whether no page is locked: for a new size the kernel drops all. One read at most may be cut off."""
        family = [call for call in self.calls if call.member.tree is member.tree]
        return not any(call.way in CACHED for call in family) and sum(call.name == "read" for call in family) < 2

    def _locks(self, call: Call, where: tuple[int, int]) -> bool:
        return call.way in CACHED and bool(call.pages & PageRange.of_bytes(*where))

    # VMOs

    def make_root(self, side: Side, size: int, options: VmoOptions) -> Member | Status:
        """Make a VMO of a pager, unless the pager is closed: then it has no files any more."""
        if side.closed:
            return Status.BAD_STATE
        member = super().make_root(side, size, options)
        assert isinstance(member, Member)
        vmo = self.clients[side.number].vmo(f"v{member.number}")
        flags = " ".join(name for name, is_set in asdict(options).items() if is_set)
        self._command(side, "create_vmo", f"{vmo.name} {size} key={member.number} {flags}")
        self._open(member, vmo)
        self.names[member.number] = vmo.name
        return member

    def _open(self, member: Member, vmo: Vmo) -> None:
        self.files[member] = Seen(vmo, os.open(vmo.path, os.O_RDONLY))
        os.posix_fadvise(self.files[member].fd, 0, 0, os.POSIX_FADV_RANDOM)

    def make_child(self, of: Member, kind: ChildKind, first: int, count: int, flags: str) -> Member | Status:
        """Make a child. The mount does not make a view without ``no_write`` of what cannot be written to."""
        if of.no_write and flags != "no_write" and kind in {ChildKind.SLICE, ChildKind.REFERENCE}:
            return Status.ACCESS_DENIED
        made = super().make_child(of, kind, first, count, flags)
        vmo = self.clients[of.tree.side.number].vmo(f"c{self.count}")
        line = f"{kind.value} {self.files[of].file.name} {vmo.name} {first * PAGE_SIZE} {count * PAGE_SIZE} {flags}"
        done = ByCommand(self.mount / "control" / "vmo_create_child", line)
        assert done.outcome() == (made if isinstance(made, Status) else None), line
        done.close()
        if isinstance(made, Member):
            self._open(made, vmo)
        self._agree(of.tree)
        return made

    def close_member(self, member: Member) -> None:
        """Unlink a VMO."""
        super().close_member(member)
        seen = self.files.pop(member)
        os.close(seen.fd)
        seen.file.path.unlink()
        self._agree(member.tree)

    def close_side(self, side: Side) -> None:
        """Close a pager: rmdir."""
        super().close_side(side)
        client = self.clients[side.number]
        client.close_commands()
        client.control.rmdir()
        self._agree()
        wait_for(client.requests.is_at_end, "the FIFO ends")
        client.stop_reading()

    # Calls that may wait

    def start(self, member: Member, name: str, where: tuple[int, int], data: bytes = b"", way: str = "") -> Call | None:
        """Start a call in all worlds. A file ends where its content ends, so reads and writes are cut there."""
        if name in {"read", "write"}:
            length = min(len(data) or where[1], member.core.stream_size - where[0])
            if length <= 0:
                return None
            way = self._way(member, name, (where[0], length), way)
            if name == "read" and way in CACHED and self._absent(member, (where[0], length)):
                length = min(length, PAGE_SIZE - where[0] % PAGE_SIZE)  # the kernel has its own ideas of more
            where, data = (where[0], length), data[:length]
        call = super().start(member, name, where, data, way)
        if call is not None:
            self.running[call] = self._run(call)
            self._agree(member.tree)
        return call

    def _way(self, member: Member, name: str, where: tuple[int, int], way: str) -> str:
        """Choose O_DIRECT where the kernel would divide a write, or keep a page locked while it waits."""
        if name == "read":
            return way
        ragged = where[0] % PAGE_SIZE or (sum(where) % PAGE_SIZE and sum(where) != member.core.stream_size)
        states = {member.core.state_at(page) for page in range(*PageRange.of_bytes(*where))}
        return "direct" if way == "direct" or (ragged and states != {PageState.DIRTY}) else "file"

    def _absent(self, member: Member, where: tuple[int, int]) -> bool:
        return member.core.read_nowait(*where) is None

    def _run(self, call: Call) -> Running:
        file, (offset, length) = self.files[call.member].file, call.where
        if call.name in {"set_size", "read", "write"}:
            return self._run_on_file(call, file.path)
        if call.name in OPS:
            return ByCommand(self.mount / "control/vmo_op_range", f"{call.name} {file.name} {offset} {length}")
        if call.name == "pin":
            return ByCommand(self.mount / "control/vmo_pin", f"{file.name} {offset} {length}")
        return ByCommand(self.mount / "control/vmo_set_stream_size", f"{file.name} {offset}")

    def _run_on_file(self, call: Call, path: Path) -> Running:
        flags = os.O_DIRECT if call.way == "direct" else 0
        if call.name == "set_size":
            return InThread(lambda: os.truncate(path, call.where[0]))
        if call.name == "write":
            return InThread(write_call(path, call.where[0], call.data, flags))
        return InProcess(path, *call.where) if call.way == "mapping" else InThread(read_call(path, *call.where, flags))

    def run(self) -> None:
        """Who woke has run already."""

    def kill(self, call: Call) -> None:
        """Kill nobody."""

    def expire(self, age: int) -> None:
        """Let no time pass."""

    def unpin(self, pinned: Pinned) -> None:
        """Close the command file that holds a pin."""
        super().unpin(pinned)
        self.held.pop(pinned.pin).close()
        self._agree(pinned.member.tree)

    # Pager calls

    def _command(self, side: Side, file: str, line: str) -> Result:
        client = self.clients[side.number]
        code = 0
        try:
            text = client.command(file, line)
        except OSError as error:
            code, text = error.errno or 0, client.result(file)
        result = parse_result(text)
        assert ERRNO_OF_STATUS[result.status] == code
        return result

    def _tell(self, member: Member, file: str, line: str, expected: object) -> Result:
        result = self._command(member.tree.side, file, line)
        assert result.status is (expected if isinstance(expected, Status) else Status.OK), (line, result)
        self._agree(member.tree)
        return result

    def supply_pages(self, member: Member, where: tuple[int, int], pages: list[bytes | None]) -> object:
        """Supply pages from an aux file with holes."""
        if member.tree.side.closed:
            return None
        filled = super().supply_pages(member, where, pages)
        aux = self.clients[member.tree.side.number].stage(b"", "stage")
        with aux.path.open("r+b") as file:
            for page, data in enumerate(pages):
                file.seek(page * PAGE_SIZE)
                file.write(data or b"")
            file.truncate(where[1])
        line = f"{self.files[member].file.name} {where[0]} {where[1]} {aux.name} 0"
        self._tell(member, "supply_pages", line, filled)
        aux.path.unlink()
        return filled

    def op_range(self, member: Member, op: PagerOp, where: tuple[int, int], data: int) -> object:
        """Answer or announce something."""
        if member.tree.side.closed:
            return None
        done = super().op_range(member, op, where, data)
        shown = "is_zero" if op is PagerOp.WRITEBACK_BEGIN and data == 1 else f"{int(data)}"
        self._tell(member, "op_range", f"{op.name} {self.files[member].file.name} {where[0]} {where[1]} {shown}", done)
        return done

    def evict(self, member: Member, where: tuple[int, int]) -> object:
        """Evict a range; the answer counts the pages."""
        if member.tree.side.closed:
            return None
        done = super().evict(member, where)
        result = self._tell(member, "evict", f"{self.files[member].file.name} {where[0]} {where[1]}", done)
        assert not isinstance(done, list) or result.sentence == f"pages={len(done)}"
        return done

    def detach(self, member: Member) -> object:
        """Detach a VMO."""
        if member.tree.side.closed:
            return None
        done = super().detach(member)
        self._tell(member, "detach_vmo", self.files[member].file.name, done)
        return done

    def reset_modified(self, member: Member) -> object:
        """Query and reset "modified"."""
        if member.tree.side.closed:
            return None
        done = super().reset_modified(member)
        result = self._tell(member, "query_vmo_stats", f"{self.files[member].file.name} reset", done)
        assert isinstance(done, Status) or parse_vmo_stats(result) == done
        return done

    def dequeue(self, side: Side, lane: str = LANE) -> Packet | None:
        """Take nothing: all packets are taken as they come."""

    def lose_worker(self, side: Side, lane: str = LANE) -> None:
        """Close the FIFO and open it again: what is not answered comes once more."""
        if side.closed:
            return
        super().lose_worker(side, lane)
        self.clients[side.number].stop_reading()
        assert self.clients[side.number].requests
        self._agree()

    # The mount agrees with the core

    def _agree(self, tree: Tree | None = None) -> None:
        """Let everybody run on in the core; then all that has ended must end, and all that is seen must agree.

        ``tree``: the family that was touched; without it all are looked at.
        """
        self._settle()
        for call in [call for call in self.running if call.core.done]:
            self._end(call, self.running.pop(call))
        for side in self.sides:
            self._agree_on_lines(side)
        statistics = self.system.statistics()
        wait_for(
            lambda: (
                (self._stat("requests_outstanding"), self._stat("waiters"))
                == (statistics.requests_outstanding, statistics.waiters)
            ),
            f"{statistics}",
            SECONDS,
        )
        for side in self.sides:
            if not side.closed:
                self._agree_on_pending(side)
        for member in self.members:
            if tree is None or member.tree is tree:
                self._agree_on(member)

    def _settle(self) -> None:
        """Run who woke. A read that was cut off by a shrink becomes a read of what is left, as of any file."""
        super().run()
        while cut := [call for call in self.calls if self._is_cut(call)]:
            for call in cut:
                call.where = call.where[0], call.member.core.stream_size - call.where[0]
                call.core = core_access(call.member, "read", call.where, b"")
                call.model = model_access(self.model, call.member, "read", call.where, b"")
                call.core.start(self.now)
                self.model.start(call.model, self.now)

    def _is_cut(self, call: Call) -> bool:
        end = call.member.core.stream_size
        return (
            call.name == "read"
            and call.core.done
            and outcome(call.core.result) is Status.OUT_OF_RANGE
            and call.where[0] < end < sum(call.where)
        )

    def _end(self, call: Call, running: Running) -> None:
        expected, got = outcome(call.core.result), running.outcome()
        if isinstance(expected, Pin):
            self.held[expected] = running
            expected = None
        else:
            running.close()
        if call.name == "read" and expected is Status.OUT_OF_RANGE:
            expected = b""  # the file ends before
        if isinstance(expected, Status) and call.way == "mapping":
            expected = SIGBUS
        assert shown(got) == shown(expected), (call, shown(got), shown(expected))

    def _agree_on_lines(self, side: Side) -> None:
        expected = []
        while (packet := super().dequeue(side)) is not None:
            expected.append(self._line(packet))
        if side.closed:
            assert not expected
            return
        requests = self.clients[side.number].requests
        assert [requests.next_line().decode() for _ in expected] == expected
        assert requests.is_quiet()

    def _line(self, packet: Packet) -> str:
        name = self.names[packet.key]
        return f"{packet.command.name} {packet.key} {packet.offset} {packet.length} {name}\n"

    def _agree_on_pending(self, side: Side) -> None:
        lines = [" ".join(line.split()[:5]) + "\n" for line in self.clients[side.number].pending()]
        assert lines == [self._line(request.packet()) for request in side.core.pending()]

    def _agree_on(self, member: Member) -> None:
        core, file = member.core, self.files[member].file
        resized = any(call.name == "set_size" and call.member is member for call in self.running)
        status = file.path.stat()
        if not resized:  # while a truncate waits the kernel shows the old size to everybody
            assert status.st_size == core.stream_size, member.number
            self._agree_on_content(member)
        blocks = core.committed_pages * PAGE_SIZE // 512 or int(core.may_lack_pages)
        assert status.st_blocks == blocks, (member.number, status.st_blocks)
        for name, value in asdict(core.statistics()).items():
            if isinstance(value, int) and name != "runs":  # how pages lie in memory is nobody's business
                attribute = name if name == "size_pages" else f"{name}_pages"
                assert (attribute, file.xattr(attribute)) == (attribute, f"{value}"), member.number
        assert file.xattr("state") == core.source.state.value
        if member.is_root and not member.tree.side.closed:
            self._agree_on_dirty(member)

    def _agree_on_dirty(self, member: Member) -> None:
        side, core, name = member.tree.side, member.core, self.files[member].file.name
        window = min(self.shown_pages, core.size_pages) * PAGE_SIZE
        found = parse_dirty_ranges(self._command(side, "query_dirty_ranges", f"{name} 0 {window}"))
        expected = side.core.query_dirty_ranges(core, 0, window)
        assert found == expected
        assert parse_vmo_stats(self._command(side, "query_vmo_stats", name)) == side.core.query_vmo_stats(core)

    def _agree_on_content(self, member: Member) -> None:
        """Look at every page, but not at those that the kernel has locked, or has some bytes of a write of already."""
        core, fd = member.core, self.files[member].fd
        calls = [call for call in self.calls if not call.core.done and call.member.tree is member.tree]
        busy = {page for call in calls if self._in_kernel(call, member) for page in range(*call.pages)}
        changing = any(call.name in {"write", "zero", "set_size", "set_stream_size"} for call in calls)
        with mapped(fd, self.shown_pages * PAGE_SIZE) as mapping:
            for page in range(min(self.shown_pages, -(-core.stream_size // PAGE_SIZE))):
                data = read_page(core, page)
                if page in busy:
                    continue
                if data is None:
                    wait_for(partial(mapping.is_dropped, page * PAGE_SIZE), f"page {page} goes", SECONDS)
                    continue
                data = data[: core.stream_size - page * PAGE_SIZE]
                if changing:  # what was changed so far is dropped from the page cache, but nobody waits for that yet
                    wait_for(partial(_has, fd, mapping, page, data), f"page {page} changes", SECONDS)
                assert _seen(fd, mapping, page, len(data)) == [shown(data)] * 2, (member.number, page)

    def _in_kernel(self, call: Call, member: Member) -> bool:
        return call.member is member and (call.way in CACHED or call.name == "write")


def _seen(fd: int, mapping: RawMapping, page: int, length: int) -> list[object]:
    return [shown(os.pread(fd, PAGE_SIZE, page * PAGE_SIZE)), shown(mapping.copy(page * PAGE_SIZE, length))]


def _has(fd: int, mapping: RawMapping, page: int, data: bytes) -> bool:
    return _seen(fd, mapping, page, len(data)) == [shown(data)] * 2


def shown(result: object) -> object:
    """Return a result as it should stand in a failed comparison: not with all its bytes."""
    return (len(result), xxh3_64_hexdigest(result)) if isinstance(result, bytes) else result
