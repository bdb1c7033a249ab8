"""Parts of an adapter: one factor of it, or its leading rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from federation.adapter.format import A, AdapterSpec, Arrays, B
from federation.adapter.instructions import Factors
from federation.errors import FormatError

T = TypeVar("T")


def endings(factors: Factors) -> tuple[str, ...]:
    """Return how names of tensors of `factors` end."""
    return tuple({"A": A, "B": B}[factor] for factor in factors)


def only(tensors: Mapping[str, T], factors: Factors) -> dict[str, T]:
    """Return those entries whose tensor is of `factors`, in their order."""
    wanted = endings(factors)
    return {name: value for name, value in tensors.items() if name.endswith(wanted)}


def batches(
    names: Iterable[str], shapes: Mapping[str, tuple[int, ...]], most: int
) -> Iterator[list[str]]:
    """Split `names` into runs of at most `most` values together, or of one name alone."""
    batch: list[str] = []
    total = 0
    for name in names:
        size = math.prod(shapes[name])
        if batch and total + size > most:
            yield batch
            batch, total = [], 0
        batch.append(name)
        total += size
    if batch:
        yield batch


def apart(values: npt.NDArray[Any], shapes: Sequence[tuple[int, ...]]) -> list[npt.NDArray[Any]]:
    """Return the tensors of `shapes` that lie in a row, one after another; views."""
    parts = np.split(values, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def at_rank(spec: AdapterSpec, rank: int) -> AdapterSpec:
    """Return the spec of the leading `rank` rows of A and columns of B, with the same scale.

    Raises:
        FormatError: `rank` is not within 1 … the spec's.
    """
    if not 1 <= rank <= spec.rank:
        raise FormatError(f"rank {rank} is not within 1…{spec.rank}")
    if rank == spec.rank:
        return spec
    shapes = {
        name: (rank, columns) if name.endswith(A) else (rows, rank)
        for name, (rows, columns) in spec.shapes.items()
    }
    alpha = spec.scale * (math.sqrt(rank) if spec.rslora else rank)
    return replace(spec, rank=rank, alpha=alpha, shapes=shapes)


def leading(arrays: Mapping[str, np.ndarray], spec: AdapterSpec) -> Arrays:
    """Return copies of the leading rows of A and columns of B that `spec` has room for."""
    return {
        name: np.array(arrays[name][:rows, :columns], np.float32)
        for name, (rows, columns) in spec.shapes.items()
    }
