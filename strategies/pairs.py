"""A LoRA module as a pair of factors, whole adapters as pairs, and geometry of dW without dW."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from federation.adapter.format import A as A_SUFFIX
from federation.adapter.format import AdapterSpec
from federation.adapter.format import B as B_SUFFIX
from federation.adapter.tensors import Arrays
from strategies.coded import Coded

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
TILE = 64  # clients
PART = 256  # columns of A or rows of B in f64 at once: 1 MiB of 32 clients at r = 16


class Factors(Protocol):
    """Anything that stands for dW = scale * B @ A."""

    @property
    def A(self) -> F32:  # noqa: N802
        """(r, d_in)."""
        ...

    @property
    def B(self) -> F32:  # noqa: N802
        """(d_out, r)."""
        ...

    @property
    def scale(self) -> float:
        """Factor of B @ A."""
        ...


class Update(Protocol):
    """One node's change of the global adapter, read tensor by tensor."""

    @property
    def sha256(self) -> str:
        """Hash of the package; the order of every sum."""
        ...

    def coded(self, name: str) -> Coded:
        """Tensor `name` of the delta, perhaps its leading rows; `NOTHING` if it stays as it is."""
        ...


@dataclass(frozen=True)
class Pair:
    """One LoRA module, f32: dW = scale * B @ A.

    Attributes:
        A: (r, d_in).
        B: (d_out, r).
        scale: alpha / r, or alpha / sqrt(r) with rsLoRA.
    """

    A: F32
    B: F32
    scale: float


@dataclass(frozen=True)
class ClientPair:
    """One client's pair: what it changed, put on top of the current global pair.

    A and B are decoded anew on each access (f32, new arrays); rules that need only the changes
    use `delta_a` and `delta_b`.
    """

    current: Pair
    delta_a: Coded
    delta_b: Coded

    @property
    def A(self) -> F32:  # noqa: N802
        """(r, d_in)."""
        return self.current.A + self.delta_a.decode()

    @property
    def B(self) -> F32:  # noqa: N802
        """(d_out, r)."""
        return self.current.B + self.delta_b.decode()

    @property
    def scale(self) -> float:
        """That of the current pair."""
        return self.current.scale


@dataclass(frozen=True)
class Adapter:
    """Pairs by module path."""

    pairs: Mapping[str, Pair]


@dataclass(frozen=True)
class Norms:
    """Frobenius norms of one update over all modules, f64.

    Attributes:
        product: of the change of dW.
        a: of the change of A.
        b: of the change of B.
    """

    product: float
    a: float
    b: float


def pair_of(arrays: Mapping[str, F32], spec: AdapterSpec, module: str) -> Pair:
    """Return the pair of one module; views, not copies."""
    return Pair(arrays[module + A_SUFFIX], arrays[module + B_SUFFIX], spec.scale)


def client_pair(update: Update, current: Pair, module: str) -> ClientPair:
    """Put the delta of one module on top of the current global pair, lazily.

    A client of a lower rank was sent the leading rows: on top of those.
    """
    delta_a, delta_b = update.coded(module + A_SUFFIX), update.coded(module + B_SUFFIX)
    rank = (delta_a.shape or delta_b.shape[::-1] or current.A.shape)[0]
    start = leading_rows(current, rank)
    return ClientPair(start, delta_a.over(start.A.shape), delta_b.over(start.B.shape))


def leading_rows(pair: Pair, rank: int) -> Pair:
    """Return the first `rank` rows of A and columns of B, with the same scale; views."""
    return pair if rank >= len(pair.A) else Pair(pair.A[:rank], pair.B[:, :rank], pair.scale)


def to_adapter(arrays: Mapping[str, F32], spec: AdapterSpec) -> Adapter:
    """Group tensors by module; views, not copies."""
    return Adapter({module: pair_of(arrays, spec, module) for module in spec.modules()})


