"""How much each accepted update counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federation.errors import ConfigError
from strategies.screen import Accepted

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WeighPolicy:
    """How updates are weighed.

    Attributes:
        by: "capped" (examples, see `capped_examples`) or "uniform" (nobody's word is taken).
        cap_factor: examples count up to this many times the median.
        half_life: versions of staleness after which an update counts half, > 0.
    """

    by: str = "capped"
    cap_factor: float = 5.0
    half_life: float = 3.0


def capped_examples(examples: Sequence[int], cap_factor: float = 5.0) -> F64:
    """Return min(max(n, 1), cap_factor * median), one per client, not normalised.

    The median is the lower one: of two nodes the modest sets the cap, so a claim of 10^9
    examples counts at most `cap_factor` times the other.
    """
    if not examples:
        return np.empty(0)
    counts = [max(count, 1) for count in examples]
    median = sorted(counts)[(len(counts) - 1) // 2]
    return np.array([min(float(count), cap_factor * median) for count in counts])


def uniform(count: int) -> F64:
    """Return `count` ones."""
    return np.ones(count)


def staleness_weight(staleness: int, half_life: float) -> float:
    """Return 2 ** (-staleness / half_life): 1 for an update of the current version.

    Raises:
        ValueError: `half_life` is not positive.
    """
    if not half_life > 0:
        raise ValueError(f"the half-life must be positive, not {half_life}")
    return float(2.0 ** (-max(staleness, 0) / half_life))


def weights_for(accepted: Sequence[Accepted], policy: WeighPolicy | None = None) -> F64:
    """Return u_i = w_i c_i, >= 0, sum <= 1, in the order of `accepted`.

    w is examples (or 1) times the staleness weight, normalised; c is the clip of the screen. What
    clipping takes away goes to the previous global adapter, not to the other clients. The same
    bits for any order.

    Raises:
        ConfigError: unknown way to weigh.
    """
    if not accepted:
        return np.empty(0)
    policy = policy or WeighPolicy()
    if policy.by not in ("capped", "uniform"):
        raise ConfigError(f"updates are weighed by 'capped' or 'uniform', not by '{policy.by}'")
    examples = [update.examples for update in accepted]
    is_uniform = policy.by == "uniform"
    counts = uniform(len(examples)) if is_uniform else capped_examples(examples, policy.cap_factor)
    ages = [staleness_weight(update.staleness, policy.half_life) for update in accepted]
    shares: F64 = counts * np.array(ages)
    total = math.fsum(shares)  # exactly rounded, hence independent of the order
    if total == 0.0:  # all too old to count in f64
        return shares
    clips = np.array([min(max(update.clip, 0.0), 1.0) for update in accepted])
    weights: F64 = shares / total * clips
    weights /= max(1.0, math.fsum(weights))
    return weights
