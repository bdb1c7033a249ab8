"""A LoRA module as a pair of factors, whole adapters as pairs, and geometry of dW without dW."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from federation.adapter.format import A as A_SUFFIX
from federation.adapter.format import AdapterSpec
from federation.adapter.format import B as B_SUFFIX
from federation.adapter.tensors import Arrays
from strategies.coded import Coded, decode_all

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


class ClientPair(NamedTuple):
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
    return client_pairs([update], current, module)[0]


def client_pairs(updates: Sequence[Update], current: Pair, module: str) -> list[ClientPair]:
    """As `client_pair`, of several updates."""
    a, b = module + A_SUFFIX, module + B_SUFFIX
    shapes = current.A.shape, current.B.shape  # numpy makes a tuple at each access
    found = []
    for update in updates:
        delta_a, delta_b = update.coded(a), update.coded(b)
        start = current
        if (delta_a.shape, delta_b.shape) != shapes:
            rank = (delta_a.shape or delta_b.shape[::-1] or shapes[0])[0]
            start = leading_rows(current, rank)
            delta_a, delta_b = delta_a.over(start.A.shape), delta_b.over(start.B.shape)
        found.append(ClientPair(start, delta_a, delta_b))
    return found


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
    return norms_of([update], current, spec)[0]


def norms_of(
    updates: Sequence[Update], current: Mapping[str, F32], spec: AdapterSpec
) -> list[Norms]:
    """Measure updates as `norms` does, all of them in one pass; one module of all is in memory.

    With X, Y the changes of B and A, the square of X A + B Y + X Y is a sum of products of r x r
    matrices: of P = X^T X, Q = Y Y^T, U = B^T X and V = Y A^T.
    """
    squares = np.zeros((len(updates), 3))
    one = np.float32(1)
    for module in spec.modules():
        pair = pair_of(current, spec, module)
        a, b = pair.A.astype(np.float64), pair.B.astype(np.float64)
        x, y = np.empty((len(updates), *b.shape)), np.empty((len(updates), *a.shape))
        decode_all([update.coded(module + B_SUFFIX) for update in updates], one, x)
        decode_all([update.coded(module + A_SUFFIX) for update in updates], one, y)
        p, q = x.swapaxes(1, 2) @ x, y @ y.swapaxes(1, 2)
        u, v = b.T @ x, y @ a.T
        terms = p * (q + a @ a.T + 2 * v) + q * (b.T @ b + 2 * u) + 2 * u * v
        squares[:, 0] += pair.scale**2 * terms.sum(axis=(1, 2))
        squares[:, 1] += q.trace(axis1=1, axis2=2)
        squares[:, 2] += p.trace(axis1=1, axis2=2)
    # a sum of products may come out as -1e-17 where it is zero
    return [Norms(*row) for row in np.sqrt(np.maximum(squares, 0.0)).tolist()]
