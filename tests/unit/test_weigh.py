"""Weights: nobody's word is worth more than a few times the others', and clipping is lost."""

from __future__ import annotations

import numpy as np
import pytest

from federation.errors import ConfigError
from strategies.screen import Accepted
from strategies.weigh import WeighPolicy, capped_examples, staleness_weight, uniform, weights_for


def accepted(examples: int, *, clip: float = 1.0, staleness: int = 0, index: int = 0) -> Accepted:
    return Accepted(f"{index:064x}", f"{index:016x}", examples, clip, staleness)


def test_examples_are_capped_at_five_times_the_median() -> None:
    np.testing.assert_array_equal(capped_examples([10, 20, 30, 10**9]), [10, 20, 30, 100])
    np.testing.assert_array_equal(capped_examples([0, -5, 7]), [1, 1, 5])


@pytest.mark.security
def test_h13_of_two_nodes_a_claim_of_a_billion_weighs_five_to_one() -> None:
    weights = weights_for([accepted(10), accepted(10**9, index=1)])
    np.testing.assert_allclose(weights, [1 / 6, 5 / 6])


def test_uniform_ignores_what_nodes_say() -> None:
    both = [accepted(1), accepted(10**9, index=1)]
    np.testing.assert_array_equal(weights_for(both, WeighPolicy(by="uniform")), [0.5, 0.5])
    np.testing.assert_array_equal(uniform(3), [1, 1, 1])


def test_staleness_halves_at_the_half_life() -> None:
    assert staleness_weight(0, 3.0) == 1.0
    assert staleness_weight(3, 3.0) == 0.5
    both = [accepted(10), accepted(10, staleness=2, index=1)]
    np.testing.assert_allclose(weights_for(both, WeighPolicy(half_life=2.0)), [2 / 3, 1 / 3])
    with pytest.raises(ValueError, match="half-life"):
        staleness_weight(1, 0.0)


def test_what_clipping_takes_goes_to_nobody_else() -> None:
    plain = weights_for([accepted(10), accepted(30, index=1)])
    clipped = weights_for([accepted(10), accepted(30, clip=0.25, index=1)])
    assert clipped[0] == plain[0]
    assert clipped[1] == 0.25 * plain[1]


@pytest.mark.parametrize("by", ["capped", "uniform"])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_weights_are_a_share_of_one_and_do_not_depend_on_the_order(by: str, count: int) -> None:
    rng = np.random.default_rng(count)
    updates = [
        accepted(
            int(rng.choice([0, 1, 17, 10**9])),
            clip=float(rng.uniform(0, 1)),
            staleness=int(rng.integers(0, 9)),
            index=i,
        )
        for i in range(count)
    ]
    policy = WeighPolicy(by=by)
    weights = weights_for(updates, policy)
    assert (weights >= 0).all()
    assert np.isfinite(weights).all()
    assert weights.sum() <= 1 + 1e-12
    order = rng.permutation(count)
    shuffled = weights_for([updates[i] for i in order], policy)
    np.testing.assert_array_equal(shuffled, weights[order])


def test_updates_too_old_to_count_weigh_nothing_instead_of_nan() -> None:
    old = [accepted(10, staleness=5000), accepted(10, staleness=5000, index=1)]
    np.testing.assert_array_equal(weights_for(old, WeighPolicy(half_life=1.0)), [0.0, 0.0])


def test_an_unknown_way_to_weigh_is_named() -> None:
    with pytest.raises(ConfigError, match="lottery"):
        weights_for([accepted(1)], WeighPolicy(by="lottery"))
