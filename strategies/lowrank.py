"""Sums of products in factors: stacks, the best pair of a rank, the pair of another rank.

No dense dW: a stack of N clients has N r columns, and everything happens in its Gram matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from strategies.pairs import Factors, Pair

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
NO_REST = 1e-9  # weights are sums of f64: less than this is rounding
DEAD = 1e-7  # a singular value below this share of the largest is rounding of f32


def with_rest(pairs: Sequence[Factors], weights: F64, previous: Pair) -> tuple[list[Factors], F64]:
    """Return pairs and weights of sum 1: `previous` takes what the clients leave over."""
    rest = 1.0 - math.fsum(weights)
    if rest <= NO_REST:
        return list(pairs), weights
    return [*pairs, previous], np.append(weights, rest)


def fresh_rows(rows: int, d_in: int, rng: np.random.Generator) -> F32:
    """Return new rows of A as PEFT begins them: uniform in ±1/sqrt(d_in)."""
    bound = 1.0 / math.sqrt(d_in)
    return rng.uniform(-bound, bound, (rows, d_in)).astype(np.float32)


def fit_rank(pair: Pair, rank: int, scale: float) -> Pair:
    """Return what a client of another rank or scale is sent: leading rows, the same dW in them.

    The rows and columns that a higher rank has more are zero.
    """
    kept = min(rank, len(pair.A))
    a = np.zeros((rank, pair.A.shape[1]), np.float32)
    b = np.zeros((pair.B.shape[0], rank), np.float32)
    a[:kept] = pair.A[:kept]
    b[:, :kept] = pair.B[:, :kept] * np.float64(pair.scale / scale)
    return Pair(a, b, scale)


def best_rank(pairs: Sequence[Factors], weights: F64, like: Pair, rng: np.random.Generator) -> Pair:
    """Return the pair of the rank and scale of `like` nearest to the weighted sum of products.

    With (U, S, V) the leading singular triplets of the sum: B = U sqrt(S) / scale and
    A = sqrt(S) V^T, largest first. Where S is zero a pair would never train again: there A gets
    fresh rows and B stays zero.

    Args:
        pairs: any ranks and scales.
        weights: one per pair.
        like: rank, scale and shapes of the result.
        rng: of the fresh rows; used only where S is zero.
    """
    rows = [pair.A for pair in pairs]  # decoded on each access
    left = np.concatenate([pair.B for pair in pairs], axis=1, dtype=np.float64)
    right = np.concatenate(rows, axis=0, dtype=np.float64)
    shares = [w * pair.scale for pair, w in zip(pairs, weights, strict=True)]
    share = np.repeat(shares, [len(each) for each in rows])[:, None]
    rank, d_in = like.A.shape
    vectors = _right_vectors(left, share, right, min(rank, *right.shape, left.shape[0]))
    mapped = left @ (share * (right @ vectors))  # U S
    sizes = np.linalg.norm(mapped, axis=0)
    order = np.argsort(-sizes, kind="stable")
    alive = order[sizes[order] > DEAD * sizes.max(initial=0.0)]
    roots = np.sqrt(sizes[alive])
    a, b = np.zeros(like.A.shape, np.float32), np.zeros(like.B.shape, np.float32)
    a[: len(alive)] = (vectors[:, alive] * roots).T
    b[:, : len(alive)] = mapped[:, alive] / (roots * like.scale)
    a[len(alive) :] = fresh_rows(rank - len(alive), d_in, rng)
    return Pair(a, b, like.scale)


def _right_vectors(left: F64, share: F64, right: F64, count: int) -> F64:
    """Return the leading right singular vectors of left @ (share * right), (d_in, count).

    Through the roots of both Gram matrices: a third of the time of two QR, and as exact as f32
    factors are. The SVD itself is of their product, never of its square. Columns of B are first
    made as long as their rows of A: their sizes are free (B t, A / t is the same product), and a
    client with a large t would drown the others in rounding.
    """
    inner_left, inner_right = left.T @ left, right @ right.T
    inner_left *= share * share.T
    sizes = np.sqrt(np.diag(inner_left)), np.sqrt(np.diag(inner_right))
    used = (sizes[0] > 0) & (sizes[1] > 0)
    even = np.where(used, sizes[1], 1.0) / np.where(used, sizes[0], 1.0)
    even = np.sqrt(even)[:, None]
    root = _root(inner_left * (even * even.T))
    u, values, _ = np.linalg.svd(root @ _root(inner_right / (even * even.T)).T)
    kept = min(count, int(np.count_nonzero(values > DEAD * values.max(initial=0.0))))
    small = (u[:, :kept].T @ root) / (even.T * values[:kept, None])
    vectors: F64 = np.linalg.qr((small @ right).T)[0]
    return vectors


def _root(square: F64) -> F64:
    """Return R with R^T R = square, which is symmetric and has no negative eigenvalue.

    The triangle of Cholesky costs a tenth of the eigenvalues that are needed where one is zero.
    """
    try:
        return np.linalg.cholesky(square, upper=True).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(square)
    root: F64 = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    return root
