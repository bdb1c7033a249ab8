"""Zero-padding, as in HetLoRA (arXiv 2401.06432) but without its weights by norm.

    A = (1 - W) A_g + sum_i w_i pad(A_i)        B likewise, W = sum_i w_i

FedIT where ranks are equal. Rows that few clients own shrink toward zero: a baseline. The
paper's weights by norm reward whoever sends the largest update, so they are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.pairs import ClientPair, Pair
from strategies.rule import Ctx, Out, Rule, Traits


def zeropad(
    pairs: Sequence[ClientPair], weights: npt.NDArray[np.float64], previous: Pair, _: Ctx
) -> Out:
    """Average factors as if all had the global rank, with zeros where a client has no row."""
    rest = max(1.0 - math.fsum(weights), 0.0)
    a, b = rest * previous.A.astype(np.float64), rest * previous.B.astype(np.float64)
    for pair, weight in zip(pairs, weights, strict=True):
        a_i = pair.A
        rows = min(len(a_i), len(a))
        a[:rows] += weight * a_i[:rows]
        b[:, :rows] += weight * pair.scale / previous.scale * pair.B[:, :rows]
    return Out(Pair(a.astype(np.float32), b.astype(np.float32), previous.scale))


ZEROPAD = Rule(
    "zeropad", zeropad, Traits(linear=True, hetero_ranks=True), "FedAvg of zero-padded factors"
)
