"""Words and vectors into one score: a convex combination over their common pool. Arrays alone.

Bruch, Gai & Ingber (arXiv:2210.11934), with the exact cosine of every member and 0 as the lower
bound of both terms: a member that one of the two lists lacks is not counted as nothing.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float64]
DENSE_WEIGHT = 0.3


def fuse(bm25: Numbers, cosine: Numbers | None, *, alpha: float = DENSE_WEIGHT) -> Numbers:
    """Score every member of a pool.

    Args:
        bm25: (n,), >= 0; 0 for members without a word of the question.
        cosine: (n,), NaN where a member has no vector yet: it is judged by its words alone. None
            without vectors.
        alpha: weight of the cosine, 0 to 1.

    Returns:
        (n,), 0 to 1; relative to this pool alone.
    """
    words = _scaled(bm25)
    if cosine is None or not np.any(np.nan_to_num(cosine) > 0):
        return words
    dense = _scaled(np.nan_to_num(cosine))
    if not np.any(words > 0):
        return dense
    mixed: Numbers = (1 - alpha) * words + alpha * dense
    return np.where(np.isnan(cosine), words, mixed)


def _scaled(values: Numbers) -> Numbers:
    cut: Numbers = np.maximum(values, 0.0)
    top = float(cut.max(initial=0.0))
    return cut / top if top > 0 else cut
