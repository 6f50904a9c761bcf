"""Members of zip and tar archives, read in ranges."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path, PurePosixPath

from vmofs.client import Data, Unavailable
from vmofs.pagers.deflate_stream import DeflateStream, WholeMember
from vmofs.pagers.source import BUFFER_BYTES, ExitCode, KeptPieces, RangeFile, Refusal, Slice, Source, short

_LARGEST_WHOLE = 16 << 20
"""A deflated member up to this size is decompressed as a whole: an index of it would not pay."""

_KEPT_BYTES = 64 << 20
"""Of members that are decompressed as a whole."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_IS_ENCRYPTED = 0x1


def member_name(name: str) -> str | None:
    """Return the name of a member as a path below a directory, or None for one that would lead out of it."""
    parts = PurePosixPath(name.replace("\0", "")).parts
    parts = tuple(part for part in parts if part not in {"/", "."})
    return None if not parts or ".." in parts else "/".join(parts)


class _ZipMemberBytes(Source):
    """The stored bytes of a member. Where they begin stands in a header before them, which is read when they are."""

    def __init__(self, archive: Source, info: zipfile.ZipInfo) -> None:
        self._archive, self._info = archive, info
        self.name, self.size, self.version, self.url = info.filename, info.compress_size, archive.version, archive.url
        self._start: int | None = None

    def read(self, offset: int, length: int) -> Data:
        """Return a range of the stored bytes."""
        if self._start is None:
            at = self._info.header_offset
            magic, name_length, extra_length = _LOCAL_HEADER.unpack(bytes(self._archive.read(at, _LOCAL_HEADER.size)))
            if magic != b"PK\x03\x04":
                raise Unavailable(f"{self.name}: the archive has no member at {at}")
            start = at + _LOCAL_HEADER.size + name_length + extra_length
            if start + self.size > self._archive.size:
                raise Unavailable(f"{self.name}: the archive ends at {self._archive.size}, not {start + self.size}")
            self._start = start
        return self._archive.read(self._start + offset, length)


class _StoredMember(_ZipMemberBytes):
    """A member that is not compressed."""

    def __init__(self, archive: Source, info: zipfile.ZipInfo, name: str) -> None:
        super().__init__(archive, info)
        self.name, self.url = name, f"{archive.url}#{name}"


class ZipMembers:
    """The members of a zip archive.

    Args:
        archive: Its bytes.
        indexes: Where the indexes of large deflated members are kept.
    """

    def __init__(self, archive: Source, indexes: Path) -> None:
        self._archive, self._indexes, self._kept = archive, indexes, KeptPieces(_KEPT_BYTES)
        file = RangeFile(archive)
        try:
            with zipfile.ZipFile(io.BufferedReader(file, BUFFER_BYTES)) as directory:
                self._infos = {info.filename: info for info in directory.infolist() if not info.is_dir()}
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            file.check()
            raise Refusal(f"{archive.name} is no zip archive that can be read: {short(error)}") from error

    def __iter__(self) -> Iterator[str]:
        """Return the names of the files in it."""
        return iter(self._infos)

    def open(self, name: str) -> Source:
        """Return a member.

        Raises:
            Refusal: There is none of that name, it is encrypted, or it cannot be read in ranges as it is compressed.
        """
        info = self._infos.get(name)
        if info is None:
            raise Refusal(f"{self._archive.name} has no member {name!r}", ExitCode.NOT_FOUND)
        shown = member_name(name)
        if shown is None:
            raise Refusal(f"the name {name!r} of a member leads out of the archive")
        if info.flag_bits & _IS_ENCRYPTED:
            raise Refusal(f"{name} in {self._archive.name} is encrypted; unzip -P can read it")
        if info.compress_type == zipfile.ZIP_STORED:
            return _StoredMember(self._archive, info, shown)
        if info.compress_type != zipfile.ZIP_DEFLATED:
            method = zipfile.compressor_names.get(info.compress_type, str(info.compress_type))  # type: ignore[attr-defined]
            raise Refusal(f"{name} in {self._archive.name} is compressed by {method}; 7z can read it")
        packed = _ZipMemberBytes(self._archive, info)
        if info.file_size <= _LARGEST_WHOLE:
            return WholeMember(packed, (shown, info.file_size, info.CRC), self._kept)
        return DeflateStream(packed, shown, self._indexes, info.file_size)


class TarMembers:
    """The members of a tar archive: where each begins is found by reading all headers once, and kept on disk."""

    def __init__(self, archive: Source, indexes: Path) -> None:
        self._archive = archive
        key = sha256(json.dumps([archive.url, archive.version, archive.size]).encode()).hexdigest()[:32]
        self._index = indexes / f"{key}.tarindex" if archive.version else None
        self._members = self._load() or self._scan()

    def _load(self) -> dict[str, tuple[int, int]] | None:
        if self._index is None:
            return None
        try:
            return {name: (start, size) for name, start, size in json.loads(self._index.read_text())}
        except (OSError, ValueError):
            return None

    def _scan(self) -> dict[str, tuple[int, int]]:
        file = RangeFile(self._archive)
        try:
            with tarfile.open(fileobj=io.BufferedReader(file, BUFFER_BYTES), mode="r:") as tar:
                members = {}
                for member in tar:
                    if member.isreg() and member.sparse is None:
                        members[member.name] = (member.offset_data, member.size)
                    elif member.islnk() and member.linkname in members:
                        members[member.name] = members[member.linkname]
        except (tarfile.TarError, OSError, ValueError, EOFError) as error:
            file.check()
            raise Refusal(f"{self._archive.name} is no tar archive that can be read: {short(error)}") from error
        file.check()
        self._keep(members)
        return members

    def _keep(self, members: dict[str, tuple[int, int]]) -> None:
        if self._index is None:
            return
        new = self._index.with_name(f"{self._index.name}.{os.getpid()}.new")
        try:
            self._index.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps([(name, *place) for name, place in members.items()]))
            new.rename(self._index)
        except OSError:  # a full disk: it is scanned again next time
            new.unlink(missing_ok=True)

    def __iter__(self) -> Iterator[str]:
        """Return the names of the regular files in it."""
        return iter(self._members)

    def open(self, name: str) -> Source:
        """Return a member.

        Raises:
            Refusal: There is none of that name.
        """
        if name not in self._members:
            raise Refusal(f"{self._archive.name} has no file {name!r}", ExitCode.NOT_FOUND)
        shown = member_name(name)
        if shown is None:
            raise Refusal(f"the name {name!r} of a member leads out of the archive")
        start, size = self._members[name]
        return Slice(self._archive, shown, start, size)


def members_of(archive: Source, indexes: Path) -> ZipMembers | TarMembers:
    """Return the members of an archive; which kind it is, its first bytes say.

    Raises:
        Refusal: It is neither zip nor tar.
    """
    file = RangeFile(archive)
    start = file.read(512)
    file.check()
    if start[257:262] == b"ustar":
        return TarMembers(archive, indexes)
    if start[:4] in {b"PK\x03\x04", b"PK\x05\x06"} or zipfile.is_zipfile(
        io.BufferedReader(RangeFile(archive), BUFFER_BYTES)
    ):
        return ZipMembers(archive, indexes)
    raise Refusal(f"{archive.name} is neither a zip nor a tar archive (of a compressed tar, say --as gz as well)")
