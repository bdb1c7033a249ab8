"""Weighers: from inner products of the changes of dW, how much each update counts.

Each is a pure function of the Gram matrix G (N x N, f64) and of weights w >= 0 with sum <= 1, and
returns weights of the same kind; what they leave belongs to the previous global adapter. In dW
space a client gains nothing by (B t, A / t), and a median of factors would break their product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from federation.errors import RoundError

F64 = npt.NDArray[np.float64]
Weigh: TypeAlias = Callable[[F64, F64], F64]

SAME = 0.9  # cosine from which on two clients count as one
APART = 0.5  # … unless the others are that alike too
STEPS, SMOOTH = 1000, 1e-6


@dataclass(frozen=True)
class Weigher:
    """A weigher with its name and one line for people."""

    name: str
    weigh: Weigh
    summary: str


def norm_clip(gram: F64, weights: F64) -> F64:
    """Shrink changes longer than the median one to its length."""
    lengths = _lengths(gram)
    limit = float(np.median(lengths))
    clipped: F64 = weights * np.minimum(1.0, limit / np.maximum(lengths, _tiny(limit)))
    return clipped


def sybil(gram: F64, weights: F64) -> F64:
    """Let clients that send one direction count as one, where the others do not agree so.

    Two with a cosine above 0.9 are the same, and so are their friends, if the 95 % quantile of
    all other cosines is below 0.5. A group counts as much as its largest member; the sum of
    weights stays.
    """
    lengths = _lengths(gram)
    cosines = gram / np.maximum(np.outer(lengths, lengths), np.finfo(np.float64).tiny)
    upper = np.triu_indices(len(weights), 1)
    found = cosines[upper]
    same = found > SAME
    others = found[~same]
    if not same.any() or not len(others) or np.quantile(others, 0.95) >= APART:
        return weights
    damped = weights.copy()
    for group in _groups(len(weights), np.transpose(upper)[same]):
        total = math.fsum(weights[group])
        if total > 0:
            damped[group] *= weights[group].max() / total
    return _with_sum_of(damped, weights)


def rfa(gram: F64, weights: F64) -> F64:
    """Weigh so that the result is the geometric median (RFA, arXiv 1912.13445).

    Smoothed Weiszfeld steps on the Gram matrix: a_i ~ w_i / d_i, d_i the distance of client i
    from the present result. Holds until half of the weight is hostile.
    """
    total = math.fsum(weights)
    scale = float(np.median(np.diag(gram))) or float(np.diag(gram).max())
    if total == 0.0 or scale == 0.0:
        return weights
    scaled = gram / scale
    shares: F64 = weights / total
    present = shares
    for _ in range(STEPS):
        squares = np.diag(scaled) - 2 * scaled @ present + present @ scaled @ present
        pulls = shares / np.sqrt(np.maximum(squares, SMOOTH**2))
        moved: F64 = pulls / math.fsum(pulls)
        done = float(np.abs(moved - present).max()) < 1e-12
        present = moved
        if done:
            break
    return _with_sum_of(present, weights)


def multikrum(gram: F64, weights: F64) -> F64:
    """Keep the N - f updates that lie closest to their neighbours (arXiv 1703.02757).

    f is a quarter of N, at least 1. The score of each is the sum of squared distances to its
    N - f - 2 nearest; of equal scores the earlier stays. Costs accuracy where nobody attacks.

    Raises:
        RoundError: fewer than 2 f + 3 updates.
    """
    count = len(weights)
    hostile = max(1, count // 4)
    if count < 2 * hostile + 3:
        raise RoundError(
            f"multikrum needs at least {2 * hostile + 3} updates, not {count}",
            hint="Wait for more nodes, or weigh by 'rfa'.",
        )
    diagonal = np.diag(gram)
    squares = np.maximum(diagonal[:, None] + diagonal[None, :] - 2 * gram, 0.0)
    np.fill_diagonal(squares, np.inf)
    nearest = np.sort(squares, axis=1)[:, : count - hostile - 2]
    kept = np.argsort(nearest.sum(axis=1), kind="stable")[: count - hostile]
    chosen = np.zeros(count)
    chosen[kept] = weights[kept]
    return _with_sum_of(chosen, weights)


def fltrust(gram: F64, weights: F64, trusted: int = 0) -> F64:
    """Weigh by agreement with the operator's own update (FLTrust, arXiv 2012.13995).

    u_i ~ w_i max(cos_i, 0), each change shrunk to the length of the operator's, which is itself the
    measure and not counted. The paper also stretches short ones; here nobody counts more than what
    was sent.

    Args:
        gram: inner products of the changes, the operator's among them.
        weights: of each before.
        trusted: place of the operator's own.
    """
    lengths = _lengths(gram)
    own = float(lengths[trusted])
    agreement = gram[trusted] / np.maximum(lengths * own, np.finfo(np.float64).tiny)
    scores = weights * np.clip(agreement, 0.0, 1.0)
    scores[trusted] = 0.0
    total = math.fsum(scores)
    if total == 0.0 or not math.isfinite(total):
        return np.zeros(len(weights))
    shares = scores * (math.fsum(weights) / total)
    shrunk: F64 = shares * np.minimum(1.0, own / np.maximum(lengths, _tiny(own)))
    return shrunk


WEIGHERS: tuple[Weigher, ...] = (
    Weigher("clip", norm_clip, "changes longer than the median are shrunk to it"),
    Weigher("sybil", sybil, "clients that send one direction count as one"),
    Weigher("rfa", rfa, "geometric median"),
    Weigher("multikrum", multikrum, "the updates closest to their neighbours"),
    Weigher("fltrust", fltrust, "agreement with the operator's own update"),
)


def _lengths(gram: F64) -> F64:
    lengths: F64 = np.sqrt(np.maximum(np.diag(gram), 0.0))
    return lengths


def _tiny(scale: float) -> float:
    return max(scale * 1e-300, np.finfo(np.float64).tiny)


def _with_sum_of(found: F64, weights: F64) -> F64:
    total = math.fsum(found)
    return found * (math.fsum(weights) / total) if total > 0 else weights


def _groups(count: int, pairs: npt.NDArray[np.intp]) -> list[list[int]]:
    """Return the connected groups of more than one."""
    group = list(range(count))
    for one, other in pairs:
        old, new = group[one], group[other]
        group = [new if each == old else each for each in group]
    members: dict[int, list[int]] = {}
    for index, name in enumerate(group):
        members.setdefault(name, []).append(index)
    return [found for found in members.values() if len(found) > 1]
