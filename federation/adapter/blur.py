"""A change clipped and blurred: the Gaussian mechanism on all values that are sent, together."""

from __future__ import annotations

import math

import numpy as np

from federation.adapter.tensors import Arrays


def blurred(
    change: Arrays, clip_norm: float, noise_multiplier: float, rng: np.random.Generator
) -> Arrays:
    """Return the change clipped, and then with noise; f32, the same names.

    Args:
        change: what would be sent; not modified.
        clip_norm: L2 bound over all values, > 0.
        noise_multiplier: standard deviation of the noise over `clip_norm`.
        rng: of the noise.
    """
    squares = (float(np.vdot(v, v)) for v in (v.astype(np.float64) for v in change.values()))
    norm = math.sqrt(math.fsum(squares))
    share = min(1.0, clip_norm / norm) if norm > 0 else 1.0
    spread = noise_multiplier * clip_norm
    return {
        name: (share * value + spread * rng.standard_normal(value.shape)).astype(np.float32)
        for name, value in change.items()
    }
