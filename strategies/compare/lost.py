"""What a merge lost of the weighted sum of products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from federation.adapter.format import A, AdapterSpec, B
from strategies.lowrank import with_rest
from strategies.merge import Merged
from strategies.pairs import Factors, Pair, Update, client_pair, pair_of

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


def lost(
    merged: Merged,
    updates: Sequence[Update],
    weights: F64,
    current: Mapping[str, F32],
    spec: AdapterSpec,
) -> float:
    """Return the norm of what a merge misses of the weighted sum, over that of the change.

    Through factors alone; 0 for an exact rule, 1 for one that changes nothing.

    Args:
        merged: what `updates` became.
        updates: on top of `current`, or of its leading rows.
        weights: one per update, sum <= 1.
        current: the global adapter before.
        spec: its spec.
    """
    missed = moved = 0.0
    for module in spec.modules():
        previous = pair_of(current, spec, module)
        pairs = [client_pair(update, previous, module) for update in updates]
        everyone, shares = with_rest(pairs, weights, previous)
        ideal = list(zip(everyone, shares, strict=True))
        got: list[tuple[Factors, float]] = [(pair_of(merged.adapter, spec, module), -1.0)]
        if merged.base:
            got.append((Pair(merged.base[module + A], merged.base[module + B], 1.0), -1.0))
        missed += _square([*ideal, *got])
        moved += _square([*ideal, (previous, -1.0)])
    return math.sqrt(missed / moved) if moved > 0 else 0.0


def _square(terms: Sequence[tuple[Factors, float]]) -> float:
    """Return the squared Frobenius norm of a sum of products."""
    rows = [pair.A for pair, _ in terms]
    right = np.concatenate(rows, dtype=np.float64)
    columns = [pair.B.astype(np.float64) * (share * pair.scale) for pair, share in terms]
    left = np.concatenate(columns, axis=1)
    return max(float(((left.T @ left) * (right @ right.T)).sum()), 0.0)
