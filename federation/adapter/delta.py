"""Deltas: subtracting and adding adapters, and coding in bf16 or int8 with error feedback."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from federation.adapter.format import A, B
from federation.adapter.parts import apart, batches
from federation.adapter.tensors import Arrays, Bytes, RawTensor, TensorFile
from federation.errors import FormatError

F32 = npt.NDArray[np.float32]
AnyCoding = Literal["bf16", "int8", "f32"]
CODINGS = ("bf16", "int8")
STORED = {"bf16": "BF16", "int8": "I8", "f32": "F32"}
SCALES = "scales"
INT8_MAX = 127
BLOCK = 2**18  # values coded or decoded at once: 1 MiB of f32 stays in the second-level cache


def subtract(new: Mapping[str, F32], old: Mapping[str, F32]) -> Arrays:
    """New minus old, tensor by tensor; neither is modified.

    Raises:
        FormatError: their names or shapes differ.
    """
    _require_same(new, old)
    return {name: np.subtract(new[name], old[name], dtype=np.float32) for name in sorted(new)}


def add(base: Mapping[str, F32], delta: Mapping[str, F32]) -> Arrays:
    """Base plus delta, tensor by tensor; neither is modified.

    Raises:
        FormatError: their names or shapes differ.
    """
    _require_same(base, delta)
    return {name: np.add(base[name], delta[name], dtype=np.float32) for name in sorted(base)}


def encode(
    delta: Mapping[str, F32], coding: str, residual: Mapping[str, F32] | None = None
) -> tuple[dict[str, RawTensor], Arrays]:
    """Code `delta + residual` for the wire.

    Args:
        delta: f32 tensors with LoRA names; not modified.
        coding: "bf16" (round to nearest even) or "int8" (one f32 scale per rank row: rows of A,
            columns of B; all scales in one tensor "scales" of shape (tensors, rank), in the
            order of the sorted names).
        residual: what the last coding lost; None counts as zero.

    Returns:
        Tensors for `save_tensors`, and the new residual: what this coding lost.

    Raises:
        FormatError: unknown coding, names that differ, or a value int8 has no scale for.
    """
    _require_coding(coding, CODINGS)
    if residual is not None:
        _require_same(delta, residual)
    tensors: dict[str, RawTensor] = {}
    lost: Arrays = {}
    if coding == "bf16":
        every = {name: delta[name].shape for name in sorted(delta)}
        for names in batches(every, every, BLOCK):
            wanted = _in_a_row(delta, names)
            if residual is not None:
                wanted += _in_a_row(residual, names)
            coded = to_bf16(wanted)
            shapes = [every[name] for name in names]
            tensors |= dict(zip(names, apart(coded, shapes), strict=True))
            lost |= dict(zip(names, apart(wanted - from_bf16(coded), shapes), strict=True))
        return tensors, lost
    scales: list[F32] = []
    for name in sorted(delta):
        wanted = delta[name] if residual is None else delta[name] + residual[name]
        tensors[name], scale = _quantise(name, wanted)
        got = tensors[name].astype(np.float32)
        _scale(name, got, scale)
        scales.append(scale)
        lost[name] = wanted - got
    tensors[SCALES] = np.stack(scales)
    return tensors, lost


def _in_a_row(tensors: Mapping[str, F32], names: Sequence[str]) -> F32:
    return np.concatenate([tensors[name].reshape(-1) for name in names])


def decode(file: TensorFile, coding: str) -> Arrays:
    """Decode every tensor; see `decode_tensor`."""
    return {name: decode_tensor(file, name, coding) for name in coded_names(file, coding)}


def coded_names(file: TensorFile, coding: str) -> list[str]:
    """Names of the tensors that stand for adapter weights, sorted."""
    return [name for name in file.names() if not (coding == "int8" and name == SCALES)]


def decode_tensor(file: TensorFile, name: str, coding: str, *, out: F32 | None = None) -> F32:
    """Decode one tensor into f32; "f32" copies.

    Args:
        file: where it is stored; only this tensor (and its scales) is read.
        name: adapter tensor.
        coding: how it is stored.
        out: contiguous f32 array of its shape to decode into; None makes one.

    Raises:
        FormatError: stored in another dtype than `coding` says, or its scales do not fit.
    """
    _require_coding(coding, STORED)
    if file.dtype(name) != STORED[coding]:
        raise FormatError(f"tensor {name} is {file.dtype(name)}, expected {STORED[coding]}")
    values = np.empty(file.shape(name), np.float32) if out is None else out
    if coding == "bf16":
        _widen(file.raw(name), values)
    else:
        values[...] = file.array(name)
    if coding == "int8":
        _scale(name, values, _scale_of(file, name))
    return values


def to_bf16(values: F32) -> npt.NDArray[np.uint16]:
    """Round f32 to bf16 bits, to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    coded = (rounded >> np.uint32(16)).astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        coded[nan] = (bits[nan] >> np.uint32(16)).astype(np.uint16) | np.uint16(0x40)
    return coded


