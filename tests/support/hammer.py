"""A user who does everything at random: every kind of call, on every file of the tree, with input of every kind.

Runs in a process of its own: it has an identity, and it may have to be killed.
"""

# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH211, S311 - many paths here are no paths; nothing here is a secret

from __future__ import annotations

import errno
import fcntl
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

DOCUMENTED = {
    *(
        "EINVAL",
        "EBADFD",
        "ENOENT",
        "EOPNOTSUPP",
        "ENOTSUP",
        "EMEDIUMTYPE",
        "ERANGE",
        "EACCES",
        "ENOMEM",
        "ENODATA",
        "EIO",
    ),
    *("EEXIST", "EBADMSG", "EPERM", "ENOSPC", "EOVERFLOW", "ETIMEDOUT"),  # the table of INTERFACE.md
    *("EAGAIN", "ENOTDIR", "EISDIR", "ENOTEMPTY", "ENAMETOOLONG", "EXDEV", "EBUSY", "E2BIG", "ESTALE", "EILSEQ"),
    *("ENXIO", "ESPIPE", "EBADF", "EFBIG", "ENOTTY", "EPIPE", "ETXTBSY", "ENODEV", "ELOOP", "EMLINK", "ECANCELED"),
}
"""What a call may fail with: what the documents say, and what the kernel says on its own."""

NUMBERS = [0, 1, 4095, 4096, 8192, 65536, 2**20, 2**31, 2**32, 2**40, 2**62, 2**63 - 4096, 2**63 - 1, 2**63]
WORDS = [
    *("resizable", "trap_dirty", "unbounded", "writeback", "mode=600", "mode=9", "key=7", "port=requests", "port=w"),
    *("contiguous", "physical", "no_write", "reset", "is_zero", "xxh3=0123456789abcdef", "xxh3=x", "FAIL", "DIRTY"),
    *("WRITEBACK_BEGIN", "WRITEBACK_END", "commit", "decommit", "zero", "prefetch", "always_need", "dont_need"),
    *("snapshot", "snapshot_at_least_on_write", "snapshot_modified", "slice", "reference", "ZX_ERR_IO", "-40"),
    *("", "\\040", "\\", "..", "/", "#", "é", "\x7f", "999999999999999999999999", "0x", "-1", "1E", "99E", "18E"),
]
COMMANDS = {
    "create_vmo": "V N o o",
    "serve_directory": "D o",
    "supply_pages": "V P P A P o",
    "detach_vmo": "V",
    "op_range": "o V P P o",
    "evict": "V P P",
    "query_dirty_ranges": "V P P",
    "query_vmo_stats": "V o",
    "vmo_create": "A N o o",
    "vmo_create_child": "o V V P N o",
    "vmo_op_range": "o V P P",
    "vmo_set_stream_size": "V N",
    "vmo_pin": "A P P",
}


