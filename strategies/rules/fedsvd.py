"""FedSVD (arXiv 2505.12805): clients train B alone, and A is made orthonormal anew each round.

    (U, S, V) = SVD(sum_i w_i B_i A)        A = V^T        B = U S

Exact. The rows of A turn but never leave the space they began in: a better conditioned FFA, meant
for training under differential privacy. The SVD is of (d_out, r): A enters as its QR.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.pairs import ClientPair, Pair
from strategies.rule import Ctx, Out, Rule, Traits
from strategies.rules.ffa import ffa


def fedsvd(
    pairs: Sequence[ClientPair], weights: npt.NDArray[np.float64], previous: Pair, ctx: Ctx
) -> Out:
    """Average B, then give the product orthonormal rows."""
    mean = ffa(pairs, weights, previous, ctx).pair
    rows, triangle = np.linalg.qr(mean.A.T.astype(np.float64))
    u, sizes, vt = np.linalg.svd(mean.B @ triangle.T, full_matrices=False)
    a, b = vt @ rows.T, u * sizes
    return Out(Pair(a.astype(np.float32), b.astype(np.float32), previous.scale))


FEDSVD = Rule(
    "fedsvd",
    fedsvd,
    Traits(exact=True, refactorises=True, trains=lambda _: frozenset("B")),
    "FedAvg of B, then orthonormal rows of A",
)