def to_arrays(adapter: Adapter) -> Arrays:
    """Name the factors as PEFT does; views, not copies."""
    arrays: Arrays = {}
    for module, pair in adapter.pairs.items():
        arrays[module + A_SUFFIX], arrays[module + B_SUFFIX] = pair.A, pair.B
    return dict(sorted(arrays.items()))


def stack(pairs: Sequence[Factors], weights: F64) -> Pair:
    """Return the exact weighted sum of the products as one pair with scale 1.

    A = [A_1; A_2; …], B = [w_1 s_1 B_1, w_2 s_2 B_2, …]; ranks may differ.
    """
    rows = np.concatenate([pair.A for pair in pairs], axis=0)
    scaled = [pair.B * np.float64(w * pair.scale) for pair, w in zip(pairs, weights, strict=True)]
    return Pair(rows, np.concatenate(scaled, axis=1).astype(np.float32), 1.0)


def gram(
    updates: Sequence[Update], current: Mapping[str, F32], spec: AdapterSpec, *, tile: int = TILE
) -> F64:
    """Return inner products of all changes of dW, (N, N), f64.

    With X_i, Y_i the changes of B and A, a change of dW is s (X_i A_g + B_g Y_i + X_i Y_i): no
    dense dW, no cancellation. All but <X_i Y_i, X_j Y_j> are inner products of vectors as long as
    an adapter, in f64, made for a part of a module at a time; that last one, which is small of
    fourth order, is summed over blocks in f32. It takes half of the time, and no way around it is
    known: N^2 r^2 (d_in + d_out) operations.
    Memory: one module of two tiles of clients in f32, and (r tile)^2 numbers.

    Args:
        updates: any number; their deltas are taken on top of `current`.
        current: the current global adapter, f32; not modified.
        spec: names, shapes and scale.
        tile: clients taken together.
    """
    total = np.zeros((len(updates), len(updates)))
    tiles = [slice(first, first + tile) for first in range(0, len(updates), tile)]
    for module in spec.modules():
        pair = pair_of(current, spec, module)
        for index, rows in enumerate(tiles):
            left = _terms_of(updates[rows], pair, module)
            for columns in tiles[: index + 1]:
                right = left if columns == rows else _terms_of(updates[columns], pair, module)
                block = pair.scale**2 * _inner_terms(left, right)
                total[rows, columns] += block
                if columns != rows:
                    total[columns, rows] += block.T
    symmetric: F64 = (total + total.T) / 2
    return symmetric


def norms(update: Update, current: Mapping[str, F32], spec: AdapterSpec) -> Norms:
    """Measure one update in dW space and in factor space."""
    product = a = b = 0.0
    for module in spec.modules():
        pair = pair_of(current, spec, module)
        factors = _factors_of([update], pair, module)
        change_b, change_a = factors.left[:, : spec.rank], factors.right[0, spec.rank :]
        product += pair.scale**2 * float(_inner(factors, factors)[0, 0])
        a += float(np.vdot(change_a, change_a))
        b += float(np.vdot(change_b, change_b))
    # a sum of squares of rank 2r may come out as -1e-17 where it is zero
    return Norms(*(math.sqrt(max(square, 0.0)) for square in (product, a, b)))


@dataclass(frozen=True)
class _Changes:
    """Changes of dW of several clients in one module, without the scale, f64.

    Attributes:
        left: (d_out, clients * 2r), [B_i - B_g, B_g] side by side.
        right: (clients, 2r, d_in), [A_i ; A_i - A_g].
    """

    left: F64
    right: F64


def _factors_of(updates: Sequence[Update], pair: Pair, module: str) -> _Changes:
    rank, d_in = pair.A.shape
    left = np.zeros((pair.B.shape[0], len(updates), 2 * rank))
    right = np.zeros((len(updates), 2 * rank, d_in))
    left[:, :, rank:] = pair.B[:, None, :]
    for index, update in enumerate(updates):
        client = client_pair(update, pair, module)
        own = len(client.current.A)
        left[:, index, :own] = client.delta_b.decode()
        right[index, rank : rank + own] = client.delta_a.decode()
        np.add(pair.A, right[index, rank:], out=right[index, :rank])
    return _Changes(left.reshape(left.shape[0], -1), right)