class Hammer:
    """One user at work. Everything that he makes has a name that begins with ``prefix``."""

    def __init__(self, mount: Path, seed: int, prefix: str) -> None:
        self.mount = mount
        self.random = random.Random(seed)
        self.prefix = prefix
        self.outcomes: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()
        self._open: list[int] = []
        self._seen: list[str] = []
        self._looked = 0

    def run(self, seconds: float) -> tuple[Counter[str], Counter[str]]:
        """Do random things; return how often which ended how, and those that ended as nothing should."""
        ends = time.monotonic() + seconds
        things = [getattr(self, name) for name in sorted(vars(Hammer)) if name.startswith("do_")]
        while time.monotonic() < ends:
            self._one(self.random.choice(things))
        for fd in self._open:
            os.close(fd)
        return self.outcomes, self.unexpected

    def _one(self, thing: Callable[[], object]) -> None:
        try:
            thing()
            outcome = "ok"
        except OSError as error:
            outcome = errno.errorcode.get(error.errno or 0, str(error))
        except ValueError:
            outcome = "EINVAL"  # python's own: a NUL in a name
        self.outcomes[outcome] += 1
        if outcome != "ok" and outcome not in DOCUMENTED:
            self.unexpected[f"{thing.__name__} {outcome}"] += 1

    # Input

    def number(self) -> int:
        return self.random.choice([*NUMBERS, self.random.randrange(2 ** self.random.randrange(1, 65))])

    def page(self) -> int:
        return self.random.choice([0, 4096, 8192, 16384, 65536, self.number()])

    def size(self) -> int:
        return self.random.choice([0, 1, 4096, 5000, 65536, 2**20, self.number()])

    def bytes(self) -> bytes:
        return self.random.randbytes(self.random.choice([0, 1, 10, 255, 4096, 70000]))

    def name(self) -> str:
        kind = self.random.randrange(12)
        if kind == 0:
            return os.fsdecode(self.random.randbytes(self.random.randrange(1, 255)).replace(b"/", b"_"))
        if kind == 1:
            return self.random.choice(["..", ".", "\n", "a b", "x" * 255, "x" * 256, "\\", "\t", "é" * 120, "\udcff"])
        return f"{self.prefix}{self.random.randrange(6)}"

    def top(self) -> str:
        return self.random.choice(["vmo", "aux", "control"])

    def place(self, top: str) -> str:
        name = self.name()
        return f"{top}/{name}/{self.name()}" if self.random.random() < 0.3 else f"{top}/{name}"

    def anything(self) -> str:
        """Return the path of something that exists, if it is where we look for it."""
        if self._looked % 100 == 0:
            self._seen = [str(self.mount)]
            for place, directories, files in os.walk(self.mount):
                self._seen += [f"{place}/{name}" for name in (*directories, *files)]
        self._looked += 1
        return self.random.choice(self._seen)

    def line(self, kind: str) -> str:
        words = []
        for letter in COMMANDS[kind].split():
            match letter:
                case "V" | "A":
                    top = "vmo" if letter == "V" else "aux"
                    top = top if self.random.random() < 0.9 else self.top()
                    words.append(self.place(top).replace(" ", "\\040").replace("\n", "\\012"))
                case "D":
                    words.append(f"vmo/{self.name()}")
                case "N":
                    words.append(str(self.size()))
                case "P":
                    words.append(str(self.page()))
                case _ if self.random.random() < 0.7:
                    words.append(self.random.choice(WORDS))
        if self.random.random() < 0.1:
            self.random.shuffle(words)
        if self.random.random() < 0.01:
            words.append("x" * 66000)
        return " ".join(words)

    def keep(self, fd: int) -> None:
        self._open.append(fd)
        if len(self._open) > 20:
            os.close(self._open.pop(self.random.randrange(20)))

    # Calls

    def do_make_pager(self) -> None:
        os.mkdir(self.mount / "control" / self.name(), self.random.choice([0o700, 0o755, 0o777]))

    def do_close_pager(self) -> None:
        if self.random.random() < 0.3:
            os.rmdir(self.mount / "control" / f"{self.prefix}{self.random.randrange(6)}")

    def do_command(self) -> None:
        kind = self.random.choice(list(COMMANDS))
        pager = f"control/{self.prefix}{self.random.randrange(6)}/"
        path = self.mount / f"{'control/' if kind.startswith('vmo_') else pager}{kind}"
        fd = os.open(path, os.O_RDWR)
        self.keep(fd)
        lines = "\n".join(self.line(kind) for _ in range(self.random.choice([1] * 30 + [3] * 10 + [100] * 3 + [3000])))
        data = f"{lines}\n".encode(errors="surrogateescape")
        if self.random.random() < 0.2:
            cut = self.random.randrange(len(data))
            data = data[cut:]
        with suppress(OSError):
            os.write(fd, data)
        os.read(fd, self.random.choice([1, 100, 65536]))

    do_command_2 = do_command_3 = do_command_4 = do_command

    def do_garbage(self) -> None:
        fd = os.open(self.anything(), self.random.choice([os.O_WRONLY, os.O_RDWR]) | os.O_NONBLOCK)
        self.keep(fd)
        os.write(fd, self.bytes())

    def do_read(self) -> None:
        fd = os.open(self.anything(), os.O_RDONLY | os.O_NONBLOCK)
        self.keep(fd)
        os.read(fd, self.random.choice([0, 1, 4096, 100000]))
        os.pread(fd, 5000, min(self.number(), 2**63 - 1))

    def do_stage(self) -> None:
        fd = os.open(self.mount / self.place("aux"), os.O_RDWR | os.O_CREAT, 0o644)
        self.keep(fd)
        os.pwrite(fd, self.bytes(), self.random.choice([0, 4096, 2**30, 2**50]))
        os.ftruncate(fd, min(self.size(), 2**63 - 1))

    def do_supply(self) -> None:
        name = f"{self.prefix}{self.random.randrange(6)}"
        fd = os.open(self.mount / "control" / name / "supply" / self.place("vmo"), os.O_WRONLY)
        self.keep(fd)
        os.pwrite(fd, bytes(self.random.choice([4096, 8192, 100])), self.random.choice([0, 4096, 77]))

    def do_truncate(self) -> None:
        os.truncate(self.anything(), min(self.size(), 2**63 - 1))

    def do_unlink(self) -> None:
        os.unlink(self.anything())

    def do_rename(self) -> None:
        os.rename(self.anything(), self.mount / self.place(self.top()))

    def do_mkdir(self) -> None:
        os.mkdir(self.mount / self.place(self.top()))

    def do_mkfifo(self) -> None:
        os.mkfifo(self.mount / self.place(self.top()))

    def do_link(self) -> None:
        source, target = self.anything(), self.mount / self.place(self.top())
        if self.random.random() < 0.5:
            os.link(source, target)
        else:
            os.symlink(source, target)

    def do_chmod(self) -> None:
        os.chmod(self.anything(), self.random.randrange(0o7777))

    def do_chown(self) -> None:
        os.chown(self.anything(), self.random.choice([-1, os.getuid(), 0]), self.random.choice([-1, os.getgid(), 0]))

    def do_times(self) -> None:
        os.utime(self.anything(), ns=(self.number() >> 2, self.number() >> 2))

    def do_set_xattr(self) -> None:
        name = self.random.choice(
            ["user.x", "user." + "n" * 250, "user.vmofs.key", "system.posix_acl_access", "trusted.x"]
        )
        os.setxattr(self.anything(), name, self.bytes()[:65536])

    def do_get_xattr(self) -> None:
        path = self.anything()
        for name in os.listxattr(path):
            with suppress(OSError):
                os.getxattr(path, name)
        os.removexattr(path, "user.x")

    def do_odd_calls(self) -> None:
        fd = os.open(self.anything(), os.O_RDWR | os.O_NONBLOCK)
        self.keep(fd)
        call: Callable[[], object] = self.random.choice(
            [
                lambda: os.posix_fallocate(fd, 0, 4096),
                lambda: os.fsync(fd),
                lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
                lambda: fcntl.ioctl(fd, 0x5401),
                lambda: os.lseek(fd, min(self.number(), 2**63 - 1), os.SEEK_DATA),
                lambda: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED),
                lambda: os.copy_file_range(fd, fd, 4096, 0, 8192),
                lambda: os.statvfs(self.mount),
            ]
        )
        call()


def shared_writer(fd: int, seed: int, seconds: float) -> None:
    """Write commands into an open file that another process writes to as well, cut anywhere."""
    generator = random.Random(seed)
    text = b"vmo/h0 0 4096\ncommit vmo/h1 0 4096\naux/h0 8192\n# nothing\n" * 50
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        start = generator.randrange(len(text))
        with suppress(OSError):
            os.write(fd, text[start : start + generator.randrange(1, len(text))])
        with suppress(OSError):
            os.read(fd, generator.randrange(1, 1000))
