"""Central differential privacy: each update clipped, noise on their sum, by a rule that is linear.

    change = 1/n (sum_i min(1, C / |x_i|) x_i + z C normal)

x_i is what update i changes in the factors that are sent, |x_i| the length of all of it together. A
mean of factors is moved by one node by at most C / n, so a round is the Gaussian mechanism of z for
"what one node sent, or nothing in its place". That a node took part is no secret: the manifest
names its package. It protects against whoever reads versions, not against the operator.

The noise enters as one more update of tiny weight, so that a rule which goes on from the mean, as
fedsvd does, needs to know nothing of it. The generator is seeded by the system's randomness; noise
in floating point is not proof against whoever can measure its last bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federation.adapter.delta import rank_axis
from federation.adapter.format import AdapterSpec
from federation.adapter.instructions import Factors
from federation.adapter.parts import only
from strategies.coded import NOTHING, Coded
from strategies.pairs import Update

F64 = npt.NDArray[np.float64]
SHARE = 2.0**-20  # weight of the noise: the sum of weights stays 1


@dataclass(frozen=True)
class Privacy:
    """How much a round tells at most.

    Attributes:
        clip_norm: C, L2 over all values that an update changes, > 0.
        noise_multiplier: z, > 0.
        delta: at which epsilon is told.
    """

    clip_norm: float
    noise_multiplier: float
    delta: float = 1e-5


class Noise:
    """The update that is noise alone, last in every sum.

    Args:
        privacy: how much.
        count: updates of the round.
        spec: names and shapes.
        factors: those that the round merges.
        rng: of the noise.
    """

    sha256 = "f" * 64

    def __init__(
        self,
        privacy: Privacy,
        count: int,
        spec: AdapterSpec,
        factors: Factors,
        rng: np.random.Generator,
    ) -> None:
        self._spread = privacy.noise_multiplier * privacy.clip_norm / count / SHARE
        self._shapes = only(spec.shapes, factors)
        self._rng = rng

    def coded(self, name: str) -> Coded:
        """New noise for tensor `name`, f32; `NOTHING` where the round merges no such factor."""
        if name not in self._shapes:
            return NOTHING
        values = self._spread * self._rng.standard_normal(self._shapes[name])
        return Coded.of(values.astype(np.float32), None, rank_axis(name))


def private_weights(
    updates: Sequence[Update], privacy: Privacy, spec: AdapterSpec, factors: Factors
) -> F64:
    """Return the weights of clipped updates, in their order: one n-th, or less for a long one."""
    lengths = np.array([_length(update, spec, factors) for update in updates])
    shrunk = np.minimum(1.0, privacy.clip_norm / np.maximum(lengths, 1e-300))
    weights: F64 = shrunk * (1.0 - SHARE) / max(len(updates), 1)
    return weights


def _length(update: Update, spec: AdapterSpec, factors: Factors) -> float:
    squares = []
    for name in only(spec.shapes, factors):
        values = update.coded(name).decode().astype(np.float64)
        squares.append(float(np.vdot(values, values)))
    return math.sqrt(math.fsum(squares))