def from_bf16(bits: npt.NDArray[np.uint16]) -> F32:
    """Widen bf16 bits to f32, exactly; same shape."""
    values = np.empty(bits.shape, np.float32)
    _widen(np.ascontiguousarray(bits).reshape(-1).view(np.uint8), values)
    return values


def _widen(raw: Bytes, values: F32) -> None:
    wide = values.reshape(-1).view(np.uint32)
    for begin in range(0, wide.size, BLOCK):
        # the copy is aligned, the mapped bytes need not be; numpy is fast on aligned items only
        block = wide[begin : begin + BLOCK]
        block[...] = raw[2 * begin : 2 * (begin + BLOCK)].copy().view(np.uint16)
        np.left_shift(block, 16, out=block)


def _quantise(name: str, values: F32) -> tuple[npt.NDArray[np.int8], F32]:
    axis = rank_axis(name)
    largest = np.abs(values).max(axis=1 - axis, initial=0.0)
    if not np.isfinite(largest).all():
        raise FormatError(f"tensor {name} holds a value that is not finite")
    scale = (largest / np.float32(INT8_MAX)).astype(np.float32)
    divisor = np.expand_dims(np.where(scale > 0, scale, np.float32(1)), 1 - axis)
    steps = np.where(np.expand_dims(scale > 0, 1 - axis), np.rint(values / divisor), 0)
    return np.clip(steps, -INT8_MAX, INT8_MAX).astype(np.int8), scale


def _scale(name: str, values: F32, scale: F32) -> None:
    axis = rank_axis(name)
    if values.ndim != 2 or values.shape[axis] != scale.size:
        raise FormatError(f"tensor {name} has another rank than its scales")
    with np.errstate(over="ignore", invalid="ignore"):  # hostile scales: the caller checks
        values *= np.expand_dims(scale, 1 - axis)


def _scale_of(file: TensorFile, name: str) -> F32:
    names = file.names()
    if SCALES not in names or file.dtype(SCALES) != "F32" or len(file.shape(SCALES)) != 2:
        raise FormatError("an int8 package needs one F32 matrix of scales")
    row = bisect_left(names, name) - int(name > SCALES)
    if file.shape(SCALES)[0] != len(names) - 1 or name == SCALES:
        raise FormatError("the scales are not as many as the tensors")
    return np.array(file.array(SCALES)[row], np.float32)


def rank_axis(name: str) -> int:
    """The axis of length rank: 0 in A, 1 in B.

    Raises:
        FormatError: `name` is neither.
    """
    if name.endswith(A):
        return 0
    if name.endswith(B):
        return 1
    raise FormatError(f"tensor {name[:200]} is neither A nor B of a LoRA pair")


def _require_same(left: Mapping[str, F32], right: Mapping[str, F32]) -> None:
    for name in sorted(set(left) ^ set(right)):
        raise FormatError(f"tensor {name[:200]} is in one adapter only")
    for name, array in left.items():
        if array.shape != right[name].shape:
            raise FormatError(f"tensor {name}: shapes {array.shape} and {right[name].shape}")


def _require_coding(coding: str, known: tuple[str, ...] | Mapping[str, str]) -> None:
    if coding not in known:
        raise FormatError(f"unknown coding '{coding[:20]}' (known: {', '.join(known)})")
