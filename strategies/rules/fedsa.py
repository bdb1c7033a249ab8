"""FedSA-LoRA (arXiv 2410.01463): clients train both factors and share A alone.

    A = A_g + sum_i w_i (A_i - A_g)        B_i stays with client i

Every node has a model of its own: there is no global one that a gate could judge, and a newcomer
begins with a B of zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.coded import moved
from strategies.pairs import ClientPair, Pair
from strategies.rule import Ctx, Out, Rule, Traits


def fedsa(
    pairs: Sequence[ClientPair], weights: npt.NDArray[np.float64], previous: Pair, _: Ctx
) -> Out:
    """Move A by the weighted mean of its changes."""
    a = moved(previous.A, [pair.delta_a for pair in pairs], weights)
    return Out(Pair(a, previous.B, previous.scale))


FEDSA = Rule(
    "fedsa",
    fedsa,
    Traits(linear=True, keeps=frozenset("B"), averages=True),
    "FedAvg of A; each B stays at home",
)
