"""The durable inbox: packages on disk, named by their content, read through the memory map.

An entry is two files: `<sha256>.zip`, the package as received, and `<sha256>.json`, what the
server knows about its arrival, written last. A package without it was cut short by a crash: it
does not count, and the next `Spool` removes it.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from federation import durable
from federation.adapter.delta import SCALES, STORED, coded_names, rank_axis
from federation.adapter.manifest import PackageManifest, canonical
from federation.adapter.package import Package, open_package
from federation.adapter.parts import endings
from federation.adapter.tensors import TensorFile
from federation.errors import FormatError, RoundError
from strategies.coded import NOTHING, Coded, Kind, Source

_PACKAGE = re.compile(r"([0-9a-f]{64})\.zip")
_ARRIVAL = re.compile(r"([0-9a-f]{64})\.json")


@dataclass(frozen=True)
class Arrival:
    """What the server knows about one reply, apart from its content.

    Attributes:
        node: pseudonym of the enrolled key behind the Flower node.
        flower_node: Flower's node id.
        received_at: UTC, ISO 8601.
        round: the round it came in.
    """

    node: str
    flower_node: int = 0
    received_at: str = ""
    round: int = 0


@dataclass(frozen=True)
class SpoolEntry:
    """One complete package in the spool."""

    sha256: str
    size_bytes: int
    arrival: Arrival

    @property
    def node(self) -> str:
        """Pseudonym of the node that sent it, as the server knows it."""
        return self.arrival.node


class _Stored(NamedTuple):
    tensors: TensorFile
    source: Source
    begin: int
    dtype: str
    kind: Kind
    steps: Mapping[str, npt.NDArray[np.float32]]
    endings: tuple[str, ...]


class SpooledUpdate:
    """One spooled package, opened when first used and read tensor by tensor.

    Args:
        entry: what the spool knows.
        path: the spool's file.
        max_bytes: larger packages are refused unread.
    """

    def __init__(self, entry: SpoolEntry, path: Path, max_bytes: int) -> None:
        self.entry = entry
        self._path = path
        self._max_bytes = max_bytes

    @property
    def sha256(self) -> str:
        """Hash of the package's bytes."""
        return self.entry.sha256

    @property
    def node(self) -> str:
        """Pseudonym of the node that sent it, as the server knows it."""
        return self.entry.node

    @cached_property
    def package(self) -> Package:
        """The opened package; read once, to check its hash.

        Raises:
            FormatError: not a package of ours, or changed on disk.
        """
        package = open_package(self._path, max_bytes=self._max_bytes)
        if package.sha256 != self.sha256:
            raise FormatError(f"the package {self.sha256[:12]} changed on disk")
        _release(package)
        return package

    @cached_property
    def manifest(self) -> PackageManifest:
        """What the node says about it.

        Raises:
            FormatError: not the package of a delta.
        """
        manifest = self.package.manifest
        if not isinstance(manifest, PackageManifest):
            raise FormatError("this is a global adapter, not an update")
        return manifest

    def coded(self, name: str) -> Coded:
        """Tensor `name` of the delta; its bytes are read from the file when they are needed.

        Of a factor that the update leaves alone it is `NOTHING`.

        Raises:
            FormatError: no such tensor, or stored in another dtype than the manifest says.
        """
        stored = self._stored
        if not name.endswith(stored.endings):
            return NOTHING
        place = stored.tensors.place(name)
        if place.dtype != stored.dtype:
            raise FormatError(f"tensor {name} is {place.dtype}, expected {stored.dtype}")
        begin, steps = stored.begin + place.begin, stored.steps.get(name)
        return Coded(stored.kind, place.shape, stored.source, begin, steps, rank_axis(name))

    def delta(self, name: str) -> npt.NDArray[np.float32]:
        """Tensor `name` of the delta, decoded to a new f32 array."""
        return self.coded(name).decode()

    def release(self) -> None:
        """Give mapped pages back to the system; they are read again when needed."""
        _release(self.package)

    @cached_property
    def _source(self) -> Source:
        """Fills a buffer with the file's bytes from a position on; closed when nobody holds it."""
        file, name = FileIO(self._path), self.sha256[:12]

        def fill(buffer: memoryview, position: int) -> int:
            if hasattr(os, "preadv"):
                return os.preadv(file.fileno(), (buffer,), position)
            file.seek(position)
            return file.readinto(buffer)

        def read(buffer: memoryview, position: int) -> None:
            if fill(buffer, position) != buffer.nbytes:
                raise FormatError(f"the package {name} was cut short on disk")

        weakref.finalize(read, file.close)
        return read

    @cached_property
    def _stored(self) -> _Stored:
        """How its tensors are stored, looked up once: a round asks for thousands of them."""
        package, coding = self.package, self.manifest.coding
        return _Stored(
            package.tensors,
            self._source,
            package.members[0].offset + package.tensors.start,
            STORED[coding],
            "int8" if coding == "int8" else "uint16",
            self._read_steps(),
            endings(self.manifest.factors),
        )

    def _read_steps(self) -> dict[str, npt.NDArray[np.float32]]:
        """Sizes of int8 steps by tensor; empty for other codings."""
        tensors = self.package.tensors
        if self.manifest.coding != "int8":
            return {}
        names = coded_names(tensors, "int8")
        shape = tensors.shape(SCALES)
        if tensors.dtype(SCALES) != "F32" or len(shape) != 2 or shape[0] != len(names):
            raise FormatError("the scales are not as many as the tensors")
        steps = np.empty(shape, np.float32)
        begin = self.package.members[0].offset + tensors.position(SCALES)
        self._source(steps.reshape(-1).view(np.uint8).data, begin)
        return dict(zip(names, steps, strict=True))


