"""Evened: FedAvg of A and of B, then the same product with factors of one size (a template).

t = sqrt(|Abar| / |Bbar|)        A = Abar / t        B = Bbar t
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.coded import moved
from strategies.pairs import ClientPair, Pair
from strategies.rule import Ctx, Out, Rule, Traits


def evened(
    pairs: Sequence[ClientPair], weights: npt.NDArray[np.float64], previous: Pair, _: Ctx
) -> Out:
    """Move each factor by the mean of its changes, then even out their sizes."""
    a = moved(previous.A, [pair.delta_a for pair in pairs], weights)
    b = moved(previous.B, [pair.delta_b for pair in pairs], weights)
    sizes = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    t = np.float32((sizes[0] / sizes[1]) ** 0.5 if all(sizes) else 1.0)
    return Out(Pair(a / t, b * t, previous.scale))


EVENED = Rule("evened", evened, Traits(), "FedAvg of A and B, their sizes evened out")
