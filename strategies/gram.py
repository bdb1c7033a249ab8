"""Inner products of all changes of dW, without any dW: what weighers and screens are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from federation.adapter.format import A as A_SUFFIX
from federation.adapter.format import AdapterSpec
from federation.adapter.format import B as B_SUFFIX
from strategies.coded import decode_across, decode_all
from strategies.pairs import F32, F64, Pair, Update, pair_of

TILE = 64  # clients
Real: TypeAlias = npt.NDArray[Any]  # f32 or f64

# Multiply-adds up to which everything is in f64, a tenth of a second. Beyond, products are in f32
# and their errors, of either sign, average out over many numbers: 1e-8 of the largest entry.
EXACT = 2e9
GOLDEN = 0.6180339887498949


def gram(
    updates: Sequence[Update], current: Mapping[str, F32], spec: AdapterSpec, *, tile: int = TILE
) -> F64:
    """Return inner products of all changes of dW, (N, N), f64.

    With X_i, Y_i the changes of B and A, a change of dW is s (X_i (A + Y_i) + B Y_i): no dense dW,
    no cancellation. All that it takes are the r x r blocks of [B, X_1, X_2, ...]^T [B, X_1, ...]
    and of the same product of A and Y: N^2 r^2 (d_in + d_out) multiply-adds, and no way around
    them is known.
    Memory: two tiles of clients, one module of each shape, and a few times (r tile)^2 numbers.

    Args:
        updates: any number; their deltas are taken on top of `current`.
        current: the current global adapter, f32; not modified.
        spec: names, shapes and scale.
        tile: clients taken together.
    """
    total = np.zeros((len(updates), len(updates)))
    tiles = [slice(first, first + tile) for first in range(0, len(updates), tile)]
    is_exact = _multiply_adds(len(updates), spec) <= EXACT
    sides = [_Side(np.dtype(np.float64 if is_exact else np.float32)) for _ in range(2)]
    for number, module in enumerate(spec.modules()):
        pair = pair_of(current, spec, module)
        factor = _factor(number)
        for index, rows in enumerate(tiles):
            left = sides[0].stack(updates[rows], pair, module, factor)
            for columns in tiles[: index + 1]:
                is_same = columns == rows
                right = left if is_same else sides[1].stack(updates[columns], pair, module, factor)
                block = pair.scale**2 * _inner(left, right, len(pair.A), factor)
                total[rows, columns] += block
                if not is_same:
                    total[columns, rows] += block.T
    symmetric: F64 = (total + total.T) / 2
    return symmetric


def _multiply_adds(count: int, spec: AdapterSpec) -> float:
    """Of both products, one triangle of each."""
    values = sum(rows * columns for rows, columns in spec.shapes.values())
    return count**2 * spec.rank * values / 2


def _factor(number: int) -> np.float32:
    """What the factors of a module are multiplied with before they are multiplied in f32.

    bf16 values have so few digits that their squares round the same way again and again: the sum
    of many comes out 4e-7 too small. Times a factor of many digits, another one in each module,
    they do not.
    """
    return np.float32(0.5 + (number + 1) * GOLDEN % 0.5)  # not 0.5 itself: it has one digit


class _Stack(NamedTuple):
    """The current factors and the changes of n clients side by side.

    Attributes:
        x: (d_out, (1 + n) r): B, X_1, X_2, ...
        y: ((1 + n) r, d_in): A, Y_1, Y_2, ...
    """

    x: Real
    y: Real


class _Side:
    """Makes stacks in arrays that are used again for each module of the same shapes."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._held: dict[tuple[int, ...], tuple[Real, Real]] = {}

    def stack(
        self, updates: Sequence[Update], pair: Pair, module: str, factor: np.float32
    ) -> _Stack:
        """Return the stack of some clients; valid until the next one is made."""
        (rank, d_in), d_out = pair.A.shape, len(pair.B)
        x, y = self._arrays(1 + len(updates), d_out, rank, d_in)
        name_a, name_b = module + A_SUFFIX, module + B_SUFFIX
        np.multiply(pair.B, factor, out=x[:, 0], dtype=self._dtype)
        np.multiply(pair.A, factor, out=y[0], dtype=self._dtype)
        decode_across([each.coded(name_b) for each in updates], factor, x[:, 1:])
        decode_all([each.coded(name_a) for each in updates], factor, y[1:])
        return _Stack(x.reshape(d_out, -1), y.reshape(-1, d_in))

    def _arrays(self, count: int, d_out: int, rank: int, d_in: int) -> tuple[Real, Real]:
        key = (count, d_out, rank, d_in)
        if key not in self._held:
            self._held[key] = (
                np.empty((d_out, count, rank), self._dtype),
                np.empty((count, rank, d_in), self._dtype),
            )
        return self._held[key]


def _inner(left: _Stack, right: _Stack, rank: int, factor: np.float32) -> F64:
    """Return <change_i, change_j>, without the scale, for all i of `left` and j of `right`."""
    of_x, of_y = left.x.T @ right.x, left.y @ right.y.T
    half = _half(of_x, of_y, rank)
    whole = half + (half.T if left is right else _half(of_x.T, of_y.T, rank).T)
    shrunk: F64 = whole * float(factor) ** -4  # each term is a number of `of_x` by one of `of_y`
    return shrunk


def _half(of_x: Real, of_y: Real, rank: int) -> F64:
    """Return half of the inner products; the other half is the same with i and j changed over.

    With P = X_i^T X_j, Q = Y_i Y_j^T, U = B^T X, V = Y A^T, all r x r, it is the sum of
    P o (Q / 2 + A A^T / 2 + V_j^T) + Q o (B^T B / 2 + U_j) + U_j o V_i.

    Args:
        of_x: [B, X_1, ...]^T [B, X_1, ...].
        of_y: [A, Y_1, ...] [A, Y_1, ...]^T.
        rank: r.
    """
    p, q = of_x[rank:, rank:], of_y[rank:, rank:]
    rows, columns = len(p) // rank, p.shape[1] // rank
    by_p, by_q = (_beside(each, rank, columns).reshape(rank, -1) for each in (of_y, of_x))
    p, q = p.reshape(rows, rank, -1), q.reshape(rows, rank, -1)
    sums = np.einsum("iak,iak->ik", p, q) / 2
    sums += np.einsum("iak,ak->ik", p, by_p) + np.einsum("iak,ak->ik", q, by_q)
    # a product with ones: numpy's sum over a short last axis takes five times as long
    found: F64 = sums.astype(np.float64).reshape(rows, columns, rank) @ np.ones(rank)
    u = of_x[:rank, rank:].reshape(rank, columns, rank).swapaxes(0, 1)
    v = of_y[rank:, :rank]
    found += v.reshape(rows, -1).astype(np.float64) @ u.reshape(columns, -1).T
    return found


def _beside(product: Real, rank: int, columns: int) -> Real:
    """Return what stands in a sum beside P (of Y's product) or Q (of X's): (r, columns, r)."""
    own, others = product[:rank, None, :rank], product[:rank, rank:]
    beside: Real = others.reshape(rank, columns, rank) + own / 2
    return beside
