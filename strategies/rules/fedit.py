"""FedIT (arXiv 2305.05644): FedAvg of A and of B, each factor by itself.

    A = A_g + sum_i w_i (A_i - A_g)        B = B_g + sum_i w_i (B_i - B_g)

Not the mean of the products: their difference is the covariance of the factors over clients,
zero when clients share a factor. It depends on the gauge, so the screen looks at factors too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.coded import moved
from strategies.pairs import ClientPair, Pair
from strategies.rule import Ctx, Out, Rule, Traits


def fedit(
    pairs: Sequence[ClientPair], weights: npt.NDArray[np.float64], previous: Pair, _: Ctx
) -> Out:
    """Move each factor of `previous` by the weighted mean of the clients' changes."""
    a = moved(previous.A, [pair.delta_a for pair in pairs], weights)
    b = moved(previous.B, [pair.delta_b for pair in pairs], weights)
    return Out(Pair(a, b, previous.scale))


FEDIT = Rule(
    "fedit", fedit, Traits(linear=True, averages=True), "FedAvg of A and of B, each by itself"
)
