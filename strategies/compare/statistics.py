"""How sure a difference is: intervals of paired differences, p-values, and many of them at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
RESAMPLES = 10_000
CONFIDENCE = 0.95
LEVEL = 0.05
ROUNDING = 1e-6  # a smaller share of the baseline is the order of sums in f32, however regular


@dataclass(frozen=True)
class Difference:
    """Paired differences between two arms, seed by seed; negative is better where less is.

    Attributes:
        low: lower end of the 95 % interval (percentiles of the paired bootstrap of the mean).
        high: its upper end.
        p: two-sided, of Student's paired test; 1 with fewer than two pairs.
        holm: the same after Holm's correction over its family, set by `corrected`.
        pairs: how many.
    """

    mean: float
    low: float
    high: float
    p: float
    holm: float
    pairs: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out and the corrected p-value is below 0.05."""
        return (self.low > 0 or self.high < 0) and self.holm < LEVEL


def paired(ours: Sequence[float], baseline: Sequence[float], *, seed: int = 0) -> Difference:
    """Compare two arms measured on the same seeds.

    Args:
        ours: one value per seed.
        baseline: the same seeds in the same order.
        seed: of the bootstrap; equal seeds give equal intervals.

    Raises:
        ValueError: none, or not as many.
    """
    differences = np.asarray(ours, np.float64) - np.asarray(baseline, np.float64)
    if not differences.size or len(ours) != len(baseline):
        raise ValueError(f"{len(ours)} values cannot be paired with {len(baseline)}")
    low, high = bootstrap(differences, np.random.default_rng(seed))
    p = student_p(differences)
    if abs(float(differences.mean())) <= ROUNDING * float(np.abs(baseline).mean()):
        p = 1.0
    return Difference(float(differences.mean()), low, high, p, p, differences.size)


def bootstrap(values: F64, rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean; a point where there is one value.

    With few seeds it is too narrow (five resample to at most 126 means), which is why a
    difference also has to pass Student's test.
    """
    drawn = rng.integers(0, values.size, (RESAMPLES, values.size))
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(values[drawn].mean(axis=1), [tail, 1.0 - tail])
    return float(low), float(high)


def student_p(differences: F64) -> float:
    """Return the two-sided p-value of a mean of zero, by Student's test."""
    count = differences.size
    if count < 2:
        return 1.0
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    mean = abs(float(differences.mean()))
    if error == 0.0:
        return 0.0 if mean > 0 else 1.0
    return student_tail(mean / error, count - 1)


def student_tail(t: float, freedom: int) -> float:
    """Return P(|T| > t) for whole degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for index in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (index - 1) / index
    inside = math.sin(angle) * total
    return max(0.0, 1.0 - (2 / math.pi * (angle + inside) if odd else inside))


def corrected(found: Sequence[Difference]) -> list[Difference]:
    """Return the same differences with Holm's p-values over all of them.

    Sorted, the k-th smallest of m is multiplied by m - k + 1; none is below one before it.
    """
    order = sorted(range(len(found)), key=lambda index: found[index].p)
    result, least = list(found), 0.0
    for place, index in enumerate(order):
        each = found[index]
        least = max(least, min(1.0, (len(found) - place) * each.p))
        result[index] = Difference(each.mean, each.low, each.high, each.p, least, each.pairs)
    return result
