"""What a rule is: it makes one module of many clients into the next global one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from federation.adapter.instructions import Factors, Instructions
from strategies.pairs import ClientPair, Pair

BOTH_FACTORS = frozenset("AB")


def _both(_: int) -> frozenset[str]:
    return BOTH_FACTORS


@dataclass(frozen=True)
class Traits:
    """What a rule promises; the property suite picks its tests by these.

    Attributes:
        exact: the result is the weighted sum of the products B @ A.
        linear: on the factors, agg(x) + agg(y) = agg(x + y).
        gauge_invariant: the total change of dW is the same for (B, A) and (B G, G^-1 A).
        gauge_safe: so is the pair's own dW; else updates are screened in factor space too.
        hetero_ranks: clients may have different ranks.
        edits_base: returns a delta for the frozen base beside the pair.
        refactorises: the next pair has new coordinates; factor momentum means nothing.
        trains: round -> the factors clients train in it, a subset of {"A", "B"}.
        keeps: factors that clients train and never send: each node has a model of its own.
        averages: the next factors are the last ones, those it sends moved by the weighted mean of
            their changes: a merge takes many tensors at once then, and never calls `reduce`.
    """

    exact: bool = False
    linear: bool = False
    gauge_invariant: bool = False
    gauge_safe: bool = False
    hetero_ranks: bool = False
    edits_base: bool = False
    refactorises: bool = False
    trains: Callable[[int], frozenset[str]] = _both
    keeps: frozenset[str] = frozenset()
    averages: bool = False

    def sends(self, number: int) -> frozenset[str]:
        """Return the factors that an update may change in round `number`."""
        return self.trains(number) - self.keeps

    def asks(self, number: int) -> Instructions:
        """Return what nodes are asked to train and send for round `number`."""
        return Instructions(
            trains=_named(self.trains(number)),
            sends=_named(self.sends(number)),
            any_rank=self.hetero_ranks,
            feedback=not self.refactorises,
        )


def _named(factors: frozenset[str]) -> Factors:
    names: dict[frozenset[str], Factors] = {
        frozenset("A"): "A",
        frozenset("B"): "B",
        BOTH_FACTORS: "AB",
    }
    return names[factors]


@dataclass(frozen=True)
class Ctx:
    """What a rule may know besides its inputs.

    Attributes:
        round: number of the round, from 1.
        rank: rank of the global adapter.
        rng: the only source of randomness; seeded by the round.
        params: the rule's own settings.
    """

    round: int
    rank: int
    rng: np.random.Generator
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Out:
    """The next global pair, and a low-rank delta of the frozen base (None: untouched).

    The base's delta has the same rank in every module of a round.
    """

    pair: Pair
    base: Pair | None = None


Reducer: TypeAlias = Callable[
    [Sequence[ClientPair], npt.NDArray[np.float64], Pair, Ctx],
    Out,
]
"""(pairs of ONE module, weights, previous global pair, ctx) -> Out. Pure; inputs are read-only.

Weights are >= 0 with a sum <= 1; the rest belongs to the previous global pair.
"""


@dataclass(frozen=True)
class Rule:
    """A reducer with its name, its promises and one line for people."""

    name: str
    reduce: Reducer
    traits: Traits
    summary: str
