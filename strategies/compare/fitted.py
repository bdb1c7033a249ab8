"""Clients of unequal ranks in memory, and what a merge lost of the weighted sum of products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from federation.adapter.format import A, AdapterSpec, B
from federation.adapter.tensors import Arrays
from strategies.compare.wire import VirtualUpdate
from strategies.lowrank import fit_rank, with_rest
from strategies.merge import Merged, merge_all
from strategies.pairs import ClientPair, Factors, Pair, client_pair, pair_of
from strategies.rule import Ctx, Reducer

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


def fitted(arrays: Mapping[str, F32], spec: AdapterSpec, rank: int) -> Arrays:
    """Return what a client of `rank` is sent; the scale is the same for all ranks."""
    if rank == spec.rank:
        return dict(arrays)
    found: Arrays = {}
    for module in spec.modules():
        pair = fit_rank(pair_of(arrays, spec, module), rank, spec.scale)
        found[module + A], found[module + B] = pair.A, pair.B
    return found


class Clients:
    """The updates of a round as pairs, module by module.

    Args:
        updates: those that take part.
        ranks: of each.
        current: the global adapter they were trained from.
        spec: its spec.
    """

    def __init__(
        self,
        updates: Sequence[VirtualUpdate],
        ranks: Sequence[int],
        current: Mapping[str, F32],
        spec: AdapterSpec,
    ) -> None:
        self.updates, self.ranks, self.current, self.spec = updates, ranks, current, spec

    def pairs(self, module: str) -> list[ClientPair]:
        """Each client's pair, put on top of what a client of its rank was sent."""
        previous = pair_of(self.current, self.spec, module)
        sent = {rank: fit_rank(previous, rank, self.spec.scale) for rank in set(self.ranks)}
        return [
            client_pair(update, sent[rank], module)
            for update, rank in zip(self.updates, self.ranks, strict=True)
        ]

    def merge(self, weights: F64, reduce: Reducer, ctx: Ctx) -> Merged:
        """As a server merges them: `strategies.merge.merge_all`."""
        return merge_all(self.updates, weights, self.current, self.spec, reduce, ctx)

    def lost(self, merged: Merged, weights: F64) -> float:
        """Return the norm of what the merge misses of the weighted sum, over that of the change.

        Through factors alone; 0 for an exact rule, 1 for one that changes nothing.
        """
        missed = moved = 0.0
        for module in self.spec.modules():
            previous = pair_of(self.current, self.spec, module)
            everyone, shares = with_rest(self.pairs(module), weights, previous)
            ideal = list(zip(everyone, shares, strict=True))
            got: list[tuple[Factors, float]] = [(pair_of(merged.adapter, self.spec, module), -1.0)]
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
