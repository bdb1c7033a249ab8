"""FedRot-LoRA (arXiv 2602.23638): turn each client toward the last global pair, then FedIT.

    B_i^T B_g + A_i A_g^T = U S V^T        R_i = U V^T        (B_i, A_i) -> (B_i R_i, R_i^T A_i)

The orthogonal Procrustes problem of both factors. Done on the server, so a client need not be
honest about it. Undoes rotations, not stretching: (B t, A / t) still needs the screen of factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.pairs import ClientPair, Pair
from strategies.rule import Ctx, Out, Rule, Traits


def fedrot(
    pairs: Sequence[ClientPair], weights: npt.NDArray[np.float64], previous: Pair, _: Ctx
) -> Out:
    """Average factors after turning them toward `previous`."""
    a_g, b_g = previous.A.astype(np.float64), previous.B.astype(np.float64)
    a, b = a_g.copy(), b_g.copy()
    for pair, weight in zip(pairs, weights, strict=True):
        a_i, b_i = pair.A.astype(np.float64), pair.B.astype(np.float64)
        u, _s, vt = np.linalg.svd(b_i.T @ b_g + a_i @ a_g.T)
        turn = u @ vt
        a += weight * (turn.T @ a_i - a_g)
        b += weight * (b_i @ turn - b_g)
    return Out(Pair(a.astype(np.float32), b.astype(np.float32), previous.scale))


FEDROT = Rule("fedrot", fedrot, Traits(), "FedAvg of factors turned toward the last global ones")
