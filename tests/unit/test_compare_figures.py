"""Intervals, p-values and Holm's correction against published values; who is hostile, and how."""

from __future__ import annotations

import numpy as np
import pytest

from federation.errors import ConfigError
from strategies.compare.attacks import corrupt, parse
from strategies.compare.partitions import share_out
from strategies.compare.statistics import Difference, corrected, paired, student_tail

pytestmark = pytest.mark.strategies
ONE = {"m.lora_A.weight": np.ones((2, 3), np.float32), "m.lora_B.weight": np.ones((4, 2), "f4")}


@pytest.mark.parametrize(
    ("t", "freedom"), [(12.706, 1), (4.303, 2), (3.182, 3), (2.776, 4), (2.262, 9), (2.093, 19)]
)
def test_the_tail_of_students_distribution_is_that_of_the_tables(t: float, freedom: int) -> None:
    assert student_tail(t, freedom) == pytest.approx(0.05, abs=1e-4)


def test_holm_multiplies_the_smallest_by_how_many_there_are_and_never_falls() -> None:
    found = corrected([Difference(0, 0, 0, p, p, 5) for p in (0.01, 0.04, 0.03, 0.9)])
    assert [each.holm for each in found] == pytest.approx([0.04, 0.09, 0.09, 0.9])


def test_a_paired_difference_holds_the_mean_inside_its_interval() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(3, 1, 20)
    ours = base - 0.1 + rng.normal(0, 0.02, 20)
    found = paired(list(ours), list(base))
    assert found.low < found.mean < found.high < 0
    assert found.is_clear
    assert found == paired(list(ours), list(base))


def test_five_seeds_that_disagree_are_no_difference() -> None:
    assert not paired([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]).is_clear
    assert not paired([1.0], [2.0]).is_clear


def test_hostile_clients_are_a_minority_that_the_seed_draws() -> None:
    attack = parse("sign:0.25:3")
    assert (attack.kind, attack.share, attack.strength) == ("sign", 0.25, 3.0)
    drawn = [attack.hostile(8, seed) for seed in range(20)]
    assert {len(each) for each in drawn} == {2}
    assert len(set(drawn)) > 5
    assert len(parse("sign:0.49").hostile(3, 0)) == 1
    assert parse("none").hostile(8, 0) == frozenset()


@pytest.mark.parametrize("wrong", ["sgin:0.2", "sign:x", "sign:0.6", "sign:0.2:0", "sign:1:2:3"])
def test_an_attack_that_makes_no_sense_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError):
        parse(wrong)


def test_each_attack_changes_the_hostile_alone_and_no_input() -> None:
    deltas = [{name: value * (k + 1) for name, value in ONE.items()} for k in range(4)]
    before = [{name: value.copy() for name, value in each.items()} for each in deltas]
    for kind in ("sign", "scale", "noise", "inverse", "copies", "gauge"):
        attack = parse(f"{kind}:0.3:3")
        rng = np.random.default_rng(0)
        sent = corrupt(attack, deltas, [ONE] * 4, frozenset({1}), rng)
        changed = [k for k in range(4) if any((sent[k][n] != deltas[k][n]).any() for n in ONE)]
        assert changed == [1], kind
        assert all(v.dtype == np.float32 for v in sent[1].values())
        for mine, was in zip(deltas, before, strict=True):
            assert all((mine[name] == was[name]).all() for name in ONE)


def test_colluders_send_one_update_and_a_stretched_gauge_keeps_the_product() -> None:
    deltas = [{name: value * (k + 1) for name, value in ONE.items()} for k in range(4)]
    rng = np.random.default_rng(0)
    sent = corrupt(parse("copies"), deltas, [ONE] * 4, frozenset({1, 2}), rng)
    assert all((sent[1][name] == sent[2][name]).all() for name in ONE)
    a, b = ONE
    sent = corrupt(parse("gauge:0.25:10"), deltas, [ONE] * 4, frozenset({0}), rng)
    honest = (ONE[b] + deltas[0][b]) @ (ONE[a] + deltas[0][a])
    assert np.allclose((ONE[b] + sent[0][b]) @ (ONE[a] + sent[0][a]), honest)


@pytest.mark.parametrize("wrong", ["idd", "dirichlet:x", "dirichlet:-1", "quantity:0"])
def test_an_unknown_partition_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError):
        share_out(wrong, ["a", "b"], ["es", "en"], 2, 0)
