"""What an arm may have beside rule, weigher and optimiser: noise, and Flower's own strategies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from federation import accountant
from federation.errors import ConfigError
from strategies.catalogue import find
from strategies.central_noise import Privacy
from strategies.optimiser import State
from strategies.rule import Rule, Traits

if TYPE_CHECKING:
    from strategies.flower_baselines import Baseline

F32 = npt.NDArray[np.float32]
FLOWER = "flower-"
PLACES = ("central", "local")
DELTA = 1e-5


@dataclass(frozen=True)
class Noise:
    """Where a change is clipped and blurred.

    Attributes:
        place: "none", "central" (on the server, `strategies.central_noise`), or "local" (by each
            client, before it sends).
        multiplier: z, standard deviation of the noise over `clip_norm`.
        clip_norm: C, L2 over all values that are sent.
    """

    place: str = "none"
    multiplier: float = 0.0
    clip_norm: float = 0.0

    @property
    def privacy(self) -> Privacy | None:
        """What a server's round is told."""
        if self.place != "central":
            return None
        return Privacy(self.clip_norm, self.multiplier, DELTA)

    def epsilon(self, rounds: int) -> float:
        """Spent after so many rounds at delta 1e-5, of one client's part; infinite without noise.

        Local: any two changes differ by 2 C, so each package is the mechanism of z / 2.
        """
        if self.place == "none":
            return math.inf
        multiplier = self.multiplier / 2 if self.place == "local" else self.multiplier
        return accountant.epsilon(accountant.total([multiplier] * rounds), DELTA)


def parse_noise(text: str) -> Noise:
    """Read "none", "central:Z:C" or "local:Z:C".

    Raises:
        ConfigError: something else.
    """
    if text == "none":
        return Noise()
    place, _, numbers = text.partition(":")
    try:
        multiplier, clip_norm = (float(number) for number in numbers.split(":"))
    except ValueError:
        multiplier = clip_norm = 0.0
    is_sound = 0 < multiplier < math.inf and 0 < clip_norm < math.inf
    if place not in PLACES or not is_sound:
        raise ConfigError(
            f"'{text[:40]}' is no noise",
            hint="Write central:Z:C or local:Z:C, Z and C above 0: central:1:0.5.",
        )
    return Noise(place, multiplier, clip_norm)


def rule_named(name: str) -> Rule:
    """Return the rule of the catalogue, or what stands for one of Flower's strategies.

    Raises:
        ConfigError: neither.
    """
    if not name.startswith(FLOWER):
        return find(name)
    baseline = baseline_named(name)
    return Rule(baseline.name, _never, Traits(), baseline.summary)


def baseline_named(name: str) -> Baseline:
    """Return one of Flower's strategies; loads flwr.

    Raises:
        ConfigError: there is none of this name.
    """
    from strategies.flower_baselines import BASELINES

    found = {each.name: each for each in BASELINES}
    if name not in found:
        raise ConfigError(f"'{name[:40]}' is unknown", hint=f"Flower's are {', '.join(found)}.")
    return found[name]


class CellMemory:
    """What the rounds of one cell remember (a `strategies.books.Memory`), in memory."""

    def __init__(self) -> None:
        self._moments: dict[str, State] = {}
        self._multipliers: list[float] = []

    def moments(self, version: int, optimiser: str) -> dict[str, State]:
        """Those of the last round."""
        _ = version, optimiser
        return self._moments

    def keep_moments(
        self, arrays: Mapping[str, F32], optimiser: str, state: Mapping[str, Mapping[str, F32]]
    ) -> None:
        """Keep them until the next round."""
        _ = arrays, optimiser
        self._moments = {name: dict(each) for name, each in state.items()}

    def spend(self, privacy: Privacy) -> dict[str, Any]:
        """Count one round's noise."""
        self._multipliers.append(privacy.noise_multiplier)
        spent = accountant.total(self._multipliers)
        return {"epsilon": accountant.epsilon(spent, privacy.delta)}


def _never(*_: object) -> Any:  # noqa: ANN401 - a Reducer that is not one
    raise NotImplementedError("Flower merges by itself")
