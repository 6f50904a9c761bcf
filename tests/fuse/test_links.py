"""Names: a file with several of them, symbolic links, FIFOs and sockets."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support.mounted import wait_for
from tests.support.pager_client import Background, PagerClient, metric
from vmofs.units import PAGE_SIZE

pytestmark = pytest.mark.fuse


def page(path: Path, number: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), PAGE_SIZE, number * PAGE_SIZE)


def errno_of(function: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the caller compares
        function(*arguments)
    return errno.errorcode[caught.value.errno or 0]


def test_a_vmo_has_several_names_and_is_gone_with_the_last(pager: PagerClient) -> None:
    vmo = pager.create("one", 4 * PAGE_SIZE, "key=7")
    other = vmo.path.with_name("other")
    other.hardlink_to(vmo.path)
    assert (other.stat().st_ino, other.stat().st_nlink) == (vmo.path.stat().st_ino, 2)
    reader = Background(partial(page, other, 0))
    assert pager.requests.next()[:4] == ("READ", 7, 0, PAGE_SIZE)
    (pager.control / f"supply/vmo/{pager.name}/other").write_bytes(b"a" * PAGE_SIZE)
    assert reader.result() == b"a" * PAGE_SIZE

    vmo.path.unlink()
    assert other.stat().st_nlink == 1
    reader = Background(partial(page, other, 1))
    request = pager.requests.next()
    assert (request.offset, request.path) == (PAGE_SIZE, f"vmo/{pager.name}/other")
    stage = pager.stage(b"b" * PAGE_SIZE)
    pager.command("supply_pages", f"vmo/{pager.name}/other {PAGE_SIZE} {PAGE_SIZE} {stage.name} 0")
    assert reader.result() == b"b" * PAGE_SIZE
    assert pager.requests.is_quiet()


def test_complete_comes_when_the_last_name_and_the_last_open_file_are_gone(pager: PagerClient) -> None:
    vmo = pager.create("one", PAGE_SIZE, "key=7")
    other = vmo.path.with_name("other")
    other.hardlink_to(vmo.path)
    with vmo.path.open("rb"):
        vmo.path.unlink()
        other.unlink()
        assert pager.requests.is_quiet()
    assert pager.requests.next()[:2] == ("COMPLETE", 7)


def test_names_of_one_file_are_renamed_one_by_one(pager: PagerClient) -> None:
    vmo = pager.create("one", PAGE_SIZE)
    top = vmo.path.parent
    (top / "d").mkdir()
    (top / "d/two").hardlink_to(vmo.path)
    vmo.path.rename(top / "three")
    vmo.path.hardlink_to(top / "three")
    os.rename(vmo.path, top / "three")  # noqa: PTH104 - of one file: nothing is done
    assert sorted(path.name for path in top.iterdir()) == ["d", "one", "three"]
    assert vmo.path.stat().st_nlink == 3
    (top / "three").unlink()
    assert (top / "d/two").stat().st_nlink == 2


def test_a_link_is_made_within_its_tree_and_to_files_only(pager: PagerClient) -> None:
    vmo, aux = pager.create("one"), pager.stage(b"x")
    assert errno_of(os.link, vmo.path, pager.mount / "aux/v") == "EXDEV"
    assert errno_of(os.link, aux.path, pager.mount / "vmo/a") == "EXDEV"
    assert errno_of(os.link, pager.mount / "README", pager.mount / "aux/README") == "EXDEV"
    assert errno_of(os.link, vmo.path, pager.mount / "control/v") == "EPERM"
    assert errno_of(os.link, pager.mount / "vmo", pager.mount / "aux/vmo") == "EPERM"
    (pager.mount / "aux/more").hardlink_to(aux.path)
    assert (pager.mount / "aux/more").samefile(aux.path)


def test_symbolic_links_lead_anywhere_and_need_no_pager(pager: PagerClient, tmp_path: Path) -> None:
    vmo = pager.create("one")
    pager.supply_bytes(vmo, b"a" * PAGE_SIZE)
    target = Path(f"../vmo/{pager.name}/one")
    for top in ("vmo", "aux"):
        link = pager.mount / top / "link"
        link.symlink_to(target)
        assert (link.readlink(), link.lstat().st_size) == (target, len(str(target)))
        assert stat.S_ISLNK(link.lstat().st_mode)
        assert link.read_bytes() == b"a" * PAGE_SIZE
    outside = tmp_path / "outside"
    outside.write_text("o")
    (pager.mount / "vmo/away").symlink_to(outside)
    assert (pager.mount / "vmo/away").read_text() == "o"
    (pager.mount / "vmo/broken").symlink_to("nowhere")
    assert not (pager.mount / "vmo/broken").exists()
    os.rename(pager.mount / "vmo/away", pager.mount / "vmo/moved")  # noqa: PTH104
    (pager.mount / "vmo/moved").unlink()
    assert outside.exists()
    assert errno_of(os.symlink, "x", pager.mount / "control/link") == "EPERM"


def test_commands_follow_no_symbolic_link(pager: PagerClient) -> None:
    vmo = pager.create("one")
    vmo.path.with_name("link").symlink_to("one")
    vmo.path.with_name("dir").symlink_to(".")
    for name, why in (("link", "ZX_ERR_WRONG_TYPE"), ("dir/one", "ZX_ERR_BAD_HANDLE")):
        assert pager.refused("evict", f"vmo/{pager.name}/{name} 0 {PAGE_SIZE}").result.startswith(why)


def test_fifos_and_sockets_are_the_kernels_where_files_are_made(pager: PagerClient) -> None:
    served = pager.mount / "vmo/served"
    served.mkdir()
    pager.command("serve_directory", "vmo/served")
    for folder in (pager.mount / "aux", served):
        os.mkfifo(folder / "fifo")
        reader = Background((folder / "fifo").read_bytes)
        (folder / "fifo").write_bytes(b"through")
        assert reader.result() == b"through"
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind(str(folder / "socket"))
            listener.listen()
            client.connect(str(folder / "socket"))
        assert stat.S_ISSOCK((folder / "socket").stat().st_mode)
        (folder / "socket").unlink()
        (folder / "fifo").unlink()
    assert errno_of(os.mkfifo, pager.mount / "vmo/fifo") == "EPERM"
    assert errno_of(os.mknod, served / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3)) == "EPERM"


def test_what_names_take_is_counted_and_given_back(pager: PagerClient) -> None:
    def held(what: str) -> int:
        return metric((pager.mount / "control/stats").read_text(), f"vmofs_held_{what}")

    vmo = pager.create("one")
    nodes, link_bytes = held("nodes"), held("xattr_bytes")
    for number in range(10):
        vmo.path.with_name(f"more{number}").hardlink_to(vmo.path)
    vmo.path.with_name("link").symlink_to("x" * 1000)
    assert held("nodes") == nodes + 11
    assert held("xattr_bytes") > link_bytes + 1000
    vmo.path.unlink()
    for number in range(9):
        vmo.path.with_name(f"more{number}").unlink()
    vmo.path.with_name("link").unlink()
    wait_for(lambda: held("nodes") == nodes, "the kernel has forgotten them")
    assert held("xattr_bytes") == link_bytes


def test_attributes_of_root_are_kept_and_trusted_ones_shown_to_root_only(pager: PagerClient) -> None:
    for file in (pager.create("one").path, pager.stage(b"x").path):
        os.setxattr(file, "trusted.a", b"1")
        os.setxattr(file, "security.b", b"2")
        assert (os.getxattr(file, "trusted.a"), os.getxattr(file, "security.b")) == (b"1", b"2")
        assert set(os.listxattr(file)) == {"trusted.a", "security.b"}
        with file.open("rb") as opened:
            script = "import os, sys; os.setuid(65534); print(os.listxattr(int(sys.argv[1])))"
            command = [sys.executable, "-c", script, str(opened.fileno())]
            listed = subprocess.run(command, pass_fds=[opened.fileno()], capture_output=True, text=True, check=True)
        assert listed.stdout == "['security.b']\n"
        os.removexattr(file, "trusted.a")
        assert os.listxattr(file) == ["security.b"]
