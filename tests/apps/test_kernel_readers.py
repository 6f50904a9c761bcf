"""Files that the kernel itself reads: an image on a loop device, with a filesystem, and a layer of an overlay."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.apps.conftest import Serve
from tests.apps.serving import run
from tests.support.mounted import Mounted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may use loop devices and mount")

IMAGE_BYTES = 32 * 2**20
CONTENT_BYTES = 3_000_001


def has_loop_devices() -> bool:
    """Return whether a loop device can be had, and a filesystem be made for it."""
    programs = shutil.which("losetup") and shutil.which("mkfs.ext4")
    return bool(programs) and run("losetup", "--find", check=False).returncode == 0


needs_loop = pytest.mark.skipif(not has_loop_devices(), reason="needs loop devices, losetup and mkfs.ext4")

Undo = Callable[..., None]


@pytest.fixture
def undo() -> Iterator[Undo]:
    """A function that notes commands which are carried out after the test, the last one first."""
    with ExitStack() as stack:

        def note(*command: str | Path) -> None:
            stack.callback(run, *command)

        yield note


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filesystem with one large file, whose bytes are nowhere else."""
    directory = tmp_path_factory.mktemp("image")
    (directory / "files").mkdir()
    (directory / "files" / "content").write_bytes(os.urandom(CONTENT_BYTES))
    path = directory / "image"
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    run("mkfs.ext4", "-q", "-d", directory / "files", path)
    return path


def attach(path: Path, undo: Undo) -> Path:
    device = Path(run("losetup", "--read-only", "--find", "--show", path).stdout.decode().strip())
    undo("losetup", "--detach", device)
    return device


@needs_loop
def test_a_filesystem_in_a_served_image_is_mounted_and_read(
    serve: Serve, image: Path, tmp_path: Path, undo: Undo
) -> None:
    served = serve(image)
    device = attach(served.path, undo)
    place = tmp_path / "place"
    place.mkdir()
    run("mount", "-o", "ro", device, place)
    undo("umount", place)
    run("cmp", place / "content", image.parent / "files" / "content")
    assert CONTENT_BYTES < served.path.stat().st_blocks * 512 < IMAGE_BYTES // 2  # what is free was not asked for


@needs_loop
def test_a_loop_device_gets_an_error_when_its_pager_is_gone(serve: Serve, image: Path, undo: Undo) -> None:
    served = serve(image)
    device = attach(served.path, undo)
    served.kill()
    (served.control / "deadline").write_text("0.5")
    fd = os.open(device, os.O_RDONLY)
    try:
        began = time.monotonic()
        with pytest.raises(OSError, match="Input/output") as caught:
            os.pread(fd, 4096, IMAGE_BYTES // 2)
        assert caught.value.errno == errno.EIO
        assert time.monotonic() - began < 5
    finally:
        os.close(fd)


def test_a_served_file_is_the_lower_layer_of_an_overlay(
    serve: Serve, image: Path, mount: Mounted, tmp_path: Path, undo: Undo
) -> None:
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no overlayfs")
    served = serve(image)
    layers = tmp_path / "layers"
    layers.mkdir()
    run("mount", "-t", "tmpfs", "layers", layers)
    undo("umount", layers)
    for name in ("upper", "work", "all"):
        (layers / name).mkdir()
    options = f"lowerdir={mount.path}/vmo,upperdir={layers}/upper,workdir={layers}/work"
    run("mount", "-t", "overlay", "overlay", "-o", options, layers / "all")
    undo("umount", layers / "all")
    with (layers / "all" / "file").open("r+b") as file:  # is copied up whole
        file.seek(100)
        file.write(b"mine!")
    expected = image.read_bytes()
    assert (layers / "all" / "file").read_bytes() == expected[:100] + b"mine!" + expected[105:]
    assert served.path.read_bytes() == expected
