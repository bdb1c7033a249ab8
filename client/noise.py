"""Local differential privacy: a change is clipped and blurred before it is packaged.

On the factors that are sent, all values together: what counts is what leaves this machine. Any two
changes of a node differ by at most twice `clip_norm`, so one package of a noise multiplier z is the
Gaussian mechanism of z / 2. The noise is a floating-point Gaussian of a generator that the system's
randomness seeds: that is not proof against whoever can measure its last bits.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

import numpy as np

from federation import accountant
from federation.adapter.blur import blurred
from federation.adapter.tensors import Arrays
from federation.errors import ConfigError
from federation.language import _

DELTA = 1e-5


@dataclass(frozen=True)
class Blur:
    """How a change is blurred.

    Attributes:
        clip_norm: L2 bound over all values sent, in weight units; 0 is none.
        noise_multiplier: standard deviation of the noise over `clip_norm`.

    Raises:
        ConfigError: noise without a bound promises nothing.
    """

    clip_norm: float = 0.0
    noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        if self.noise_multiplier > 0 and self.clip_norm == 0:
            raise ConfigError(
                _("`noise_multiplier` without `clip_norm` promises nothing."),
                hint=_("Set `sharing.clip_norm` too."),
            )

    @property
    def epsilon(self) -> float:
        """Of one package, at delta 1e-5; infinite without noise."""
        if self.noise_multiplier == 0:
            return math.inf
        return accountant.epsilon(accountant.gaussian(self.noise_multiplier / 2), DELTA)

    def apply(self, change: Arrays, rng: np.random.Generator | None = None) -> Arrays:
        """Return the change clipped, and then with noise; f32, the same names.

        Args:
            change: what would be sent; not modified.
            rng: of the noise; None seeds one from the system.
        """
        if self.clip_norm == 0:
            return change
        rng = rng or np.random.default_rng(secrets.randbits(256))
        return blurred(change, self.clip_norm, self.noise_multiplier, rng)