class Spool:
    """The folder of packages waiting for a verdict; one process at a time.

    Args:
        folder: private; made if missing. What a crash left half-written is removed.
        max_bytes_each: cap of one package.
        max_total_bytes: cap of all packages together.
    """

    def __init__(self, folder: Path, *, max_bytes_each: int, max_total_bytes: int) -> None:
        self.folder = durable.make_folder(folder)
        self.max_bytes_each = max_bytes_each
        self.max_total_bytes = max_total_bytes
        self._remove_leftovers()

    def add(self, data: bytes | memoryview, arrival: Arrival) -> SpoolEntry:
        """Keep a package; when this returns it survives a power cut.

        The same bytes again change nothing: the first arrival stands.

        Raises:
            FormatError: larger than `max_bytes_each`.
            RoundError: the spool is full; the node keeps its package and offers it again.
        """
        if len(data) > self.max_bytes_each:
            raise FormatError(
                f"the package has {len(data)} bytes, more than {self.max_bytes_each} allowed"
            )
        sha256 = hashlib.sha256(data).hexdigest()
        known = self._entry(sha256)
        if known is not None:
            return known
        if sum(entry.size_bytes for entry in self.entries()) + len(data) > self.max_total_bytes:
            raise RoundError(
                f"the spool holds as much as it may ({self.max_total_bytes} bytes)",
                hint="Finish the round, or raise the limit in server_config.json.",
            )
        durable.write_bytes(self._package_path(sha256), data)
        durable.write_bytes(self._arrival_path(sha256), canonical(asdict(arrival)))
        return SpoolEntry(sha256, len(data), arrival)

    def entries(self) -> list[SpoolEntry]:
        """All complete entries, sorted by sha256."""
        names = sorted(path.name for path in self.folder.iterdir())
        found = (self._entry(match[1]) for name in names if (match := _PACKAGE.fullmatch(name)))
        return [entry for entry in found if entry is not None]

    def open(self, sha256: str) -> SpooledUpdate:
        """Return the update called `sha256`; its content is looked at when first used.

        Raises:
            FormatError: no such entry.
        """
        entry = self._entry(sha256)
        if entry is None:
            raise FormatError(f"there is no package {sha256[:12]} in the spool")
        return SpooledUpdate(entry, self._package_path(sha256), self.max_bytes_each)

    def discard(self, sha256: str) -> None:
        """Forget a package, if it is there; call it after the verdict is on record."""
        # the arrival first: what is left without it no longer counts
        self._arrival_path(sha256).unlink(missing_ok=True)
        self._package_path(sha256).unlink(missing_ok=True)
        durable.sync_folder(self.folder)

    def _entry(self, sha256: str) -> SpoolEntry | None:
        try:
            content = json.loads(self._arrival_path(sha256).read_bytes())
            size = self._package_path(sha256).stat().st_size
            return SpoolEntry(sha256, size, Arrival(**content))
        except (FileNotFoundError, ValueError, TypeError):  # missing or not as we write it
            return None

    def _remove_leftovers(self) -> None:
        names = {path.name for path in self.folder.iterdir() if path.is_file()}
        for name in names:
            package, arrival = _PACKAGE.fullmatch(name), _ARRIVAL.fullmatch(name)
            is_alone = (package and f"{package[1]}.json" not in names) or (
                arrival and f"{arrival[1]}.zip" not in names
            )
            if is_alone or (name.startswith(".") and name.endswith(".tmp")):
                (self.folder / name).unlink()

    def _package_path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.zip"

    def _arrival_path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.json"


def _release(package: Package) -> None:
    """Unmap what the checks touched: with huge pages that is 2 MiB for a header alone."""
    names = package.tensors.names()
    base: object = package.tensors.array(names[0]) if names else None
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
