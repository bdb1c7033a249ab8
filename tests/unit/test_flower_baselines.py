"""Flower's robust strategies as baselines: what they compute, and that it is about factors."""

from __future__ import annotations

import numpy as np
import pytest

from federation.adapter.format import A, Arrays, B
from federation.errors import RoundError
from strategies.flower_baselines import BASELINES, Baseline, merge_by
from tests.adapter_samples import make_spec, random_arrays
from tests.round_bench import equal
from tests.update_samples import MemoryUpdate

pytestmark = pytest.mark.strategies
SPEC = make_spec(layers=1, rank=4, linears={"self_attn.q_proj": (16, 16)})
CURRENT = random_arrays(SPEC, 0, 0.1)
EACH = pytest.mark.parametrize("baseline", BASELINES, ids=lambda found: found.name)


def find(name: str) -> Baseline:
    return next(baseline for baseline in BASELINES if baseline.name == name)


def updates(deltas: list[Arrays]) -> list[MemoryUpdate]:
    return [MemoryUpdate(f"{i:064x}", delta) for i, delta in enumerate(deltas)]


def crowd(count: int, size: float = 0.01) -> list[Arrays]:
    return [random_arrays(SPEC, seed, size) for seed in range(1, count + 1)]


def test_the_median_is_that_of_every_value() -> None:
    deltas = crowd(5)
    found = merge_by(find("flower-median"), updates(deltas), CURRENT, SPEC)
    for name in CURRENT:
        values = np.stack([CURRENT[name] + delta[name] for delta in deltas])
        np.testing.assert_array_equal(found[name], np.median(values, axis=0))


@EACH
def test_one_wild_client_of_seven_does_not_carry_the_merge_away(baseline: Baseline) -> None:
    deltas = crowd(7)
    deltas[3] = {name: 1e6 * value for name, value in deltas[3].items()}
    found = merge_by(baseline, updates(deltas), CURRENT, SPEC, hostile=1)
    assert max(np.abs(found[name] - CURRENT[name]).max() for name in found) < 0.1


@EACH
def test_turned_factors_of_one_product_are_not_seen_as_one(baseline: Baseline) -> None:
    """The reason for the label: all seven send the same dW."""
    rng = np.random.default_rng(0)
    module = SPEC.modules()[0]
    a, b = CURRENT[module + A], CURRENT[module + B]
    turned = []
    for _ in range(7):
        turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
        mine = {module + A: turn.T @ a, module + B: b @ turn}
        turned.append({n: (mine[n] - CURRENT[n]).astype(np.float32) for n in CURRENT})
    found = merge_by(baseline, updates(turned), CURRENT, SPEC, hostile=1)
    gap = np.linalg.norm(found[module + B] @ found[module + A] - b @ a) / np.linalg.norm(b @ a)
    if baseline.name == "flower-krum":  # it takes one client as it is
        assert gap < 1e-5
    else:
        assert gap > 0.1


@EACH
def test_the_order_does_not_matter_and_inputs_stay(baseline: Baseline) -> None:
    deltas = crowd(7)
    copies = [{n: v.copy() for n, v in delta.items()} for delta in deltas]
    found = merge_by(baseline, updates(deltas), CURRENT, SPEC, hostile=1)
    assert equal(found, merge_by(baseline, updates(deltas)[::-1], CURRENT, SPEC, hostile=1))
    assert all(equal(one, other) for one, other in zip(deltas, copies, strict=True))


@pytest.mark.parametrize(
    ("name", "count"), [("flower-krum", 4), ("flower-multikrum", 4), ("flower-bulyan", 6)]
)
def test_too_few_for_a_baseline_is_said(name: str, count: int) -> None:
    with pytest.raises(RoundError, match=f"at least {count + 1} updates, not {count}"):
        merge_by(find(name), updates(crowd(count)), CURRENT, SPEC, hostile=1)
