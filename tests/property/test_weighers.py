"""Weighers in dW space: what each promises, and how far attackers can move the result.

The numbers in the names are those of the list of invariants in `docs/strategies.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import ConfigError, RoundError
from strategies.gram import gram
from strategies.screen import Accepted
from strategies.weigh import WeighPolicy, find_weighers, weights_for
from strategies.weighers import WEIGHERS, Weigher, fltrust, multikrum, norm_clip, rfa, sybil
from tests.adapter_samples import make_spec, random_arrays
from tests.update_samples import MemoryUpdate

pytestmark = pytest.mark.strategies
EACH = pytest.mark.parametrize("weigher", WEIGHERS, ids=lambda weigher: weigher.name)
SEEDS = st.integers(0, 2**32 - 1)
QUICK = settings(max_examples=20, deadline=None)
Weigh = Callable[[np.ndarray, np.ndarray], np.ndarray]


def inner(changes: np.ndarray) -> np.ndarray:
    return changes @ changes.T


def honest(rng: np.random.Generator, count: int, size: int = 60) -> np.ndarray:
    """Changes of one common part and parts of their own."""
    return rng.normal(size=size) * 0.3 + rng.normal(size=(count, size))


def assert_are_weights(weights: np.ndarray) -> None:
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    assert weights.sum() <= 1 + 1e-12


@QUICK
@given(seed=SEEDS, small=st.sampled_from((1e-1, 1e-3)))
def test_10_the_gram_matrix_is_the_dense_one(seed: int, small: float) -> None:
    spec = make_spec(layers=1, rank=4, linears={"self_attn.q_proj": (24, 20)})
    current = random_arrays(spec, seed, 1.0)
    deltas = [random_arrays(spec, seed + i, small) for i in range(1, 5)]
    a, b = (spec.modules()[0] + suffix for suffix in (".lora_A.weight", ".lora_B.weight"))
    changes = []
    for delta in deltas:
        wide = {n: current[n].astype(np.float64) + delta[n] for n in current}
        product = wide[b] @ wide[a] - current[b].astype(np.float64) @ current[a]
        changes.append(spec.scale * product.ravel())
    dense = inner(np.array(changes))
    found = gram(
        [MemoryUpdate(f"{i:064x}", d) for i, d in enumerate(deltas)], current, spec, tile=3
    )
    assert np.linalg.norm(found - dense) < 1e-9 * np.linalg.norm(dense)


@EACH
@QUICK
@given(seed=SEEDS)
def test_13_weights_stay_weights(weigher: Weigher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    changes = honest(rng, 7)
    changes[0] *= rng.choice([0.0, 1.0, 1e30])
    changes[1:] *= rng.choice([0.0, 1.0])
    base = rng.dirichlet(np.ones(7)) * rng.uniform(0.1, 1.0)
    assert_are_weights(weigher.weigh(inner(changes), base))


@pytest.mark.parametrize("weigh", [norm_clip, sybil, rfa])
def test_13_one_client_alone_keeps_its_weight(weigh: Weigh) -> None:
    np.testing.assert_allclose(weigh(np.array([[2.0]]), np.ones(1)), [1.0])


@EACH
@QUICK
@given(seed=SEEDS)
def test_1_weighers_do_not_mind_the_order(weigher: Weigher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    changes, base = honest(rng, 9), rng.dirichlet(np.ones(9))
    order = rng.permutation(9)
    weigh = weigher.weigh
    if weigher.weigh is fltrust:  # the trusted one is number 0, wherever it comes
        weigh = partial(fltrust, trusted=int(np.argmin(order)))
    found = weigh(inner(changes[order]), base[order])
    np.testing.assert_allclose(found, weigher.weigh(inner(changes), base)[order], atol=1e-9)


@EACH
def test_2_the_size_of_all_changes_does_not_matter(weigher: Weigher) -> None:
    rng = np.random.default_rng(0)
    changes, base = honest(rng, 9), np.full(9, 1 / 9)
    plain = weigher.weigh(inner(changes), base)
    for size in (1e-6, 1e6):
        np.testing.assert_allclose(weigher.weigh(inner(size * changes), base), plain, atol=1e-9)


@QUICK
@given(seed=SEEDS)
def test_4_rfa_does_not_mind_a_split_client(seed: int) -> None:
    rng = np.random.default_rng(seed)
    changes, base = honest(rng, 6), rng.dirichlet(np.ones(6))
    split = np.append(base, base[0] * 0.3)
    split[0] *= 0.7
    twice = np.vstack([changes, changes[:1]])
    np.testing.assert_allclose(
        rfa(inner(twice), split) @ twice, rfa(inner(changes), base) @ changes, atol=1e-6
    )


@QUICK
@given(seed=SEEDS)
def test_11_rfa_is_the_geometric_median(seed: int) -> None:
    rng = np.random.default_rng(seed)
    changes, base = honest(rng, 8), rng.dirichlet(np.ones(8))
    apart = rfa(inner(changes), base) @ changes - changes
    lengths = np.linalg.norm(apart, axis=1)
    if lengths.min() > 0.3:  # of about 10; Weiszfeld's steps are slow where the median is a client
        assert np.linalg.norm(base / lengths @ apart) < 1e-6


@pytest.mark.security
@pytest.mark.parametrize("size", [1e1, 1e3, 1e6])
def test_12_a_quarter_of_hostile_weight_moves_rfa_by_three_honest_radii_at_most(
    size: float,
) -> None:
    rng = np.random.default_rng(1)
    good = honest(rng, 6)
    centre = good.mean(axis=0)
    radius = np.linalg.norm(good - centre, axis=1).max()
    bad = np.tile(-size * centre, (2, 1))
    changes, base = np.vstack([good, bad]), np.full(8, 1 / 8)
    moved = rfa(inner(changes), base) @ changes
    assert np.linalg.norm(moved - centre) <= 3 * radius


@pytest.mark.security
@pytest.mark.parametrize("weigh", [multikrum, norm_clip])
def test_12_beyond_a_size_attackers_gain_nothing(weigh: Weigh) -> None:
    rng = np.random.default_rng(2)
    good, base = honest(rng, 6), np.full(8, 1 / 8)
    results = []
    for size in (1e3, 1e6):
        changes = np.vstack([good, np.tile(-size * good.mean(axis=0), (2, 1))])
        results.append(weigh(inner(changes), base) @ changes)
    np.testing.assert_allclose(*results, rtol=1e-6)


@pytest.mark.security
def test_12_a_mean_without_a_weigher_has_no_such_bound() -> None:
    rng = np.random.default_rng(2)
    good, base = honest(rng, 6), np.full(8, 1 / 8)
    moved = [base @ np.vstack([good, np.tile(-s * good[0], (2, 1))]) for s in (1e3, 1e6)]
    assert np.linalg.norm(moved[1]) > 100 * np.linalg.norm(moved[0])


def test_multikrum_leaves_attackers_out_and_refuses_too_few() -> None:
    rng = np.random.default_rng(3)
    changes = np.vstack([honest(rng, 6), 30 * rng.normal(size=(2, 60))])
    weights = multikrum(inner(changes), np.full(8, 1 / 8))
    np.testing.assert_allclose(weights, [1 / 6] * 6 + [0, 0])
    with pytest.raises(RoundError, match="at least 5 updates, not 4"):
        multikrum(np.eye(4), np.full(4, 0.25))


def test_clip_shrinks_the_long_to_the_median_and_gives_nobody_more() -> None:
    weights = norm_clip(np.diag([1.0, 4.0, 100.0]), np.full(3, 1 / 3))
    np.testing.assert_allclose(weights, [1 / 3, 1 / 3, 1 / 15])


@pytest.mark.security
def test_one_update_sent_under_five_names_counts_once() -> None:
    rng = np.random.default_rng(4)
    good = rng.normal(size=(5, 200))
    changes = np.vstack([good, np.tile(rng.normal(size=200), (5, 1))])
    weights = sybil(inner(changes), np.full(10, 0.1))
    np.testing.assert_allclose(weights[:5], 1 / 6)
    np.testing.assert_allclose(weights[5:].sum(), 1 / 6)


def test_honest_clients_that_all_agree_are_not_taken_for_one() -> None:
    rng = np.random.default_rng(5)
    changes = rng.normal(size=60) + 0.05 * rng.normal(size=(6, 60))
    base = np.full(6, 1 / 6)
    np.testing.assert_array_equal(sybil(inner(changes), base), base)


@pytest.mark.security
def test_fltrust_gives_nothing_to_those_who_go_the_other_way() -> None:
    rng = np.random.default_rng(6)
    own = rng.normal(size=60)
    changes = np.vstack([own + 0.5 * rng.normal(size=60), -5 * own, 10 * own])
    all_of_them = np.vstack([changes, own])
    weights = fltrust(inner(all_of_them), np.full(4, 0.25), trusted=3)
    assert weights[1] == 0
    assert_are_weights(weights)
    assert np.linalg.norm(weights[2] * changes[2]) <= np.linalg.norm(own) * 0.6
    assert weights[3] == 0 < weights[0]
    nothing = np.vstack([changes, 0 * own])
    np.testing.assert_array_equal(fltrust(inner(nothing), np.full(4, 0.25), trusted=3), np.zeros(4))


def test_fltrust_waits_for_the_node_that_it_trusts() -> None:
    accepted = [Accepted(f"{i:064x}", f"node {i}", 10) for i in range(3)]
    gram_of = np.diag([1.0, 1.0, 1.0])
    gram_of[0, 1] = gram_of[1, 0] = 0.5
    policy = WeighPolicy(by="uniform+fltrust", trusted="node 1")
    weights = weights_for(accepted, policy, lambda: gram_of)
    np.testing.assert_allclose(weights, [1.0, 0.0, 0.0])
    with pytest.raises(RoundError, match="trusted node"):
        weights_for(accepted, WeighPolicy(by="fltrust", trusted="node 9"), lambda: gram_of)


def test_weighers_are_chosen_by_name_and_joined_with_plus() -> None:
    assert find_weighers("uniform")[0] == "uniform"
    count, chosen = find_weighers("uniform+sybil+rfa")
    assert (count, [weigher.name for weigher in chosen]) == ("uniform", ["sybil", "rfa"])
    assert find_weighers("rfa")[0] == "capped"
    with pytest.raises(ConfigError, match="multicrum") as caught:
        find_weighers("multicrum")
    assert "multikrum" in str(caught.value.hint)


def test_weighers_see_changes_as_the_screen_clipped_them() -> None:
    accepted = [Accepted(f"{i:064x}", f"{i:016x}", 10, clip) for i, clip in enumerate((1, 1, 0.1))]
    matrix = np.diag([1.0, 1.0, 100.0])
    found = weights_for(accepted, WeighPolicy(by="clip"), lambda: matrix)
    np.testing.assert_allclose(found, [1 / 3, 1 / 3, 1 / 30])
    with pytest.raises(ConfigError, match="inner products"):
        weights_for(accepted, WeighPolicy(by="clip"))
