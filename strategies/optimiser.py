"""Server optimisers: the change of a round is a gradient, and the server takes a step along it.

    lr         x + lr d
    momentum   m = beta m + d               x + lr m            (FedAvgM, arXiv 1909.06335)
    nesterov   m = beta m + d               x + lr (d + beta m) (as DiLoCo, arXiv 2311.08105)
    adam       m, v by beta, beta2          x + lr m / (sqrt(v) + tau)        (arXiv 2003.00295)
    yogi       v - (1 - beta2) sign(v - d²) d²                                (the same)

d is what the rule proposes less the current adapter, factor by factor. Pure: state in, state out.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from federation.adapter.tensors import Arrays
from federation.errors import ConfigError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
State: TypeAlias = dict[str, F32]
"""What one tensor remembers, by name ("m", "v"); empty before the first round."""


@dataclass(frozen=True)
class StepPolicy:
    """Plain values of a step.

    Attributes:
        lr: length of the step; 1 takes the change as it is, but for adam and yogi, whose step is
            about lr per value.
        beta: share of the momentum that stays, in [0, 1).
        beta2: the same for squares.
        tau: added to the root of squares, > 0.
    """

    lr: float = 1.0
    beta: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3


@dataclass(frozen=True)
class Optimiser:
    """One way to step: (change of a tensor, its state, policy) -> (step, next state)."""

    name: str
    step: Callable[[F64, Mapping[str, F32], StepPolicy], tuple[F64, State]]
    summary: str


@dataclass(frozen=True)
class Stepped:
    """The next adapter, and what to remember for the next round, by tensor."""

    adapter: Arrays
    state: dict[str, State] = field(default_factory=dict)


def take_step(
    optimiser: Optimiser,
    current: Mapping[str, F32],
    proposed: Mapping[str, F32],
    state: Mapping[str, Mapping[str, F32]],
    policy: StepPolicy,
) -> Stepped:
    """Step from `current` toward `proposed`; one tensor at a time is in f64.

    Args:
        optimiser: the way.
        current: f32; not modified.
        proposed: what the rule made of the round, the same names.
        state: what the step before returned; empty at the beginning; not modified.
        policy: lr and the rest.
    """
    adapter: Arrays = {}
    memory: dict[str, State] = {}
    for name in sorted(proposed):
        start = current[name].astype(np.float64)
        step, memory[name] = optimiser.step(proposed[name] - start, state.get(name, {}), policy)
        adapter[name] = (start + step).astype(np.float32)
    return Stepped(adapter, {name: kept for name, kept in memory.items() if kept})


def find_optimiser(name: str) -> Optimiser | None:
    """Return the optimiser called `name`; None for "none".

    Raises:
        ConfigError: there is none; the nearest name is given.
    """
    if name == "none":
        return None
    for optimiser in OPTIMISERS:
        if optimiser.name == name:
            return optimiser
    names = ["none", *(optimiser.name for optimiser in OPTIMISERS)]
    near = difflib.get_close_matches(name, names, n=1)
    raise ConfigError(
        f"there is no server optimiser called '{name[:40]}'",
        hint=f"Did you mean {near[0]}?" if near else f"Choose one of: {', '.join(names)}.",
    )


def _lr(change: F64, _: Mapping[str, F32], policy: StepPolicy) -> tuple[F64, State]:
    return policy.lr * change, {}


def _momentum(change: F64, state: Mapping[str, F32], policy: StepPolicy) -> tuple[F64, State]:
    speed = policy.beta * _kept(state, "m", change) + change
    return policy.lr * speed, {"m": speed.astype(np.float32)}


def _nesterov(change: F64, state: Mapping[str, F32], policy: StepPolicy) -> tuple[F64, State]:
    speed = policy.beta * _kept(state, "m", change) + change
    return policy.lr * (change + policy.beta * speed), {"m": speed.astype(np.float32)}


def _adam(change: F64, state: Mapping[str, F32], policy: StepPolicy) -> tuple[F64, State]:
    square = policy.beta2 * _kept(state, "v", change) + (1 - policy.beta2) * change**2
    return _adaptive(change, square, state, policy)


def _yogi(change: F64, state: Mapping[str, F32], policy: StepPolicy) -> tuple[F64, State]:
    before = _kept(state, "v", change)
    square = before - (1 - policy.beta2) * np.sign(before - change**2) * change**2
    return _adaptive(change, square, state, policy)


def _adaptive(
    change: F64, square: F64, state: Mapping[str, F32], policy: StepPolicy
) -> tuple[F64, State]:
    speed = policy.beta * _kept(state, "m", change) + (1 - policy.beta) * change
    step = policy.lr * speed / (np.sqrt(square) + policy.tau)
    return step, {"m": speed.astype(np.float32), "v": square.astype(np.float32)}


def _kept(state: Mapping[str, F32], name: str, like: F64) -> F64:
    return state[name].astype(np.float64) if name in state else np.zeros_like(like)


OPTIMISERS: tuple[Optimiser, ...] = (
    Optimiser("lr", _lr, "a share of the change"),
    Optimiser("momentum", _momentum, "heavy ball"),
    Optimiser("nesterov", _nesterov, "momentum that looks ahead"),
    Optimiser("adam", _adam, "steps of one size per value"),
    Optimiser("yogi", _yogi, "adam whose squares grow slowly"),
)
