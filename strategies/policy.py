"""Plain values of one round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from strategies.central_noise import Privacy
from strategies.optimiser import StepPolicy
from strategies.screen import ScreenPolicy
from strategies.weigh import WeighPolicy

Mode = Literal["collect", "live"]


@dataclass(frozen=True)
class RoundPolicy:
    """Plain values of one round.

    Attributes:
        mode: "collect" (packages from outboxes) or "live" (trained on the spot).
        quorum: fewest accepted updates to merge, ≥ 1.
        strategy: name of the reducer in the catalogue.
        seed: of whatever randomness the reducer uses.
        log_norms: accepted in earlier rounds, as `Outcome.log_norms` gave them.
        optimiser: name of the server optimiser, "none" for none.
        step: its values.
        privacy: clipping and noise in place of weighers and the comparison of sizes; None is none.
    """

    mode: Mode = "collect"
    quorum: int = 1
    strategy: str = "fedit"
    seed: int = 0
    log_norms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    screen: ScreenPolicy = field(default_factory=ScreenPolicy)
    weigh: WeighPolicy = field(default_factory=WeighPolicy)
    optimiser: str = "none"
    step: StepPolicy = field(default_factory=StepPolicy)
    privacy: Privacy | None = None
