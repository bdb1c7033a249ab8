"""The package: three files in one zip, stored, with exactly one possible framing.

Built and read here, byte by byte. A reader that accepts one framing only has no room for what
zip otherwise allows: other members, compression, comments, two answers to "what is in it?".
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.adapter.format import CONFIG, MANIFEST, MAX_CONFIG_BYTES, TENSORS
from federation.adapter.manifest import (
    MAX_MANIFEST_BYTES,
    GlobalManifest,
    PackageManifest,
    canonical,
    parse_object,
    read_manifest,
)
from federation.adapter.tensors import TensorFile
from federation.errors import FormatError

PACKAGE_MEMBERS = (TENSORS, CONFIG, MANIFEST)
CHUNK = 2**20

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION, _DOS_DATE = 20, 0x21  # zip 2.0; 1 January 1980, zip's zero
_MADE_BY, _MODE = (3 << 8) | _VERSION, 0o100600 << 16  # unix, a private regular file
_DIRECTORY_SIZE = sum(_CENTRAL.size + len(name) for name in PACKAGE_MEMBERS)
_MAX_BYTES = 2**32 - 1


@dataclass(frozen=True)
class Member:
    """Where one member lies in its package.

    Attributes:
        offset: of its first content byte.
        header_bytes: of the zip header before it.
    """

    name: str
    offset: int
    size: int
    crc32: int

    @property
    def header_bytes(self) -> int:
        """Bytes of the zip's own header in front of the content."""
        return _LOCAL.size + len(self.name)


@dataclass
class Package:
    """An opened package. Its tensors are views into the file or bytes it was opened from.

    Attributes:
        sha256: of the whole package; its identity.
        size_bytes: of the whole package.
        config_bytes: `adapter_config.json` as stored.
    """

    manifest: PackageManifest | GlobalManifest
    config: dict[str, Any]
    tensors: TensorFile
    sha256: str
    size_bytes: int
    config_bytes: bytes
    members: tuple[Member, ...]


def build_package(tensors: bytes, config: bytes, manifest: bytes) -> bytes:
    """Put three files into a package; the same bytes for the same files.

    Raises:
        FormatError: over 4 GiB.
    """
    contents = (tensors, config, manifest)
    sizes = tuple(len(content) for content in contents)
    members = _layout(sizes, tuple(zlib.crc32(content) for content in contents))
    parts: list[bytes] = []
    for member, content in zip(members, contents, strict=True):
        parts += [_local_header(member), content]
    return b"".join([*parts, _directory(members)])


def open_package(source: Path | bytes, *, max_bytes: int) -> Package:
    """Open a package without extracting it, reading it once in small pieces.

    Args:
        source: a file, whose tensors are then memory-mapped, or the bytes themselves.
        max_bytes: larger packages are refused before anything is read.

    Raises:
        FormatError: not a package exactly as `build_package` makes them, or too large.
    """
    try:
        reader = _Reader(source)
        if reader.size > max_bytes:
            raise FormatError(f"the package has {reader.size} bytes, more than {max_bytes} allowed")
        return _open(reader)
    except OSError as err:
        raise FormatError(f"the package cannot be read: {err.strerror}") from err


class _Reader:
    """Random access to a file or to bytes."""

    def __init__(self, source: Path | bytes) -> None:
        self.source = source
        if isinstance(source, Path):
            if not source.is_file():
                raise FormatError(f"there is no package {source.name}")
            self.size = source.stat().st_size
        else:
            self.size = len(source)

    def read(self, offset: int, length: int) -> bytes:
        if not isinstance(self.source, Path):
            return self.source[offset : offset + length]
        with self.source.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def chunks(self) -> Iterator[bytes | memoryview]:
        if isinstance(self.source, Path):
            with self.source.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        else:
            view = memoryview(self.source)
            for begin in range(0, self.size, CHUNK):
                yield view[begin : begin + CHUNK]

    def tensors(self, member: Member) -> TensorFile:
        if isinstance(self.source, Path):
            return TensorFile.open(self.source, member.offset, member.size)
        content = memoryview(self.source)[member.offset : member.offset + member.size]
        return TensorFile.from_bytes(content)


def _open(reader: _Reader) -> Package:
    members = _read_layout(reader)
    sha256 = _hash_and_check(reader, members)
    tensors, config, manifest = members
    config_bytes = reader.read(config.offset, config.size)
    content = parse_object(config_bytes, CONFIG, max_bytes=MAX_CONFIG_BYTES)
    if canonical(content) != config_bytes:
        raise FormatError(f"{CONFIG} is not in canonical form")
    return Package(
        manifest=read_manifest(reader.read(manifest.offset, manifest.size)),
        config=content,
        tensors=reader.tensors(tensors),
        sha256=sha256,
        size_bytes=reader.size,
        config_bytes=config_bytes,
        members=members,
    )


