"""Safetensors, read and written without torch: every header fact is checked before a byte is used.

Layout: 8-byte little-endian header length, JSON header, then the tensors without gaps.
"""

from __future__ import annotations

import hashlib
import math
import struct
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from federation.adapter.manifest import canonical, parse_object
from federation.errors import FormatError

Arrays: TypeAlias = dict[str, npt.NDArray[np.float32]]
RawTensor: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.uint16] | npt.NDArray[np.int8]
Bytes: TypeAlias = npt.NDArray[np.uint8]

MAX_HEADER_BYTES = 2**20
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 8
METADATA = {"format": "pt"}
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "BF16": np.dtype("<u2"),
    "I8": np.dtype("i1"),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


class Place(NamedTuple):
    """Small, and sharing what it can: a round holds those of every update it merges."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def save_tensors(tensors: Mapping[str, RawTensor]) -> bytes:
    """Write safetensors bytes, the same for the same content.

    Args:
        tensors: name -> f32, uint16 (holding bf16 bits) or int8 array. Wider items come first,
            then names in order, so that every tensor is aligned to its item.

    Raises:
        FormatError: another dtype, or a header over 1 MiB.
    """
    header: dict[str, Any] = {"__metadata__": METADATA}
    parts: list[memoryview] = []
    offset = 0
    for name in sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n)):
        code = _CODES.get(tensors[name].dtype.newbyteorder("<"))
        if code is None:
            raise FormatError(f"tensor {name} has the dtype {tensors[name].dtype}: cannot be saved")
        array = np.ascontiguousarray(tensors[name], DTYPES[code])
        header[name] = {
            "data_offsets": [offset, offset + array.nbytes],
            "dtype": code,
            "shape": list(tensors[name].shape),
        }
        parts.append(array.reshape(-1).view(np.uint8).data)
        offset += array.nbytes
    text = canonical(header)
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise FormatError(f"{len(tensors)} tensors need a header over {MAX_HEADER_BYTES} bytes")
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


class TensorFile:
    """A safetensors file whose header has been checked; arrays are views, never copies.

    Attributes:
        header_bytes: length of the header.
        start: where the tensors begin; places count from there.
    """

    def __init__(self, data: Bytes) -> None:
        self._data = data.view(np.ndarray)  # slicing a memmap as such is ten times slower
        self._data.flags.writeable = False
        self.header_bytes, self._entries = _read_header(data)
        self.start = 8 + self.header_bytes

    @classmethod
    def open(cls, path: Path, offset: int = 0, length: int | None = None) -> TensorFile:
        """Map a region of a file into memory, read-only.

        Args:
            path: regular file.
            offset: where the region begins.
            length: its bytes; None: up to the end.

        Raises:
            FormatError: the region is not in the file, or not a safetensors file of ours.
        """
        try:
            size = path.stat().st_size
            extent = size - offset if length is None else length
            if offset < 0 or extent < 8 or offset + extent > size:
                raise FormatError(f"{path.name} is too short for its tensors")
            data = np.memmap(path, np.uint8, mode="r", offset=offset, shape=(extent,))
        except OSError as err:
            raise FormatError(f"{path.name} cannot be read: {err.strerror}") from err
        return cls(data)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> TensorFile:
        """Read from memory, without copying.

        Raises:
            FormatError: not a safetensors file of ours.
        """
        return cls(np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8))

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole file, header included."""
        return int(self._data.size)

    def names(self) -> list[str]:
        """Tensor names, sorted."""
        return list(self._entries)

    def dtype(self, name: str) -> str:
        """Stored dtype: "F32", "BF16" or "I8"."""
        return self.place(name).dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of tensor `name`."""
        return self.place(name).shape

    def position(self, name: str) -> int:
        """Offset of the first byte of tensor `name` in the file."""
        return self.start + self.place(name).begin

    def raw(self, name: str) -> Bytes:
        """Raw bytes of tensor `name`: a read-only view, shape (n,)."""
        entry = self.place(name)
        return self._data[self.start + entry.begin : self.start + entry.end]

    def array(self, name: str) -> RawTensor:
        """Tensor `name` as a read-only view, possibly unaligned; BF16 appears as uint16."""
        entry = self.place(name)
        view: RawTensor = self.raw(name).view(DTYPES[entry.dtype]).reshape(entry.shape)
        return view

    def tensor_sha256(self, name: str) -> str:
        """Sha256 hex of the raw bytes of tensor `name`."""
        return hashlib.sha256(self.raw(name).data).hexdigest()

    def sha256(self) -> str:
        """Sha256 hex of the whole file."""
        return hashlib.sha256(self._data.data).hexdigest()

    def place(self, name: str) -> Place:
        """What the header says of tensor `name`.

        Raises:
            FormatError: there is none.
        """
        try:
            return self._entries[name]
        except KeyError:
            raise FormatError(f"there is no tensor {name[:200]}") from None


class StoredArrays(Mapping[str, npt.NDArray[np.float32]]):
    """F32 tensors of a file, sorted by name; each is read when asked for, and not kept.

    Args:
        path: a safetensors file that nobody changes.
        file: the same, opened; not needed afterwards.

    Raises:
        FormatError: a tensor is not f32.
    """

    def __init__(self, path: Path, file: TensorFile) -> None:
        self._path = path
        self._places = {name: (file.position(name), file.shape(name)) for name in file.names()}
        for name in self._places:
            if file.dtype(name) != "F32":
                raise FormatError(f"tensor {name} is {file.dtype(name)}, expected F32")

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        """Tensor `name`, a new array.

        Raises:
            FormatError: the file was cut short meanwhile.
        """
        position, shape = self._places[name]
        count = math.prod(shape)
        values = np.fromfile(self._path, DTYPES["F32"], count, offset=position)
        if values.size != count:
            raise FormatError(f"{self._path.name} was cut short")
        return values.reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def load_arrays(data: bytes | memoryview) -> Arrays:
    """Copy all tensors of a file's bytes, as f32.

    Raises:
        FormatError: as `TensorFile`.
    """
    file = TensorFile.from_bytes(data)
    return {name: np.array(file.array(name), np.float32) for name in file.names()}


def _read_header(data: Bytes) -> tuple[int, dict[str, Place]]:
    if data.size < 8:
        raise FormatError("the tensor file is too short to have a header")
    (length,) = struct.unpack("<Q", data[:8].tobytes())
    if length > MAX_HEADER_BYTES or 8 + length > data.size:
        raise FormatError("the tensor file's header is larger than allowed or than the file")
    header = parse_object(data[8 : 8 + length].tobytes(), "the tensor file's header")
    metadata = header.pop("__metadata__", METADATA)
    if metadata != METADATA:
        raise FormatError("the tensor file's header carries metadata of its own")
    if len(header) > MAX_TENSORS:
        raise FormatError(f"the tensor file names more than {MAX_TENSORS} tensors")
    entries = {sys.intern(name): _read_entry(name, header[name]) for name in sorted(header)}
    _require_no_gaps(entries, data.size - 8 - length)
    return length, entries


def _read_entry(name: str, content: object) -> Place:
    label = f"tensor {name[:200]}"
    if not isinstance(content, dict) or set(content) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{label}: its header entry needs dtype, shape and data_offsets alone")
    code, shape, offsets = content["dtype"], content["shape"], content["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise FormatError(f"{label} has the dtype {str(code)[:20]}, not one of {list(DTYPES)}")
    if not _is_naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise FormatError(f"{label}: its shape is not a short list of whole numbers")
    if not _is_naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{label}: its offsets are not two rising whole numbers")
    begin, end = offsets
    # math.prod is exact on Python ints: no overflow can make a huge shape look small
    if math.prod(shape) * DTYPES[code].itemsize != end - begin:
        raise FormatError(f"{label}: its shape and its length do not agree")
    return Place(sys.intern(code), _shared(tuple(shape)), begin, end)


@lru_cache(maxsize=1024)
def _shared(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return an equal shape seen before, if there was one."""
    return shape


def _is_naturals(content: object) -> bool:
    # type(), not isinstance(): True is an int to Python, but not to anybody else
    return isinstance(content, list) and all(type(item) is int and item >= 0 for item in content)


def _require_no_gaps(entries: Mapping[str, Place], size: int) -> None:
    expected = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != expected:
            raise FormatError(f"tensor {name[:200]} overlaps another or leaves a gap")
        expected = entry.end
    if expected != size:
        raise FormatError("the tensors do not end where the tensor file ends")
