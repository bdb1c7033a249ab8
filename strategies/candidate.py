"""From the updates that passed the screen to a candidate: weigh, reduce, step, blur."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.adapter.base_delta import add_base, compact
from federation.adapter.format import AdapterSpec
from federation.adapter.tensors import Arrays
from federation.errors import ConfigError
from strategies.books import Bases, Memory
from strategies.catalogue import find
from strategies.central_noise import SHARE, Noise, Privacy, private_weights
from strategies.gram import gram
from strategies.merge import Merged, merge_by
from strategies.optimiser import State, find_optimiser, take_step
from strategies.pairs import Update
from strategies.policy import RoundPolicy
from strategies.rule import Ctx
from strategies.screen import Accepted
from strategies.weigh import weights_for

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """Where a round begins.

    Attributes:
        spec: of the adapters.
        version: current one.
        current: its weights.
        base: what it adds to the base model.
        memory: what rounds remember.
    """

    spec: AdapterSpec
    version: int
    current: Mapping[str, F32]
    base: Arrays
    memory: Memory | None = None


@dataclass(frozen=True)
class Candidate:
    """What a round proposes.

    Attributes:
        arrays: the next adapter.
        bases: what the current version and this one add to the base model.
        shares: one per update, as they may be told.
        moments: what the server optimiser remembers of it.
        spent: privacy spent so far, as JSON; empty without.
    """

    arrays: Arrays
    bases: Bases
    shares: F64
    moments: dict[str, State] = field(default_factory=dict)
    spent: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Combined:
    """What a round's updates come to, before the server optimiser.

    Attributes:
        weights: one per update, as the rule took them.
        spent: privacy spent so far, as JSON; empty without.
    """

    merged: Merged
    weights: F64
    spent: dict[str, Any] = field(default_factory=dict)


def make(
    policy: RoundPolicy, accepted: Sequence[Accepted], updates: Sequence[Update], place: Place
) -> Candidate:
    """Merge `updates`, which the screen accepted, in the order of `accepted`.

    Raises:
        RoundError: too few for a weigher.
        ConfigError: the policy needs a memory, and there is none.
    """
    combined = combine(policy, accepted, updates, place)
    merged = combined.merged
    after = compact(add_base(place.base, merged.base), place.spec) if merged.base else place.base
    arrays, moments = step(policy, merged.adapter, place)
    shares = combined.weights
    if policy.privacy is not None:
        # a share that showed how far an update was clipped would tell its length
        shares = np.full(len(updates), 1.0 / len(updates))
    return Candidate(arrays, Bases(place.base, after), shares, moments, combined.spent)


def combine(
    policy: RoundPolicy,
    accepted: Sequence[Accepted],
    updates: Sequence[Update],
    place: Place,
    noise: np.random.Generator | None = None,
) -> Combined:
    """Weigh and reduce; with privacy, clip and blur.

    Args:
        policy: of the round.
        accepted: what the screen said of each update.
        updates: in the same order.
        place: where the round begins.
        noise: of a simulation; a server leaves it out, and the system's randomness is used.

    Raises:
        RoundError: too few for a weigher.
        ConfigError: the policy needs a memory, and there is none.
    """
    if policy.privacy is not None:
        return _blurred(policy, policy.privacy, updates, place, noise)
    weights = weights_for(accepted, policy.weigh, lambda: gram(updates, place.current, place.spec))
    return Combined(_merged(policy, updates, weights, place), weights)


def step(policy: RoundPolicy, proposed: Arrays, place: Place) -> tuple[Arrays, dict[str, State]]:
    """Return the next adapter and what the server optimiser remembers of it."""
    optimiser = find_optimiser(policy.optimiser)
    if optimiser is None:
        return proposed, {}
    before = _memory(place, optimiser.name).moments(place.version, optimiser.name)
    stepped = take_step(optimiser, place.current, proposed, before, policy.step)
    return stepped.adapter, stepped.state


def _blurred(
    policy: RoundPolicy,
    privacy: Privacy,
    updates: Sequence[Update],
    place: Place,
    drawn: np.random.Generator | None,
) -> Combined:
    memory = _memory(place, "privacy")
    factors = find(policy.strategy).traits.asks(place.version + 1).sends
    weights = private_weights(updates, privacy, place.spec, factors)
    rng = drawn or np.random.default_rng(secrets.randbits(256))
    noise = Noise(privacy, len(updates), place.spec, factors, rng)
    spent = memory.spend(privacy)
    merged = _merged(policy, [*updates, noise], np.append(weights, SHARE), place)
    return Combined(merged, weights, spent)


def _merged(policy: RoundPolicy, updates: Sequence[Update], weights: F64, place: Place) -> Merged:
    number = place.version + 1
    rng = np.random.default_rng((policy.seed, number))
    context = Ctx(round=number, rank=place.spec.rank, rng=rng)
    rule = find(policy.strategy)
    return merge_by(rule, updates, weights, place.current, place.spec, context)


def _memory(place: Place, what: str) -> Memory:
    if place.memory is None:
        raise ConfigError(f"'{what}' needs a memory of earlier rounds, and there is none")
    return place.memory