def _read_layout(reader: _Reader) -> tuple[Member, ...]:
    """Find the three members; everything that is not content must be as we would write it."""
    _refuse_other_formats(reader.read(0, 4))
    tail = _DIRECTORY_SIZE + _END.size
    if reader.size < tail + sum(_LOCAL.size + len(name) for name in PACKAGE_MEMBERS):
        raise FormatError("the package is too short to hold its three files")
    end = reader.read(reader.size - tail, tail)
    _refuse_other_counts(end[_DIRECTORY_SIZE:])
    sizes, crcs = [], []
    offset = 0
    for name in PACKAGE_MEMBERS:
        entry = end[offset : offset + _CENTRAL.size + len(name)]
        size, crc = _read_central(name, entry)
        sizes.append(size)
        crcs.append(crc)
        offset += len(entry)
    members = _layout(tuple(sizes), tuple(crcs))
    if members[-1].offset + members[-1].size + tail != reader.size:
        raise FormatError("the files in the package do not fill it exactly")
    for member in members:
        if reader.read(member.offset - member.header_bytes, member.header_bytes) != _local_header(
            member
        ):
            raise FormatError(f"the package's header of {member.name} is not as it must be")
    if end != _directory(members):
        raise FormatError("the package's directory is not as it must be")
    if members[1].size > MAX_CONFIG_BYTES or members[2].size > MAX_MANIFEST_BYTES:
        raise FormatError("the package's config or manifest is larger than allowed")
    return members


def _refuse_other_formats(start: bytes) -> None:
    if start[:1] == b"\x80":
        raise FormatError("this is a Python pickle, not a package; pickles are never opened")
    if start != b"PK\x03\x04":
        raise FormatError("this is not a package: it does not begin as a zip file")


def _refuse_other_counts(end: bytes) -> None:
    magic, _, _, here, total, _, _, comment = _END.unpack(end)
    if magic != b"PK\x05\x06" or comment:
        raise FormatError("the package is cut short, or bytes follow its end")
    if (here, total) != (len(PACKAGE_MEMBERS), len(PACKAGE_MEMBERS)):
        raise FormatError(f"the package holds {total} files instead of {len(PACKAGE_MEMBERS)}")


def _read_central(name: str, entry: bytes) -> tuple[int, int]:
    fields = _CENTRAL.unpack(entry[: _CENTRAL.size])
    flags, method, crc, packed, size = fields[3], fields[4], fields[7], fields[8], fields[9]
    if fields[0] != b"PK\x01\x02" or entry[_CENTRAL.size :] != name.encode():
        raise FormatError(f"the package does not hold {name} where it must be")
    if flags:
        raise FormatError(f"{name} is encrypted or streamed in the package; neither is allowed")
    if method or packed != size:
        raise FormatError(f"{name} is compressed in the package; it must be stored")
    return size, crc


def _hash_and_check(reader: _Reader, members: tuple[Member, ...]) -> str:
    """Read everything once: sha256 of the package, and each member's checksum compared."""
    digest = hashlib.sha256()
    sums = [0] * len(members)
    position = 0
    for chunk in reader.chunks():
        digest.update(chunk)
        for index, member in enumerate(members):
            begin = max(member.offset - position, 0)
            end = min(member.offset + member.size - position, len(chunk))
            if begin < end:
                sums[index] = zlib.crc32(chunk[begin:end], sums[index])
        position += len(chunk)
    for member, found in zip(members, sums, strict=True):
        if found != member.crc32:
            raise FormatError(f"{member.name} in the package is damaged: wrong checksum")
    return digest.hexdigest()


def _layout(sizes: tuple[int, ...], crcs: tuple[int, ...]) -> tuple[Member, ...]:
    members = []
    offset = 0
    for name, size, crc in zip(PACKAGE_MEMBERS, sizes, crcs, strict=True):
        offset += _LOCAL.size + len(name)
        members.append(Member(name, offset, size, crc))
        offset += size
    if offset + _DIRECTORY_SIZE + _END.size > _MAX_BYTES:
        raise FormatError("a package cannot be larger than 4 GiB")
    return tuple(members)


def _local_header(member: Member) -> bytes:
    name = member.name.encode()
    return (
        _LOCAL.pack(
            b"PK\x03\x04",
            *(_VERSION, 0, 0, 0, _DOS_DATE),
            *(member.crc32, member.size, member.size, len(name), 0),
        )
        + name
    )


def _directory(members: tuple[Member, ...]) -> bytes:
    entries = b"".join(_central_entry(member) for member in members)
    begin = members[-1].offset + members[-1].size
    return entries + _END.pack(
        b"PK\x05\x06", 0, 0, len(members), len(members), len(entries), begin, 0
    )


def _central_entry(member: Member) -> bytes:
    name = member.name.encode()
    return (
        _CENTRAL.pack(
            b"PK\x01\x02",
            *(_MADE_BY, _VERSION, 0, 0, 0, _DOS_DATE),
            *(member.crc32, member.size, member.size, len(name), 0, 0, 0, 0),
            *(_MODE, member.offset - member.header_bytes),
        )
        + name
    )
