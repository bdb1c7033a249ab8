"""The screen of sizes over updates in memory: layer 2 of `strategies.screen`, the same scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from federation.adapter.format import AdapterSpec
from strategies.compare.wire import VirtualUpdate
from strategies.pairs import Norms, norms_of
from strategies.screen import Accepted
from strategies.sizes import SizePolicy, Space, judge_sizes

MIN_SIGMA = 0.35  # as the server's: nodes choose how long they train


@dataclass(frozen=True)
class Sifted:
    """Who takes part, and who not.

    Attributes:
        accepted: places and what `weights_for` needs of each, in order.
        refused: places.
        log_norms: space -> log-norms of the accepted, for the history.
    """

    accepted: dict[int, Accepted] = field(default_factory=dict)
    refused: tuple[int, ...] = ()
    log_norms: Mapping[Space, tuple[float, ...]] = field(default_factory=dict)


def unsifted(updates: Sequence[VirtualUpdate], examples: Sequence[int]) -> Sifted:
    """Let everybody in, unclipped."""
    both = zip(updates, examples, strict=True)
    return Sifted({place: Accepted(u.sha256, str(place), n) for place, (u, n) in enumerate(both)})


def sift(
    updates: Sequence[VirtualUpdate],
    examples: Sequence[int],
    place: tuple[Mapping[str, npt.NDArray[np.float32]], AdapterSpec],
    history: Mapping[Space, Sequence[float]],
    *,
    gauge_safe: bool,
) -> Sifted:
    """Refuse or clip by size.

    Args:
        updates: one per client.
        examples: what each says it has.
        place: the current global adapter and its spec.
        history: space -> log-norms accepted before.
        gauge_safe: leave factor space out (see `Traits`).
    """
    names = [update.sha256 for update in updates]
    sizes = dict(zip(names, map(_log_norms, norms_of(updates, *place)), strict=True))
    sound = {key: size for key, size in sizes.items() if _is_sound(size)}
    spaces = ("product",) if gauge_safe else ("product", "a", "b")
    judged = judge_sizes(sound, spaces, SizePolicy(min_sigma=MIN_SIGMA), history)
    accepted = {
        client: Accepted(update.sha256, str(client), count, judged.clips[update.sha256])
        for client, (update, count) in enumerate(zip(updates, examples, strict=True))
        if update.sha256 in judged.clips
    }
    refused = tuple(client for client in range(len(updates)) if client not in accepted)
    return Sifted(accepted, refused, judged.log_norms)


def _is_sound(size: Mapping[Space, float]) -> bool:
    """Whether it changes something, by a finite amount.

    Where B stays at home the global B is zero, and so is the change of the product.
    """
    return max(size.values()) > -math.inf and all(value < math.inf for value in size.values())


def _log_norms(found: Norms) -> dict[Space, float]:
    sizes = {"product": found.product, "a": found.a, "b": found.b}
    return {space: math.log(norm) if norm > 0 else -math.inf for space, norm in sizes.items()}
