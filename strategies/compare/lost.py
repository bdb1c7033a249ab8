"""What a merge lost of the weighted sum of products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from federation.adapter.format import A, AdapterSpec, B
from strategies.lowrank import with_rest
from strategies.merge import Merged
from strategies.pairs import Factors, Pair, Update, client_pairs, pair_of

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
        pairs = client_pairs(updates, previous, module)
        everyone, shares = with_rest(pairs, weights, previous)
        terms = [_Term(pair, share, share) for pair, share in zip(everyone, shares, strict=True)]
        terms += [_Term(pair_of(merged.adapter, spec, module), -1.0, 0.0)]
        terms += [_Term(previous, 0.0, -1.0)]
        if merged.base:
            terms += [_Term(Pair(merged.base[module + A], merged.base[module + B], 1.0), -1.0, 0.0)]
        both = _squares(terms)
        missed, moved = missed + both[0], moved + both[1]
    return math.sqrt(missed / moved) if moved > 0 else 0.0


class _Term(NamedTuple):
    """A product, and its shares in two sums: of what was missed, of what moved."""

    pair: Factors
    missed: float
    moved: float


def _squares(terms: Sequence[_Term]) -> tuple[float, float]:
    """Return the squared Frobenius norms of both sums of products."""
    right = np.concatenate([term.pair.A for term in terms], dtype=np.float64)
    left = np.concatenate([term.pair.B for term in terms], axis=1, dtype=np.float64)
    inner = (left.T @ left) * (right @ right.T)
    shares = np.array([[term.missed, term.moved] for term in terms])
    shares *= np.array([[term.pair.scale] for term in terms])
    each = np.repeat(shares, [len(term.pair.A) for term in terms], axis=0)
    missed, moved = np.maximum((each * (inner @ each)).sum(axis=0), 0.0).tolist()
    return missed, moved
