"""One tensor as it was coded for the wire, and the float64 sum over many of them.

The sum walks through blocks that fit the caches, reads the stored bytes of a block of several
updates, decodes them there and adds them up, so neither a decoded nor a stored adapter is ever
in memory. Files are read, not mapped: a page cache of huge pages maps 2 MiB at each touch. No
BLAS: the bits of the result do not depend on the number of threads.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from federation.adapter.tensors import RawTensor

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Kind: TypeAlias = Literal["float32", "int8", "uint16"]
Source: TypeAlias = Callable[[memoryview, int], None]

# Values of one block, and values of all updates in it that are decoded together: the best of the
# sizes tried by scripts/bench_merge.py; 2^19 values are 2 MiB of f32.
BLOCK = 2**15
CELLS = 2**19
SPAN = 2**10  # values of B weighed at once: many short rows as one long one
# Rows of int8, and their weights, lie a cache line further apart than they are long: at a power of
# two all fall into the same sets of the cache, at the cost of a third of the speed. Not so bf16.
GAP_BYTES = 64
TOGETHER = 8  # terms of bf16 that are decoded at once

_ITEM_BYTES: dict[Kind, int] = {"float32": 4, "int8": 1, "uint16": 2}
# the name of a dtype is put together anew each time, at a third of the cost of a merge in memory
_KINDS: dict[np.dtype[Any], Kind] = {np.dtype(kind): kind for kind in _ITEM_BYTES}
_HIGH_HALF, _HALF_BITS = np.uint32(0xFFFF0000), np.uint32(16)


class Coded(NamedTuple):
    """One tensor of one update, wherever its bytes are.

    Attributes:
        kind: "float32", "uint16" (bf16 bits) or "int8" (steps), little-endian.
        shape: (rows, columns).
        source: fills a buffer with bytes of the update from the given one on.
        begin: the tensor's first byte.
        steps: int8 only: the size of a step per rank row, f32 (r,).
        rank_axis: the axis of length r: 0 in A, 1 in B.
    """

    kind: Kind
    shape: tuple[int, ...]
    source: Source
    begin: int = 0
    steps: F32 | None = None
    rank_axis: int = 0

    @classmethod
    def of(cls, raw: RawTensor, steps: F32 | None = None, rank_axis: int = 0) -> Coded:
        """Wrap an array in memory: f32 values, uint16 holding bf16 bits, or int8 steps."""
        return cls(kind_of(raw), raw.shape, source_of([raw]), 0, steps, rank_axis)

    def over(self, shape: tuple[int, ...]) -> Coded:
        """Return itself; `NOTHING` becomes a change of `shape` that is zero everywhere."""
        return self if self.shape else Coded("float32", shape, _zeros)

    def decode(self) -> F32:
        """Return the values as a new f32 array of the same shape."""
        stored = np.empty(self.shape, np.dtype(self.kind))
        self.source(stored.reshape(-1).view(np.uint8).data, self.begin)
        if self.kind == "float32":
            return stored
        if self.kind == "uint16":
            wide = stored.astype(np.uint32)
            np.left_shift(wide, _HALF_BITS, out=wide)
            return wide.view(np.float32)
        steps = cast("F32", self.steps)
        with np.errstate(over="ignore", invalid="ignore"):  # hostile sizes, as in `moved`
            return stored * (steps[:, None] if self.rank_axis == 0 else steps)


def kind_of(raw: RawTensor) -> Kind:
    """What the numbers of an array stand for."""
    return _KINDS[raw.dtype]


def source_of(tensors: Sequence[RawTensor]) -> Source:
    """Where arrays in memory are read from, one after another; a single one is not copied."""
    parts = [np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in tensors]
    # slices of a memoryview cost a fifth of those of an array, and a merge takes thousands
    stored = (parts[0] if len(parts) == 1 else np.concatenate(parts)).data

    def read(buffer: memoryview, begin: int) -> None:
        buffer[:] = stored[begin : begin + len(buffer)]

    return read


def decode_all(terms: Sequence[Coded], factor: np.float32, out: npt.NDArray[Any]) -> None:
    """Set `out[i]` to `factor` times the values of term i, for all of them.

    Args:
        terms: each of the shape of `out[i]`, or its leading rows and columns; the rest becomes 0.
        factor: finite.
        out: (terms, rows, columns), f32 or f64, C-contiguous; overwritten.
    """
    for first in range(0, len(terms), TOGETHER):
        some, part = terms[first : first + TOGETHER], out[first : first + TOGETHER]
        if _are_halves(some, part.shape[1:]):
            flat = part.reshape(len(some), -1)
            _widen(_stored_halves(some, flat.shape[1]), factor, flat)
        else:
            for term, values in zip(some, part, strict=True):
                _decode_one(term, factor, values)


def decode_across(terms: Sequence[Coded], factor: np.float32, out: npt.NDArray[Any]) -> None:
    """As `decode_all`, with the terms side by side: `out[:, i]` becomes the values of term i.

    Args:
        terms: each of the shape of `out[:, i]`, or its leading rows and columns.
        factor: finite.
        out: (rows, terms, columns), f32 or f64; all terms of one row lie together; overwritten.
    """
    rows, count, columns = out.shape
    if not _are_halves(terms, (rows, columns)):
        loose = np.empty((count, rows, columns), out.dtype)
        decode_all(terms, factor, loose)
        np.copyto(out, loose.swapaxes(0, 1))
        return
    # moved while they are short, and a row's numbers of one term as one item: numpy would move
    # them one by one
    stored = _stored_halves(terms, rows * columns)
    item = np.dtype((np.void, stored.itemsize * columns))
    aside = np.empty((rows, count, columns), stored.dtype)
    np.copyto(aside.view(item)[..., 0], stored.view(item).T)
    height = max(1, TOGETHER * BLOCK // 4 // (count * columns))
    for first in range(0, rows, height):
        _widen(aside[first : first + height], factor, out[first : first + height])


def _are_halves(terms: Sequence[Coded], shape: tuple[int, ...]) -> bool:
    return all(term.kind == "uint16" and term.shape == shape for term in terms)


def _stored_halves(terms: Sequence[Coded], size: int) -> npt.NDArray[np.uint16]:
    """Bits of bf16 as they are stored: (terms, size), rows apart as `GAP_BYTES` says."""
    used = 2 * size
    stride = used + GAP_BYTES
    stored = np.empty(len(terms) * stride, np.uint8)
    place = stored.data
    for term, row in zip(terms, range(0, stored.size, stride), strict=True):
        term.source(place[row : row + used], term.begin)
    return stored.view(np.uint16).reshape(len(terms), -1)[:, :size]


def _widen(stored: npt.NDArray[np.uint16], factor: np.float32, out: npt.NDArray[Any]) -> None:
    """Set `out` to `factor` times bf16 values, of which the bits are given."""
    bits = stored.astype(np.uint32)
    np.left_shift(bits, _HALF_BITS, out=bits)
    np.multiply(bits.view(np.float32), factor, out=out, dtype=out.dtype)


def _decode_one(term: Coded, factor: np.float32, out: npt.NDArray[Any]) -> None:
    if term.shape != out.shape:
        out[...] = 0
        if not term.shape:
            return
        out = out[: term.shape[0], : term.shape[1]]
    np.multiply(term.decode(), factor, out=out, dtype=out.dtype)


def _zeros(buffer: memoryview, begin: int) -> None:
    del begin
    buffer[:] = bytes(len(buffer))


NOTHING = Coded("float32", (), _zeros)
"""A tensor that an update does not hold, since it leaves it as it is."""


def in_a_line(terms: Sequence[Coded], shapes: Sequence[tuple[int, ...]]) -> Coded | None:
    """Return tensors of one update as one tensor of a single row; None where they are not alike.

    Alike are those of one kind, without steps, and of their `shapes`. What lies together in the
    update is read together.
    """
    kind = terms[0].kind
    item, parts, last, end = _ITEM_BYTES[kind], [], None, -1
    for term, shape in zip(terms, shapes, strict=True):
        if term.kind != kind or term.steps is not None or term.shape != shape:
            return None
        size = math.prod(shape) * item
        if term.source is last and term.begin == end:
            parts[-1] = (last, parts[-1][1], parts[-1][2] + size)
        else:
            parts.append((term.source, term.begin, size))
        last, end = term.source, term.begin + size
    if len(parts) == 1:
        return Coded(kind, (1, parts[0][2] // item), parts[0][0], parts[0][1])

    ends = list(accumulate(size for _source, _begin, size in parts))

    def read(buffer: memoryview, begin: int) -> None:
        filled, place = 0, bisect_right(ends, begin)
        while filled < len(buffer):
            source, first, size = parts[place]
            skipped = begin + filled - (ends[place] - size)
            used = min(size - skipped, len(buffer) - filled)
            source(buffer[filled : filled + used], first + skipped)
            filled, place = filled + used, place + 1

    return Coded(kind, (1, ends[-1] // item), read)


def moved(start: F32, terms: Sequence[Coded], weights: F64) -> F32:
    """Return start + sum_i weights_i * decoded term_i, summed in f64.

    Terms are summed in their order within each kind (f32, int8, bf16), so equal inputs give equal
    bits. An int8 value is step times size in f64, never rounded to f32 before it is weighed.

    Args:
        start: f32, 2-D; not modified.
        terms: each of the shape of `start`.
        weights: one per term, finite.

    Returns:
        A new f32 array.

    Raises:
        ValueError: a term of another shape, or another number of weights.
        FormatError: the bytes of a term are no longer there.
    """
    if len(terms) != len(weights):
        raise ValueError(f"{len(terms)} terms and {len(weights)} weights")
    shape = start.shape
    odd = [term.shape for term in terms if term.shape != shape]
    if odd:
        raise ValueError(f"a change of shape {odd[0]} for a factor of {shape}")
    out = np.empty(shape, np.float32)
    source, target = np.ascontiguousarray(start).reshape(-1), out.reshape(-1)
    blocks = _Blocks(terms, weights, _width(shape))
    with np.errstate(over="ignore", invalid="ignore"):  # hostile values: the gate sees the result
        for begin in range(0, target.size, blocks.width):
            end = min(begin + blocks.width, target.size)
            blocks.add(source[begin:end], target[begin:end], begin)
    return out


class _Blocks:
    """Buffers for one tensor, used again for each block of it."""

    def __init__(self, terms: Sequence[Coded], weights: F64, width: int) -> None:
        self.width = width
        found = _grouped(terms, weights, width)
        self._halves = found.pop("uint16", [])
        self._flat = [group for groups in found.values() for group in groups]
        groups = self._flat + self._halves
        most = max((len(group.terms) for group in groups), default=0)
        item = max((_ITEM_BYTES[group.terms[0].kind] for group in groups), default=1)
        self._bytes = np.empty(most * (width * item + GAP_BYTES), np.uint8)
        self._values = np.empty(most * width, np.float32)
        self._sums = np.empty(width)

    def add(self, source: F32, target: F32, begin: int) -> None:
        """Set `target` to `source` plus the sum of all terms from value `begin` on."""
        total: F32 | F64 = source
        if self._flat:
            total, part = source.astype(np.float64), self._sums[: source.size]
            for group in self._flat:
                group.weigh(group.read(self._bytes, begin, source.size), begin, part)
                total += part
        if self._halves:
            self._add_halves(total, target, begin)
        else:
            target[:] = total

    def _add_halves(self, total: F32 | F64, target: F32, begin: int) -> None:
        """Set `target` to `total` plus the bf16 terms: two bf16 side by side are one 32-bit word.

        Shifted or masked, the word is the f32 of its low or its high value: all words of a block
        at once, in two operations on whole registers.
        """
        size = total.size
        padded = size + size % 2
        low, high = self._sums[:padded].reshape(2, -1)
        one = np.empty(padded // 2)
        low[:], high[: size // 2] = total[0::2], total[1::2]
        for group in self._halves:
            words = group.read(self._bytes, begin, size).view(np.uint32)
            bits = self._values[: words.size].view(np.uint32).reshape(words.shape)
            values = bits.view(np.float32)
            np.left_shift(words, _HALF_BITS, out=bits)
            low += np.einsum("i,ij->j", group.weights, values, out=one, dtype=np.float64)
            np.bitwise_and(words, _HIGH_HALF, out=bits)
            high += np.einsum("i,ij->j", group.weights, values, out=one, dtype=np.float64)
        target[0::2], target[1::2] = low, high[: size // 2]


@dataclass(frozen=True)
class _Group:
    """Terms of one kind that are decoded together."""

    terms: tuple[Coded, ...]
    weights: F64

    def read(self, buffer: Bytes, begin: int, size: int) -> npt.NDArray[Any]:
        """Read values `begin` … `begin + size` of each term into a row of `buffer`.

        Returns:
            (terms, size) stored values; bf16 rows are padded with a zero to an even length.
        """
        kind = self.terms[0].kind
        item = _ITEM_BYTES[kind]
        length = (size + size % 2 if kind == "uint16" else size) * item
        stride = length + (GAP_BYTES if kind == "int8" else 0)
        rows = buffer[: len(self.terms) * stride].reshape(-1, stride)[:, :length]
        if size * item < length:
            rows[:, size * item :] = 0
        place, used, first = buffer.data, size * item, begin * item
        for term, row in zip(self.terms, range(0, len(self.terms) * stride, stride), strict=True):
            term.source(place[row : row + used], term.begin + first)
        return rows.view(kind)

    def weigh(self, stored: npt.NDArray[Any], begin: int, out: F64) -> None:
        """Set `out` to the weighted sum of f32 or int8 rows.

        Args:
            stored: what `read` returned for `begin`; a multiple of the rank for int8 B.
            begin: the first value.
            out: (size,), overwritten.
        """
        first, size = self.terms[0], out.size
        if first.steps is None:
            np.einsum("i,ij->j", self.weights, stored, out=out, dtype=np.float64)
        elif first.rank_axis == 0:
            length = first.shape[1]
            for row in range(begin // length, -(-(begin + size) // length)):
                low, high = max(row * length - begin, 0), min((row + 1) * length - begin, size)
                shares, part = self.shares[:, row], out[low:high]
                np.einsum("i,ij->j", shares, stored[:, low:high], out=part, dtype=np.float64)
        else:
            span = self.shares.shape[1]
            whole = size // span * span
            rows, target = stored[:, :whole].reshape(len(stored), -1, span), out[:whole]
            np.einsum(
                "ij,ikj->kj", self.shares, rows, out=target.reshape(-1, span), dtype=np.float64
            )
            rest = self.shares[:, : size - whole]
            np.einsum("ij,ij->j", rest, stored[:, whole:], out=out[whole:], dtype=np.float64)

    @cached_property
    def shares(self) -> F64:
        """Weight times size of a step: (terms, r) for A; for B repeated along a span of rows."""
        steps = np.stack([cast("F32", term.steps) for term in self.terms])
        shares = steps * self.weights[:, None]
        if not self.terms[0].rank_axis:
            return shares
        repeated = np.tile(shares, max(1, SPAN // steps.shape[1]))
        apart = np.empty((len(repeated), repeated.shape[1] + GAP_BYTES // 8))
        apart[:, : repeated.shape[1]] = repeated
        return apart[:, : repeated.shape[1]]


def _grouped(terms: Sequence[Coded], weights: F64, width: int) -> dict[Kind, list[_Group]]:
    kinds = {term.kind for term in terms}
    length = max(1, CELLS // max(width, 1))
    found = {}
    for kind in [each for each in _ITEM_BYTES if each in kinds]:
        some, shares = terms, weights
        if len(kinds) > 1:
            chosen = [index for index, term in enumerate(terms) if term.kind == kind]
            some, shares = [terms[index] for index in chosen], weights[chosen]
        starts = range(0, len(some), length)
        parts = [slice(first, first + length) for first in starts]
        found[kind] = [_Group(tuple(some[p]), np.array(shares[p], np.float64)) for p in parts]
    return found


def _width(shape: tuple[int, ...]) -> int:
    """Return the length of a block: even for bf16, whole rows for the steps of B."""
    columns = 2 * shape[-1]
    whole = BLOCK if columns > BLOCK else BLOCK // columns * columns
    return min(math.prod(shape) + math.prod(shape) % 2, whole)
