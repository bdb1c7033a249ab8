"""How much each accepted update counts."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from federation.errors import ConfigError, RoundError
from strategies.screen import Accepted
from strategies.weighers import WEIGHERS, Weigh, Weigher, fltrust

F64 = npt.NDArray[np.float64]
COUNTS = ("capped", "uniform")


@dataclass(frozen=True)
class WeighPolicy:
    """How updates are weighed.

    Attributes:
        by: "capped" (examples, see `capped_examples`) or "uniform" (nobody's word is taken), and
            then, joined by "+", names of `strategies.weighers` in their order: "uniform+rfa".
            Without the first word it is "capped".
        cap_factor: examples count up to this many times the median.
        half_life: versions of staleness after which an update counts half, > 0.
        trusted: the node whose update "fltrust" measures others by.
    """

    by: str = "capped"
    cap_factor: float = 5.0
    half_life: float = 3.0
    trusted: str = ""


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


def find_weighers(by: str) -> tuple[str, tuple[Weigher, ...]]:
    """Return how examples count ("capped", "uniform") and the weighers after it.

    Raises:
        ConfigError: an unknown word; the nearest is given.
    """
    words = by.split("+")
    count = words.pop(0) if words[0] in COUNTS else COUNTS[0]
    return count, tuple(_find(word) for word in words)


def weights_for(
    accepted: Sequence[Accepted],
    policy: WeighPolicy | None = None,
    gram: Callable[[], F64] | None = None,
) -> F64:
    """Return u_i = w_i c_i, >= 0, sum <= 1, in the order of `accepted`.

    w is examples (or 1) times the staleness weight, normalised, and then what the weighers make of
    it; c is the clip of the screen, which they see the changes through. What clipping takes away
    goes to the previous global adapter, not to the other clients. Without weighers the same bits
    for any order.

    Args:
        accepted: what the screen let through.
        policy: how to weigh.
        gram: gives the inner products of the changes, in the order of `accepted`; asked only if a
            weigher needs it.

    Raises:
        ConfigError: unknown way to weigh, or no `gram` for one that needs it.
        RoundError: too few updates for a weigher, or not the one that it trusts.
    """
    if not accepted:
        return np.empty(0)
    policy = policy or WeighPolicy()
    by, weighers = find_weighers(policy.by)
    examples = [update.examples for update in accepted]
    is_uniform = by == "uniform"
    counts = uniform(len(examples)) if is_uniform else capped_examples(examples, policy.cap_factor)
    ages = [staleness_weight(update.staleness, policy.half_life) for update in accepted]
    shares: F64 = counts * np.array(ages)
    total = math.fsum(shares)  # exactly rounded, hence independent of the order
    if total == 0.0:  # all too old to count in f64
        return shares
    shares = shares / total
    clips = np.array([min(max(update.clip, 0.0), 1.0) for update in accepted])
    if weighers:
        if gram is None:
            raise ConfigError(f"'{policy.by}' needs the inner products of the changes")
        seen = gram() * np.outer(clips, clips)
        for weigher in weighers:
            shares = _ready(weigher, policy, accepted)(seen, shares)
    weights: F64 = shares * clips
    weights /= max(1.0, math.fsum(weights))
    return weights


def _ready(weigher: Weigher, policy: WeighPolicy, accepted: Sequence[Accepted]) -> Weigh:
    if weigher.weigh is not fltrust:
        return weigher.weigh
    nodes = [update.node for update in accepted]
    if policy.trusted not in nodes:
        raise RoundError(
            "fltrust: the trusted node's update is not among those that passed the screen",
            hint="Wait for it, or weigh by 'rfa'.",
        )
    return partial(fltrust, trusted=nodes.index(policy.trusted))


def _find(name: str) -> Weigher:
    for weigher in WEIGHERS:
        if weigher.name == name:
            return weigher
    names = [*COUNTS, *(weigher.name for weigher in WEIGHERS)]
    near = difflib.get_close_matches(name, names, n=1)
    raise ConfigError(
        f"there is no weigher called '{name[:40]}'",
        hint=f"Did you mean {near[0]}?" if near else f"Choose one of: {', '.join(names)}.",
    )
