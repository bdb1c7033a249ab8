"""RBLA (arXiv 2408.08699): a row of A, and its column of B, is averaged over those who own it.

    A[j] = A_g[j] + W / W_j sum_{i: r_i > j} w_i (A_i[j] - A_g[j])

W is the sum of all w_i and W_j of those with r_i > j. FedIT where ranks are equal; rows that few
clients own are not diluted, but jump in scale beside the others. Scales are folded into B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.pairs import ClientPair, Pair
from strategies.rule import Ctx, Out, Rule, Traits


def rbla(
    pairs: Sequence[ClientPair], weights: npt.NDArray[np.float64], previous: Pair, _: Ctx
) -> Out:
    """Move each row and column by the mean change of its owners."""
    a, b = np.zeros(previous.A.shape), np.zeros(previous.B.shape)
    owned = np.zeros(len(a))
    for pair, weight in zip(pairs, weights, strict=True):
        a_i = pair.A
        rows = min(len(a_i), len(a))
        ratio = pair.scale / previous.scale
        owned[:rows] += weight
        a[:rows] += weight * (a_i[:rows] - previous.A[:rows])
        b[:, :rows] += weight * (ratio * pair.B[:, :rows] - previous.B[:, :rows])
    lift = math.fsum(weights) / np.where(owned > 0, owned, 1.0)
    a, b = previous.A + lift[:, None] * a, previous.B + lift * b
    return Out(Pair(a.astype(np.float32), b.astype(np.float32), previous.scale))


RBLA = Rule("rbla", rbla, Traits(linear=True, hetero_ranks=True), "rows averaged over their owners")
