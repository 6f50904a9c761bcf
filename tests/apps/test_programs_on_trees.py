"""Programs that make trees do in a served directory what they do on a tmpfs: exit code, output, and the tree.

Each is a script that runs in an empty directory: once on a tmpfs, once in the mount, both bound to the same path, since
many programs write down where they are. Then the server stops, and the real directory is the tree of the mount.
``VMOFS_NIGHTLY=1`` runs those that take long, or need the network.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.apps.serving import STEP_SECONDS, run
from tests.support.backed import Backing

NIGHTLY = os.environ.get("VMOFS_NIGHTLY") == "1"
LONG_SECONDS = 600
LONG_AGO = 1_500_000_000


@dataclass(frozen=True)
class Case:
    """A script, the programs it needs, and which files differ from run to run by themselves."""

    script: str
    needs: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    is_long: bool = False


GIT = (
    "export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_DATE='1500000000 +0000' GIT_COMMITTER_DATE='1500000000 +0000'\n"
    "export GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x@y GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x@y\n"
    'git() { command git -c pack.threads=1 -c gc.auto=0 -c maintenance.auto=false -c init.defaultBranch=main "$@"; }\n'
)
SQLITE = """
cat > w.py <<'END'
import sqlite3, sys
db = sqlite3.connect("w.db", timeout=60, isolation_level=None)
for n in range(100):
    db.execute("INSERT INTO t VALUES (?, ?)", (int(sys.argv[1]), n))
END
sqlite3 w.db 'PRAGMA journal_mode=wal; CREATE TABLE t (w, n);'
python w.py 1 & python w.py 2
wait $!
sqlite3 w.db 'SELECT w, count(*), sum(n) FROM t GROUP BY w; PRAGMA integrity_check;'
"""
MAKE = r"""
echo 'int f(void) { return 42; }' > f.c
echo '#include <stdio.h>' > m.c
echo 'int f(void); int main(void) { printf("%d\n", f()); return 0; }' >> m.c
printf 'prog: m.o libf.a\n\tcc -o $@ m.o -L. -lf\nlibf.a: f.o\n\tar rcD $@ f.o\n' > Makefile
make && ./prog && make && touch f.c && make && ./prog
"""

CASES = {
    "tar": Case('tar -C "$SRC" --xattrs -cf ../t.tar . && tar --xattrs -xpf ../t.tar && tar -df ../t.tar', ("tar",)),
    "bsdtar": Case('tar -C "$SRC" -cf - . | bsdtar -xpf - && bsdtar -cf - . | bsdtar -tf - | sort', ("bsdtar",)),
    "dpkg": Case(
        'mkdir ../deb && cp -a "$SRC" ../deb/usr && mkdir ../deb/DEBIAN && '
        "printf 'Package: x\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@y>\\nDescription: x\\n' "
        "> ../deb/DEBIAN/control && dpkg-deb -b ../deb ../x.deb > /dev/null && "
        "dpkg-deb --fsys-tarfile ../x.deb | tar xf -",
        ("dpkg-deb",),
    ),
    "cp": Case('cp -a "$SRC" a && cp -a a b && cp -al b c && cp -r c d && diff -r --no-dereference a d', ("cp",)),
    "mv": Case('cp -a "$SRC" a && mv a b && mkdir c && mv b c && mv c/b/full ../x && mv ../x c && ls -R', ("mv",)),
    "rsync": Case(
        'rsync -aHAX "$SRC/" here/ && rsync -aHAXin "$SRC/" here/ && rsync -aHAX here/ ../out/ && '
        "rsync -aHAXin here/ ../out/ && rsync -aHAXinc --delete ../out/ here/",
        ("rsync",),
    ),
    "git": Case(
        GIT + 'cp -a "$SRC" o && cd o && git init -q && git add . && git commit -qm one && cd .. && '
        "git clone -q --local o c && cd c && git gc -q && git fsck --strict && git status --porcelain && "
        "echo more >> full/a && git commit -qam two && git log --oneline && git fsck --strict",
        ("git",),
        ("/.git/index", "/.git/logs/", ".rev", ".idx", ".pack", "commit-graph", ".mtimes"),
    ),
    "make": Case(MAKE, ("make", "cc", "ar")),
    "sqlite": Case(SQLITE, ("sqlite3",), ("w.db",)),
    "venv": Case("python3 -m venv --without-pip v && v/bin/python -c 'import sys; print(sys.prefix)'", (), (".pyc",)),
    "venv with pip": Case(
        "python3 -m venv v && v/bin/pip install -q --disable-pip-version-check numpy && "
        "v/bin/python -c 'import numpy; print(numpy.arange(10).sum())'",
        (),
        (".pyc", "direct_url.json", "RECORD"),
        is_long=True,
    ),
    "npm": Case(
        "npm install --no-audit --no-fund --loglevel=error --cache ../cache semver@7.6.3 > /dev/null && "
        "node_modules/.bin/semver 1.2.3 -i minor",
        ("npm",),
        (".package-lock.json",),
        is_long=True,
    ),
    "lmdb": Case(
        'python3 -m venv ../l && ../l/bin/pip install -q --disable-pip-version-check lmdb && ../l/bin/python -c "'
        "import lmdb\n"
        "e = lmdb.open('db', map_size=1 << 24, writemap=False)\n"
        "for n in range(50):\n"
        "    with e.begin(write=True) as t: t.put(b'%d' % n, b'x' * n)\n"
        "print(e.stat()['entries'])\"",
        (),
        ("lock.mdb",),
        is_long=True,
    ),
    "postgres": Case(
        "export PATH=$PATH:/usr/lib/postgresql/15/bin\n"
        'chmod 777 . && as() { runuser -u postgres -- "$@"; } && as initdb -D pg -E UTF8 --locale=C > /dev/null && '
        "as pg_ctl -D pg -w -l pg/log -o \"-k '' -p $PORT -h 127.0.0.1\" start > /dev/null && "
        "printf 'INSERT INTO t VALUES (1);\\n%.0s' $(seq 1000) > ../sql && psql() { command psql -qAt -U postgres "
        "-h 127.0.0.1 -p $PORT \"$@\"; } && psql -c 'CREATE TABLE t (n int)' && psql -f ../sql && "
        "psql -c 'SELECT count(*) FROM t' && as pg_ctl -D pg -w stop > /dev/null",
        ("postgres", "initdb", "runuser"),
        ("pg/",),
        is_long=True,
    ),
}


def make_source(top: Path) -> Path:
    """Make a tree of hard and symbolic links, modes, attributes, an empty directory."""
    (top / "full/deeper").mkdir(parents=True)
    (top / "empty").mkdir(mode=0o700)
    for number, name in enumerate(("a", "b b", "c\u00e4")):
        (top / "full" / name).write_bytes(name.encode() * 3000 * number)
    (top / "full/script").write_text("#!/bin/sh\necho hello\n")
    (top / "full/script").chmod(0o755)
    (top / "full/deeper/hard").hardlink_to(top / "full/a")
    (top / "full/deeper/link").symlink_to("../a")
    (top / "folder").symlink_to("full/deeper")
    (top / "broken").symlink_to("nowhere")
    os.setxattr(top / "full/b b", "user.note", b"kept")
    for path in sorted(top.rglob("*"), reverse=True):
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    return top


def attributes(path: Path) -> dict[str, bytes]:
    """Return the extended attributes that are listed."""
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def tree(top: Path, differing: tuple[str, ...] = (), *, since: float = 0.0) -> dict[str, tuple[object, ...]]:
    """Return what a tree is; with ``since`` without the times of what was made after that."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        status, place = path.lstat(), str(path.relative_to(top))
        is_file = stat.S_ISREG(status.st_mode)
        if since and any(part in f"/{place}" for part in differing):
            continue
        found[place] = (
            stat.filemode(status.st_mode),
            status.st_uid,
            status.st_gid,
            0 if path.is_dir() and not path.is_symlink() else status.st_nlink,
            int(status.st_mtime) if not since or status.st_mtime < since else 0,
            str(path.readlink()) if path.is_symlink() else "",
            {
                name: os.getxattr(path, name, follow_symlinks=False)
                for name in os.listxattr(path, follow_symlinks=False)
            },
            path.read_bytes() if is_file else b"",
        )
    return found


