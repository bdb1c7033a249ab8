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
