"""FFA-LoRA (arXiv 2403.12313): A stays as it began, clients train B alone.

    A = A_g        B = B_g + sum_i w_i (B_i - B_g)

Exact and linear, since A is shared; half the bytes. The rows of A never change, so it wants a
higher rank and a higher learning rate. A change of A is ignored here and refused by the screen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.coded import moved
from strategies.pairs import ClientPair, Pair
from strategies.rule import Ctx, Out, Rule, Traits


def ffa(
    pairs: Sequence[ClientPair], weights: npt.NDArray[np.float64], previous: Pair, _: Ctx
) -> Out:
    """Move B by the weighted mean of its changes."""
    b = moved(previous.B, [pair.delta_b for pair in pairs], weights)
    return Out(Pair(previous.A, b, previous.scale))


FFA = Rule(
    "ffa",
    ffa,
    Traits(exact=True, linear=True, trains=lambda _: frozenset("B"), averages=True),
    "A frozen, FedAvg of B",
)
