"""The gate: better is accepted, equal, worse or unmeasurable is not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from strategies.gate import GateDecision, GatePolicy, decide

RNG = np.random.default_rng(5)
BEFORE = RNG.uniform(2.0, 4.0, 80)
LANGS = ["es"] * 40 + ["en"] * 40
ES = np.array([lang == "es" for lang in LANGS])


def judge(after: np.ndarray, before: np.ndarray = BEFORE, seed: int = 1) -> GateDecision:
    return decide(before, after, LANGS, GatePolicy(), seed)


def test_a_candidate_better_everywhere_is_accepted() -> None:
    decision = judge(BEFORE - 0.05)
    assert decision.accepted
    assert decision.overall is not None
    assert decision.overall.difference == pytest.approx(-0.05)
    assert decision.overall.low == pytest.approx(-0.05)
    assert set(decision.languages) == {"es", "en"}
    assert decision.languages["es"].documents == 40


def test_an_equal_candidate_is_no_better() -> None:
    decision = judge(BEFORE.copy())
    assert not decision.accepted
    assert "no better" in decision.reason


def test_a_slightly_worse_candidate_is_refused_though_within_tolerance() -> None:
    assert not judge(BEFORE + 1e-6).accepted


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_loss_that_is_not_finite_refuses_the_candidate(value: float) -> None:
    after = BEFORE - 0.5
    after[3] = value
    decision = judge(after)
    assert not decision.accepted
    assert "1 of 80" in decision.reason
    broken = judge(BEFORE - 0.5, before=np.where(np.arange(80) == 3, value, BEFORE))
    assert not broken.accepted
    assert "current" in broken.reason


def test_no_documents_accept_nothing() -> None:
    assert not decide(np.empty(0), np.empty(0), [], GatePolicy(), 1).accepted


def test_better_on_average_but_clearly_worse_in_one_language_is_refused() -> None:
    decision = judge(np.where(ES, BEFORE - 0.5, BEFORE + 0.1))
    assert not decision.accepted
    assert "'en'" in decision.reason
    assert decision.overall is not None
    assert decision.overall.difference < 0


def test_a_language_worse_within_tolerance_does_not_refuse() -> None:
    assert judge(np.where(ES, BEFORE - 0.1, BEFORE + 0.001)).accepted


def test_a_lucky_mean_with_an_interval_far_above_the_tolerance_is_refused() -> None:
    noise = np.random.default_rng(0).normal(0, 1.0, 80)
    decision = judge(BEFORE + noise - noise.mean() - 1e-4)
    assert decision.overall is not None
    assert decision.overall.difference < 0
    assert not decision.accepted
    assert "reliably" in decision.reason


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(60):
        after = BEFORE + np.random.default_rng(seed).normal(-0.1, 0.3, 80)
        overall = judge(after, seed=seed).overall
        assert overall is not None
        hits += overall.low <= -0.1 <= overall.high
    assert 50 <= hits <= 60


def test_equal_seeds_give_equal_decisions_and_inputs_stay_as_they_are() -> None:
    after = BEFORE + np.random.default_rng(1).normal(-0.02, 0.1, 80)
    before_copy, after_copy = BEFORE.copy(), after.copy()
    assert judge(after) == judge(after)
    assert judge(after, seed=2).overall != judge(after).overall
    np.testing.assert_array_equal(BEFORE, before_copy)
    np.testing.assert_array_equal(after, after_copy)


def test_a_decision_is_plain_json_with_finite_numbers() -> None:
    text = json.dumps(judge(BEFORE - 0.05).to_json(), allow_nan=False)
    assert json.loads(text)["overall"]["documents"] == 80


def test_losses_of_other_documents_are_an_error() -> None:
    with pytest.raises(ValueError, match="80 documents"):
        decide(BEFORE, BEFORE[:-1], LANGS, GatePolicy(), 1)
