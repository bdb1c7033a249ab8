"""RoLoRA (arXiv 2502.01755): one factor a round, in turn.

    odd rounds:  A = A_g, B = B_g + sum_i w_i (B_i - B_g)        even rounds: the same with A

Exact and linear, since the other factor is shared; half the bytes, half the progress a round. B
comes first (rounds count from 1): it begins at zero, where A has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.coded import moved
from strategies.pairs import ClientPair, Pair
from strategies.rule import Ctx, Out, Rule, Traits


def phase(number: int) -> frozenset[str]:
    """Return the factor that round `number` is for."""
    return frozenset("B" if number % 2 else "A")


def rolora(
    pairs: Sequence[ClientPair], weights: npt.NDArray[np.float64], previous: Pair, ctx: Ctx
) -> Out:
    """Move the factor of this round by the weighted mean of its changes."""
    a, b = previous.A, previous.B
    if "A" in phase(ctx.round):
        a = moved(a, [pair.delta_a for pair in pairs], weights)
    else:
        b = moved(b, [pair.delta_b for pair in pairs], weights)
    return Out(Pair(a, b, previous.scale))


_TRAITS = Traits(exact=True, linear=True, trains=phase, averages=True)
ROLORA = Rule("rolora", rolora, _TRAITS, "FedAvg of B and A in turn")
