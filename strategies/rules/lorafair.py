"""LoRA-FAIR (arXiv 2411.14961) in ridge form: FedIT's B takes in what the averages lost.

    D = R A^T (A A^T + l I)^-1        B = Bbar + D        A = Abar

R is the sum of products less the product of the means; R A^T comes from factors. The paper finds
D by gradient descent on a similarity. l is `ridge` (0.01) times the mean square of a row of A.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.lowrank import with_rest
from strategies.pairs import ClientPair, Pair
from strategies.rule import Ctx, Out, Rule, Traits
from strategies.rules.fedit import fedit


def lorafair(
    pairs: Sequence[ClientPair], weights: npt.NDArray[np.float64], previous: Pair, ctx: Ctx
) -> Out:
    """Correct the mean of B toward the exact sum of products."""
    mean = fedit(pairs, weights, previous, ctx).pair
    a, everyone = mean.A.astype(np.float64), zip(*with_rest(pairs, weights, previous), strict=True)
    square = a @ a.T
    missing = -mean.B @ square
    for pair, share in everyone:
        missing += share * pair.scale / mean.scale * pair.B @ (pair.A @ a.T)
    ridge = float(ctx.params.get("ridge", 0.01)) * max(np.trace(square) / len(a), 1e-30)
    change = np.linalg.solve(square + ridge * np.eye(len(a)), missing.T).T
    return Out(Pair(mean.A, (mean.B + change).astype(np.float32), previous.scale))


LORAFAIR = Rule("lorafair", lorafair, Traits(), "FedAvg of A and B, B corrected toward the sum")
