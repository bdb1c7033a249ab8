"""FlexLoRA (arXiv 2402.11505): the exact sum of products, cut back to the rank of the adapter.

    (U, S, V) = SVD_r(sum_i w_i s_i B_i A_i)        B = U sqrt(S) / s        A = sqrt(S) V^T

Clients may have any rank; one of rank k is sent the k leading rows. From factors alone: the dense
sum never exists. Coordinates change each round, so no momentum, and no delta of an older version.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.lowrank import best_rank, with_rest
from strategies.pairs import ClientPair, Pair
from strategies.rule import Ctx, Out, Rule, Traits


def flexlora(
    pairs: Sequence[ClientPair], weights: npt.NDArray[np.float64], previous: Pair, ctx: Ctx
) -> Out:
    """Return the best pair of the global rank for the weighted sum of products."""
    everyone, shares = with_rest(pairs, weights, previous)
    return Out(best_rank(everyone, shares, previous, ctx.rng))


FLEXLORA = Rule(
    "flexlora",
    flexlora,
    Traits(gauge_invariant=True, gauge_safe=True, hetero_ranks=True, refactorises=True),
    "exact sum of products, best rank-r pair of it",
)
