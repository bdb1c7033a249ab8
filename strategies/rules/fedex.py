"""FedEx-LoRA (arXiv 2410.09432): FedIT, and what the averages lost goes into the base.

    base += sum_{i<N} w_i s (B_i - Bbar)(A_i - A_N)

Exact; the residual has rank (N - 1) r. The previous pair is one of the N where weights leave it a
share. A stretched gauge (B t, A / t) makes pair and residual large and opposite: keep the screen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.lowrank import with_rest
from strategies.pairs import ClientPair, Pair, stack
from strategies.rule import Ctx, Out, Rule, Traits
from strategies.rules.fedit import fedit


def fedex(
    pairs: Sequence[ClientPair], weights: npt.NDArray[np.float64], previous: Pair, ctx: Ctx
) -> Out:
    """Average factors; return the covariance of the factors over clients as the base's delta."""
    mean = fedit(pairs, weights, previous, ctx).pair
    everyone, shares = with_rest(pairs, weights, previous)
    last = everyone[-1].A
    apart = [Pair(pair.A - last, pair.B - mean.B, pair.scale) for pair in everyone[:-1]]
    return Out(mean, stack(apart, shares[:-1]) if apart else None)


FEDEX = Rule(
    "fedex",
    fedex,
    Traits(exact=True, gauge_invariant=True, edits_base=True),
    "FedAvg of A and B; the residual goes into the base",
)
