"""The gate: is the candidate better than the current adapter? Pure: losses in, a verdict out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

CHUNK = 2**20  # drawn indices at once: 8 MiB


@dataclass(frozen=True)
class GatePolicy:
    """Limits of the gate.

    Attributes:
        tolerance: share of the current loss that counts as noise.
        resamples: of the bootstrap.
        confidence: of the interval.
    """

    tolerance: float = 0.005
    resamples: int = 2000
    confidence: float = 0.95


@dataclass(frozen=True)
class Comparison:
    """Candidate against current on one set of documents; mean losses in nats per token.

    Attributes:
        difference: after - before; negative is better.
        low: lower end of the paired-bootstrap interval of the difference.
        high: its upper end.
        documents: how many.
    """

    before: float
    after: float
    difference: float
    low: float
    high: float
    documents: int


@dataclass(frozen=True)
class GateDecision:
    """The verdict, one sentence for it, and the numbers behind it.

    Attributes:
        overall: None where there was nothing to compare.
        languages: language -> comparison, sorted.
    """

    accepted: bool
    reason: str
    overall: Comparison | None = None
    languages: dict[str, Comparison] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON content, finite numbers only."""
        return asdict(self)


def decide(
    current_losses: F64,
    candidate_losses: F64,
    langs: Sequence[str],
    policy: GatePolicy,
    rng_seed: int,
) -> GateDecision:
    """Accept the candidate or keep the current adapter.

    With d = candidate - current per document, m = mean(d), [low, high] the percentile interval of
    the paired bootstrap of m, and tol = tolerance * mean(current), all over the same documents, the
    candidate is accepted if and only if

    1. every loss of both is finite, and there is at least one document;
    2. overall, m < 0: equal is not better;
    3. overall, high <= tol: were it worse after all, it would be by less than noise;
    4. in no language both m > tol and low > 0: no language is clearly worse.

    Args:
        current_losses: nats per token, one per document, f64 (n,); not modified.
        candidate_losses: the same documents in the same order.
        langs: the language of each document.
        policy: limits.
        rng_seed: equal seeds give equal decisions.

    Raises:
        ValueError: the three do not have the same length.
    """
    before = np.asarray(current_losses, np.float64)
    after = np.asarray(candidate_losses, np.float64)
    if not before.shape == after.shape == (len(langs),):
        raise ValueError(f"{before.shape}, {after.shape} losses for {len(langs)} documents")
    if before.size == 0:
        return GateDecision(False, "There is no document to compare on.")
    for name, losses in (("candidate", after), ("current adapter", before)):
        broken = int((~np.isfinite(losses)).sum())
        if broken:
            reason = f"The {name} has no finite loss on {broken} of {before.size} documents."
            return GateDecision(False, reason)
    overall = compare(before, after, policy, np.random.default_rng([rng_seed, 0]))
    languages = {}
    for index, lang in enumerate(sorted(set(langs)), start=1):
        chosen = np.array([each == lang for each in langs])
        rng = np.random.default_rng([rng_seed, index])
        languages[lang] = compare(before[chosen], after[chosen], policy, rng)
    accepted, reason = _verdict(overall, languages, policy)
    return GateDecision(accepted, reason, overall, languages)


def compare(before: F64, after: F64, policy: GatePolicy, rng: np.random.Generator) -> Comparison:
    """Compare paired losses, with the percentile interval of the mean difference.

    Args:
        before: finite, f64 (n,), n >= 1.
        after: the same documents.
        policy: resamples and confidence.
        rng: consumed.
    """
    differences = after - before
    means = _resampled_means(differences, policy.resamples, rng)
    tail = (1.0 - policy.confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Comparison(
        before=float(before.mean()),
        after=float(after.mean()),
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        documents=int(before.size),
    )


def _resampled_means(values: F64, resamples: int, rng: np.random.Generator) -> F64:
    means = np.empty(resamples)
    step = max(1, CHUNK // values.size)
    for begin in range(0, resamples, step):
        part = means[begin : begin + step]
        part[:] = values[rng.integers(0, values.size, (part.size, values.size))].mean(axis=1)
    return means


def _verdict(
    overall: Comparison, languages: dict[str, Comparison], policy: GatePolicy
) -> tuple[bool, str]:
    numbers = f"{overall.before:.4f} → {overall.after:.4f} nats per token"
    interval = f"interval {overall.low:+.4f} … {overall.high:+.4f}"
    if overall.difference >= 0:
        return False, f"The candidate is no better than the current adapter: {numbers}."
    if overall.high > policy.tolerance * overall.before:
        return False, f"The candidate is not reliably better: {numbers}, {interval}."
    for lang, found in languages.items():
        if found.difference > policy.tolerance * found.before and found.low > 0:
            return False, (
                f"The candidate is worse in '{lang}' ({found.before:.4f} → {found.after:.4f}, "
                f"interval {found.low:+.4f} … {found.high:+.4f}), though overall {numbers}."
            )
    return True, f"The candidate is better: {numbers}, {interval}, {overall.documents} documents."
