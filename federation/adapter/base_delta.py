"""What a version adds to the frozen base model: a second adapter of scale 1, stock PEFT's kind.

It is the sum of all rounds, a stack of factors in f32, and lies as a PEFT folder `base/` beside the
pair. The manifest names its hash, so whoever adds the newest rows to what is held must come to
exactly the stack that the operator signed: each version's base follows from the one before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from federation.adapter.format import CONFIG, TENSORS, A, AdapterSpec, Arrays, B, config_bytes
from federation.adapter.manifest import BaseRecord
from federation.adapter.parts import leading
from federation.adapter.tensors import TensorFile, save_tensors
from federation.errors import FormatError, SignatureError

FOLDER = "base"
F32 = npt.NDArray[np.float32]


def base_spec(spec: AdapterSpec, base: Mapping[str, F32]) -> AdapterSpec:
    """Return the spec of a base delta of the adapters of `spec`: its own rank, scale 1.

    Raises:
        FormatError: tensors of other names, or ranks that differ.
    """
    shapes = {name: (int(value.shape[0]), int(value.shape[1])) for name, value in base.items()}
    rank = next((shape[0] for name, shape in shapes.items() if name.endswith(A)), 0)
    return replace(spec, rank=rank, alpha=float(rank), rslora=False, shapes=shapes)


def add_base(earlier: Mapping[str, F32], new: Mapping[str, F32]) -> Arrays:
    """Return the sum of two base deltas; either may be empty. Ranks add up."""
    if not earlier or not new:
        return dict(earlier or new)
    return {
        name: np.concatenate([earlier[name], new[name]], axis=1 if name.endswith(B) else 0)
        for name in sorted(new)
    }


def rows_from(base: Mapping[str, F32], rank: int) -> Arrays:
    """Return what lies behind the first `rank` rows of A and columns of B; views."""
    return {
        name: value[:, rank:] if name.endswith(B) else value[rank:] for name, value in base.items()
    }


def begins_with(base: Mapping[str, F32], earlier: Mapping[str, F32], spec: AdapterSpec) -> bool:
    """Whether `base` is `earlier` with rows added, or none."""
    if not base or not earlier:
        return False
    its = base_spec(spec, earlier)
    if its.rank > base_spec(spec, base).rank:
        return False
    head = leading(base, its)
    return all(np.array_equal(head[name], earlier[name]) for name in its.shapes)


def files_of(base: Mapping[str, F32], spec: AdapterSpec) -> dict[str, bytes]:
    """Return the PEFT folder of a base delta: path below the version's folder -> content."""
    return {
        f"{FOLDER}/{TENSORS}": save_tensors(base),
        f"{FOLDER}/{CONFIG}": config_bytes(base_spec(spec, base)),
    }


def read_base(folder: Path, record: BaseRecord | None, spec: AdapterSpec) -> Arrays:
    """Read the base delta of the version in `folder`; empty where the record is None.

    Raises:
        SignatureError: not the one that the manifest names.
        FormatError: missing or malformed.
    """
    if record is None:
        return {}
    path = folder / FOLDER / TENSORS
    try:
        data = path.read_bytes()
    except OSError as err:
        raise FormatError(f"{path} cannot be read: {err.strerror}") from err
    check_base(data, record, spec)
    return parse_base(data, spec)


def check_base(data: bytes, record: BaseRecord, spec: AdapterSpec) -> None:
    """Judge a whole base delta against its record.

    Raises:
        SignatureError: another than the manifest names.
        FormatError: not an adapter on the modules of `spec`, or a value that is not finite.
    """
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise SignatureError("the base delta is not the one that was signed")
    if base_spec(spec, parse_base(data, spec)).rank != record.rank:
        raise FormatError(f"the base delta has not the rank {record.rank}")


def parse_base(data: bytes, spec: AdapterSpec) -> Arrays:
    """Read rows of a base delta, whole or not, from safetensors.

    Raises:
        FormatError: not an f32 adapter on the modules of `spec`, or a value that is not finite.
    """
    file = TensorFile.from_bytes(data)
    found: Arrays = {}
    for name in file.names():
        if file.dtype(name) != "F32" or len(file.shape(name)) != 2:
            raise FormatError(f"tensor {name[:200]} of the base delta is no f32 matrix")
        found[name] = np.array(file.array(name), np.float32)
    its = base_spec(spec, found)
    for name in sorted(set(its.shapes) ^ set(spec.shapes)):
        raise FormatError(f"the base delta and the adapter differ in {name[:200]}")
    for name, shape in its.shapes.items():
        axis = 1 if name.endswith(A) else 0
        if shape[axis] != spec.shapes[name][axis]:
            raise FormatError(f"tensor {name} of the base delta does not fit the base model")
        if not np.isfinite(found[name]).all():
            raise FormatError(f"tensor {name} of the base delta holds a value that is not finite")
    return found


def largest_bytes(record: BaseRecord, spec: AdapterSpec) -> int:
    """Return what a base delta of this record may take at most, whole."""
    return record.rank * spec.tensor_bytes // spec.rank + 2**20


def compact(base: Mapping[str, F32], spec: AdapterSpec) -> Arrays:
    """Return `base`, or the same sum in fewer rows where it has more than a matrix can need.

    A product of d_out x d_in needs min(d_out, d_in) rows: those of the identity on its short side.
    """
    sizes = {m: (spec.shapes[m + B][0], spec.shapes[m + A][1]) for m in spec.modules()}
    needed = max(min(size) for size in sizes.values())
    if not base or len(next(v for n, v in base.items() if n.endswith(A))) <= needed:
        return dict(base)
    found: Arrays = {}
    for module, (d_out, d_in) in sizes.items():
        product = base[module + B].astype(np.float64) @ base[module + A].astype(np.float64)
        a, b = np.zeros((needed, d_in), np.float32), np.zeros((d_out, needed), np.float32)
        if d_in <= d_out:
            a[:d_in], b[:, :d_in] = np.eye(d_in), product
        else:
            a[:d_out], b[:, :d_out] = product, np.eye(d_out)
        found[module + A], found[module + B] = a, b
    return dict(sorted(found.items()))


def rank_limit(spec: AdapterSpec) -> int:
    """Return the largest rank at which factors of every module are smaller than dense copies."""
    sizes = [(spec.shapes[module + B][0], spec.shapes[module + A][1]) for module in spec.modules()]
    dense = sum(d_out * d_in for d_out, d_in in sizes)
    return dense // sum(d_out + d_in for d_out, d_in in sizes)