def _inner(one: _Changes, other: _Changes) -> F64:
    """Return <one_i, other_j> for all i, j: the sum of (A_i A_j^T) o (B_i^T B_j)."""
    width = one.right.shape[1]
    rows = one.right.reshape(-1, one.right.shape[2])
    columns = other.right.reshape(-1, other.right.shape[2])
    products = (rows @ columns.T) * (one.left.T @ other.left)
    blocks = products.reshape(len(one.right), width, len(other.right), width)
    total: F64 = blocks.sum(axis=(1, 3))
    return total


@dataclass(frozen=True)
class _Terms:
    """Changes of one module of several clients, n of them, as `gram` needs them.

    Attributes:
        x: (d_out, n, r), f32: changes X of B.
        y: (n, r, d_in), f32: changes Y of A.
        u, v: (n, r, r), f64: B_g^T X and Y A_g^T.
        bend_x, bend_y: (n, r, r), f64: A_g A_g^T / 2 + V and B_g^T B_g / 2 + U.
    """

    x: F32
    y: F32
    u: F64
    v: F64
    bend_x: F64
    bend_y: F64


def _terms_of(updates: Sequence[Update], pair: Pair, module: str) -> _Terms:
    (rank, d_in), d_out, count = pair.A.shape, pair.B.shape[0], len(updates)
    x = np.zeros((d_out, count, rank), np.float32)
    y = np.zeros((count, rank, d_in), np.float32)
    for index, update in enumerate(updates):
        client = client_pair(update, pair, module)
        own = len(client.current.A)
        x[:, index, :own] = client.delta_b.decode()
        y[index, :own] = client.delta_a.decode()
    a, b = pair.A.astype(np.float64), pair.B.astype(np.float64)
    u, v = np.zeros((count, rank, rank)), np.zeros((count, rank, rank))
    for part in _parts(d_out):
        u += b[part].T @ _wide(x[part].swapaxes(0, 1))
    for part in _parts(d_in):
        v += _wide(y[:, :, part]) @ a[:, part].T
    return _Terms(x, y, u, v, a @ a.T / 2 + v, b.T @ b / 2 + u)


def _inner_terms(one: _Terms, other: _Terms) -> F64:
    """Return <change_i, change_j>, without the scale, for all i, j."""
    (d_out, count, rank), d_in = one.x.shape, one.y.shape[2]
    products = one.x.reshape(d_out, -1).T @ other.x.reshape(d_out, -1)
    products *= one.y.reshape(-1, d_in) @ other.y.reshape(-1, d_in).T
    blocks = products.reshape(count, rank, -1, rank)
    found: F64 = np.einsum("iajb->ij", blocks, dtype=np.float64)
    half = _half(one, other)
    found += half
    found += half.T if one is other else _half(other, one).T
    return found


def _half(one: _Terms, other: _Terms) -> F64:
    """Return <X_i, X_j (A A^T / 2 + V_j)> + <Y_i, (B^T B / 2 + U_j) Y_j> + <U_i, V_j>."""
    found: F64 = _flat(one.u) @ _flat(other.v).T
    for part in _parts(len(one.x)):
        x = _wide(one.x[part].swapaxes(0, 1))
        bent = x if one is other else _wide(other.x[part].swapaxes(0, 1))
        found += _flat(x) @ _flat(bent @ other.bend_x).T
    for part in _parts(one.y.shape[2]):
        y = _wide(one.y[:, :, part])
        bent = y if one is other else _wide(other.y[:, :, part])
        found += _flat(y) @ _flat(other.bend_y @ bent).T
    return found


def _wide(values: F32) -> F64:
    return values.astype(np.float64, order="C")


def _flat(values: F64) -> F64:
    """One row a client."""
    return values.reshape(len(values), -1)


def _parts(length: int) -> list[slice]:
    return [slice(first, first + PART) for first in range(0, length, PART)]
