"""How much differential privacy was spent: Rényi DP of the Gaussian mechanism, and its epsilon.

    gaussian         rdp(a) = a / (2 z^2)                        (Mironov, arXiv 1702.07476, 7)
    sampled          rdp(a) = ln sum_k C(a,k) (1-q)^(a-k) q^k exp(k(k-1) / (2 z^2)) / (a-1)
                                                 (Mironov, Talwar, Zhang, arXiv 1908.10530, 3.3)
    epsilon          min over a of rdp(a) + ln((a-1) / a) - (ln delta + ln a) / (a-1)
                                                 (Canonne, Kamath, Steinke, arXiv 2004.00010, 12)

z is the noise's standard deviation over the largest change that one participant can make. Rounds
add up, order by order. Sampling counts only where each participant is drawn by itself at random
with probability q; nodes that come when they like are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
ORDERS = np.array([*range(2, 64), *range(64, 257, 8), 384, 512, 1024], np.float64)
"""Whole orders, as `sampled` needs them."""


def gaussian(noise_multiplier: float) -> F64:
    """Return the RDP of one round without sampling, for each of `ORDERS`.

    Raises:
        ValueError: the multiplier is not positive.
    """
    if not noise_multiplier > 0:
        raise ValueError(f"a noise multiplier must be positive, not {noise_multiplier}")
    return ORDERS / (2 * noise_multiplier**2)


def sampled(noise_multiplier: float, rate: float) -> F64:
    """Return the RDP of one round whose participants were drawn with probability `rate` each.

    Raises:
        ValueError: the multiplier is not positive, or the rate not within (0, 1].
    """
    if not 0 < rate <= 1:
        raise ValueError(f"a sampling rate lies within (0, 1], not {rate}")
    if rate == 1:
        return gaussian(noise_multiplier)
    gaussian(noise_multiplier)  # for its check
    return np.array([_sampled_at(int(order), noise_multiplier, rate) for order in ORDERS])


def epsilon(rdp: F64, delta: float) -> float:
    """Return the smallest epsilon that an RDP over `ORDERS` gives at `delta`.

    Raises:
        ValueError: delta is not within (0, 1).
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta lies within (0, 1), not {delta}")
    less = ORDERS - 1
    found = rdp + np.log(less / ORDERS) - (math.log(delta) + np.log(ORDERS)) / less
    return max(0.0, float(found.min()))


def total(rounds: Iterable[float]) -> F64:
    """Return the RDP of rounds without sampling, given their noise multipliers."""
    spent = np.zeros_like(ORDERS)
    for noise_multiplier in rounds:
        spent += gaussian(noise_multiplier)
    return spent


def _sampled_at(order: int, noise_multiplier: float, rate: float) -> float:
    k = np.arange(order + 1)
    log_choose = math.lgamma(order + 1) - np.array(
        [math.lgamma(i + 1) + math.lgamma(order - i + 1) for i in k]
    )
    terms = (
        log_choose
        + (order - k) * math.log1p(-rate)
        + k * math.log(rate)
        + k * (k - 1) / (2 * noise_multiplier**2)
    )
    largest = float(terms.max())
    return (largest + math.log(float(np.exp(terms - largest).sum()))) / (order - 1)
