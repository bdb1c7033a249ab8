"""FLoRA (arXiv 2409.05976): everybody's products are stacked into the base; the pair begins anew.

    base += [w_1 s_1 B_1, w_2 s_2 B_2, …] [A_1; A_2; …]        A = fresh        B = 0

Exact, any ranks, and the sum of rounds may have any rank. Costs: all of the stack goes to every
client, each round begins cold, and all must keep the same sum of base deltas.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.lowrank import fresh_rows, with_rest
from strategies.pairs import ClientPair, Pair, stack
from strategies.rule import Ctx, Out, Rule, Traits


def flora(
    pairs: Sequence[ClientPair], weights: npt.NDArray[np.float64], previous: Pair, ctx: Ctx
) -> Out:
    """Put the weighted sum of products into the base, as it is."""
    a = fresh_rows(len(previous.A), previous.A.shape[1], ctx.rng)
    fresh = Pair(a, np.zeros_like(previous.B), previous.scale)
    return Out(fresh, stack(*with_rest(pairs, weights, previous)))


FLORA = Rule(
    "flora",
    flora,
    Traits(True, False, True, True, hetero_ranks=True, edits_base=True, refactorises=True),
    "stacks all products into the base",
)