@dataclass
class Bench:
    """Where scripts run."""

    folder: Path

    def run(self, case: Case, directory: Path, port: int) -> tuple[int, bytes]:
        """Run a script in a directory that is bound to the same path for all; return exit code and output."""
        # Below a tmpfs that all users may enter, as what tests make may not be.
        bound = (
            "mount -t tmpfs -o mode=755 tmpfs /mnt && mkdir /mnt/in && "
            f'mount --bind "{directory}" /mnt/in && cd /mnt/in && exec bash -euo pipefail -c "$1"'
        )
        environment = {
            **os.environ,
            "SRC": str(self.folder / "source"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PORT": str(port),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/mnt",
            "LC_ALL": "C.UTF-8",
            "SOURCE_DATE_EPOCH": str(LONG_AGO),
        }
        done = subprocess.run(
            ["unshare", "-m", "bash", "-c", bound, "bash", case.script],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=LONG_SECONDS if case.is_long else STEP_SECONDS,
        )
        return done.returncode, done.stdout


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Where scripts run, with a source tree."""
    tmp_path.chmod(0o755)
    make_source(tmp_path / "source")
    return Bench(tmp_path)


@pytest.fixture
def ram(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs."""
    path = tmp_path / "ram"
    path.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", path)
    try:
        yield path
    finally:
        run("umount", "-l", path)


@pytest.mark.skipif(os.geteuid() != 0, reason="binds directories")
@pytest.mark.parametrize("name", CASES)
def test_a_program_does_in_a_served_directory_what_it_does_on_a_tmpfs(
    bench: Bench, ram: Path, backed: Backing, tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    if case.is_long and not NIGHTLY:
        pytest.skip("takes long, or needs the network: VMOFS_NIGHTLY=1")
    if lacking := [program for program in case.needs if not shutil.which(program)]:
        pytest.skip(f"there is no {' '.join(lacking)}")
    (ram / "here").mkdir()
    since = (tmp_path / "source").stat().st_ctime - 1
    expected = bench.run(case, ram / "here", 54321)
    assert expected[0] == 0, expected
    expected_tree = tree(ram / "here", case.differing, since=since)
    served = backed()
    (served.path / "here").mkdir()
    done = bench.run(case, served.path / "here", 54322)
    assert done == expected
    found = tree(served.path / "here", case.differing, since=since)
    assert {place: found.get(place) for place in expected_tree.keys() | found.keys()} == expected_tree
    whole = tree(served.path)
    served.end(signal.SIGTERM)
    assert not served.complaints()
    real = tree(tmp_path / "real")
    assert {place: real.get(place) for place in whole.keys() | real.keys()} == whole
