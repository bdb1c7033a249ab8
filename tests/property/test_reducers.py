"""What every rule promises by its traits, on random updates (design: strategies.md, section 4).

The numbers in the names are those of that list. Errors are relative Frobenius norms of the whole
change of dW: of the pair and of the base. It runs over every installed rule; one alone is chosen
with `-k NAME`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from federation.adapter.format import A, AdapterSpec, B
from federation.adapter.tensors import Arrays
from strategies.catalogue import RULES, all_rules
from strategies.merge import Merged, merge_all, merge_by
from strategies.pairs import to_adapter
from strategies.rule import Rule
from tests.adapter_samples import make_spec, random_arrays
from tests.update_samples import MemoryUpdate, bf16_exact, make_context, make_spool, put

pytestmark = pytest.mark.strategies
EVERY = all_rules()
EACH = pytest.mark.parametrize("rule", EVERY, ids=lambda rule: rule.name)
SEEDS = st.integers(0, 2**32 - 1)
QUICK = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def only(trait: str, *, holds: bool = True) -> pytest.MarkDecorator:
    chosen = [rule for rule in EVERY if getattr(rule.traits, trait) is holds]
    return pytest.mark.parametrize("rule", chosen, ids=lambda rule: rule.name)


class Case:
    """A current adapter and some clients' updates, all from one seed."""

    def __init__(self, seed: int, rule: Rule, *, zero_b: bool = False) -> None:
        self.rule = rule
        rng = np.random.default_rng(seed)
        self.rng = rng
        d_in, d_out = (int(size) for size in rng.integers(4, 20, 2))
        self.spec: AdapterSpec = make_spec(
            layers=int(rng.integers(1, 3)),
            rank=int(rng.integers(1, 5)),
            linears={"self_attn.q_proj": (d_in, d_out)},
        )
        self.current = random_arrays(self.spec, seed, 0.1)
        if zero_b:
            for name in self.current:
                if name.endswith("lora_B.weight"):
                    self.current[name][:] = 0
        self.count = int(rng.integers(1, 7))
        self.deltas = [self.delta(i) for i in range(self.count)]
        self.weights = rng.dirichlet(np.ones(self.count))

    def delta(self, index: int, size: float = 0.05) -> Arrays:
        """Change only the factors that the rule's clients send in round 1."""
        made = random_arrays(self.spec, int(self.rng.integers(2**32)) + index, size)
        sent = self.rule.traits.sends(1)
        return {name: value * (name[-8] in sent) for name, value in made.items()}

    def merge(
        self, deltas: list[Arrays] | None = None, weights: np.ndarray | None = None
    ) -> Merged:
        deltas = self.deltas if deltas is None else deltas
        weights = self.weights if weights is None else weights
        updates = [MemoryUpdate(f"{i:064x}", delta) for i, delta in enumerate(deltas)]
        return self.merge_updates(updates, weights)

    def merge_updates(self, updates: list[Any], weights: np.ndarray) -> Merged:
        context = make_context(self.spec)
        return merge_by(self.rule, updates, weights, self.current, self.spec, context)

    def change(self, merged: Merged | Arrays) -> np.ndarray:
        """The change of dW of all modules, base included, as one f64 vector."""
        found = merged if isinstance(merged, Merged) else Merged(merged, {})
        before, after = self._products(self.current), self._products(found.adapter)
        if found.base:
            modules = self.spec.modules()
            bases = [dense(found.base[m + A], found.base[m + B]) for m in modules]
            after = [product + base for product, base in zip(after, bases, strict=True)]
        return np.concatenate([(a - b).ravel() for a, b in zip(after, before, strict=True)])

    def is_well_separated(self) -> bool:
        """Whether the sum of products has a gap behind its r-th singular value in each module.

        Where there is none, the best rank-r pair is not one pair: rounding decides.
        """
        for module in self.spec.modules():
            a, b = module + A, module + B
            total = sum(
                w * dense(self.current[a] + d[a], self.current[b] + d[b])
                for w, d in zip(self.weights, self.deltas, strict=True)
            )
            sizes = np.append(np.linalg.svd(np.asarray(total), compute_uv=False), 0.0)
            cut = min(self.spec.rank, len(sizes) - 1)
            if sizes[cut - 1] - sizes[cut] < 0.1 * sizes[0]:
                return False
        return True

    def _products(self, arrays: Arrays) -> list[np.ndarray]:
        pairs = to_adapter(arrays, self.spec).pairs
        return [
            pairs[module].scale * pairs[module].B.astype(np.float64) @ pairs[module].A
            for module in self.spec.modules()
        ]


def dense(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return b.astype(np.float64) @ a.astype(np.float64)


def pair_change(case: Case, merged: Merged) -> np.ndarray:
    return case.change(merged.adapter)


def truncates(rule: Rule) -> bool:
    return rule.traits.refactorises and not rule.traits.exact


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12))


def apart(case: Case, found: Merged, expected: Merged) -> float:
    """Compare factors; or products, where the factors' coordinates mean nothing."""
    if case.rule.traits.refactorises or case.rule.traits.edits_base:
        return error(case.change(found), case.change(expected))
    return arrays_error(found.adapter, expected.adapter)


def assert_same_bits(found: Merged, expected: Merged) -> None:
    for one, other in ((found.adapter, expected.adapter), (found.base, expected.base)):
        assert list(one) == list(other)
        for name, value in other.items():
            np.testing.assert_array_equal(one[name], value)


def arrays_error(found: Arrays, expected: Arrays) -> float:
    return error(
        np.concatenate([found[name].ravel() for name in expected]).astype(np.float64),
        np.concatenate([expected[name].ravel() for name in expected]).astype(np.float64),
    )


@EACH
@QUICK
@given(seed=SEEDS)
def test_1_the_order_of_clients_changes_no_bit(rule: Rule, seed: int) -> None:
    case = Case(seed, rule)
    order = case.rng.permutation(case.count)
    updates = [MemoryUpdate(f"{i:064x}", case.deltas[i]) for i in order]
    assert_same_bits(case.merge_updates(updates, case.weights[order]), case.merge())


@EACH
@QUICK
@given(seed=SEEDS)
def test_2_equal_clients_are_one_client_and_a_weightless_one_is_none(rule: Rule, seed: int) -> None:
    case = Case(seed, rule)
    same = case.merge([case.deltas[0]] * case.count)
    alone = case.merge(case.deltas[:1], np.ones(1))
    assert apart(case, same, alone) < 2e-6
    with_nobody = case.merge([*case.deltas, case.delta(99, 1e6)], np.append(case.weights, 0.0))
    assert_same_bits(with_nobody, case.merge())


@EACH
@QUICK
@given(seed=SEEDS, zero_b=st.booleans())
def test_3_one_client_is_adopted_as_it_is(rule: Rule, seed: int, zero_b: bool) -> None:
    case = Case(seed, rule, zero_b=zero_b)
    merged = case.merge(case.deltas[:1], np.ones(1))
    theirs = {name: case.current[name] + case.deltas[0][name] for name in case.current}
    assert error(case.change(merged), case.change(theirs)) < 2e-6


@EACH
@QUICK
@given(seed=SEEDS, share=st.floats(0.05, 0.95))
def test_4_one_client_split_into_two_changes_nothing(rule: Rule, seed: int, share: float) -> None:
    case = Case(seed, rule)
    weights = np.append(case.weights, case.weights[0] * (1 - share))
    weights[0] *= share
    split = case.merge([*case.deltas, case.deltas[0]], weights)
    assert apart(case, split, case.merge()) < 2e-6


def gauged(case: Case, stretch: float = 1.0) -> list[Arrays]:
    """Every client's own gauge: (B, A) becomes (B G t, G^T A / t) with G orthogonal, at random."""
    deltas = []
    for delta in case.deltas:
        found: Arrays = {}
        for module in case.spec.modules():
            a, b = module + ".lora_A.weight", module + ".lora_B.weight"
            gauge, _ = np.linalg.qr(case.rng.normal(size=(case.spec.rank, case.spec.rank)))
            mine_a, mine_b = case.current[a] + delta[a], case.current[b] + delta[b]
            t = stretch ** case.rng.uniform(-1, 1)
            found[a] = (gauge.T @ mine_a / t - case.current[a]).astype(np.float32)
            found[b] = (mine_b @ gauge * t - case.current[b]).astype(np.float32)
        deltas.append(found)
    return deltas


@only("gauge_invariant")
@QUICK
@given(seed=SEEDS)
def test_6_turning_and_stretching_a_clients_factors_changes_nothing(rule: Rule, seed: int) -> None:
    case = Case(seed, rule)
    assume(not truncates(rule) or case.is_well_separated())
    found, plain = case.merge(gauged(case, 3.0)), case.merge()
    assert error(case.change(found), case.change(plain)) < 5e-6
    if rule.traits.gauge_safe:
        assert error(pair_change(case, found), pair_change(case, plain)) < 5e-6


@only("gauge_invariant", holds=False)
def test_6_turned_and_stretched_factors_break_rules_that_average_them(rule: Rule) -> None:
    """Why updates for these rules are screened in factor space too (facts 3 and 4)."""
    case = Case(0, rule)
    case.spec = make_spec(layers=1, rank=4, linears={"self_attn.q_proj": (16, 16)})
    case.current = random_arrays(case.spec, 1, 0.1)
    case.deltas = [case.delta(seed) for seed in range(6)]
    case.weights = np.full(6, 1 / 6)
    found = case.change(case.merge(gauged(case, 3.0)))
    assert error(found, case.change(case.merge())) > 0.1


@only("exact")
@QUICK
@given(seed=SEEDS)
def test_7_the_change_is_the_weighted_sum_of_products(rule: Rule, seed: int) -> None:
    case = Case(seed, rule)
    theirs = [{n: case.current[n] + d[n] for n in case.current} for d in case.deltas]
    ideal = sum(w * case.change(each) for w, each in zip(case.weights, theirs, strict=True))
    assert error(case.change(case.merge()), np.asarray(ideal)) < 1e-6


@EACH
@QUICK
@given(seed=SEEDS, clip=st.floats(0.1, 0.99))
def test_16_a_clipped_client_moves_by_its_share(rule: Rule, seed: int, clip: float) -> None:
    """Through the previous adapter as one more client; to first order for averages of factors."""
    case = Case(seed, rule)
    assume(not truncates(rule) or case.is_well_separated())
    size = np.float32(1.0 if rule.traits.exact else 1e-2)
    delta = {name: size * value for name, value in case.deltas[0].items()}
    whole = case.change(case.merge([delta], np.ones(1)))
    clipped = case.change(case.merge([delta], np.array([clip])))
    before = case.change(Merged({n: 2 * v for n, v in case.current.items()}, {})) / 3
    if rule.traits.exact and rule.traits.refactorises:  # all of dW is rounded anew, to f32
        assert error(before + clipped, before + clip * whole) < 1e-6
    else:
        limit = (1e-6 if rule.traits.exact else 2e-2) * np.linalg.norm(clip * whole)
        rounded = 2**-24 * np.linalg.norm(before)  # f32 rounds a factor, however small its change
        assert np.linalg.norm(clipped - clip * whole) < limit + rounded


@only("averages")
@given(seed=SEEDS)
@QUICK
def test_an_averaging_rule_does_what_it_would_do_module_by_module(rule: Rule, seed: int) -> None:
    case = Case(seed, rule)
    updates = [MemoryUpdate(f"{i:064x}", delta) for i, delta in enumerate(case.deltas)]
    context = make_context(case.spec)
    expected = merge_all(
        updates, case.weights, case.current, case.spec, rule.reduce, context
    ).adapter
    found = case.merge_updates(updates, case.weights).adapter
    for name in case.spec.shapes:
        np.testing.assert_array_equal(found[name], expected[name])


@only("linear")
@QUICK
@given(seed=SEEDS)
def test_17_the_sum_of_results_is_the_result_of_sums(rule: Rule, seed: int) -> None:
    case = Case(seed, rule)
    case.current = {name: np.zeros_like(value) for name, value in case.current.items()}
    others = [case.delta(i) for i in range(case.count)]
    sums = [{n: x[n] + y[n] for n in x} for x, y in zip(case.deltas, others, strict=True)]
    one, other, both = (case.merge(deltas).adapter for deltas in (case.deltas, others, sums))
    assert arrays_error({name: one[name] + other[name] for name in one}, both) < 2e-6


@EACH
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=SEEDS)
def test_18_from_files_and_from_memory_the_bits_are_the_same(
    rule: Rule, seed: int, tmp_path: Path
) -> None:
    case = Case(seed, rule)
    case.current = {name: np.zeros_like(value) for name, value in case.current.items()}
    spool = make_spool(tmp_path / f"spool-{seed}")
    held: dict[str, Arrays] = {}
    for delta in map(bf16_exact, (case.delta(i) for i in range(case.count))):
        held[put(spool, case.spec, case.current, delta).sha256] = delta
    names = sorted(held)
    case.current = random_arrays(case.spec, seed, 0.1)
    files = [spool.open(name) for name in names]
    memory = [MemoryUpdate(name, held[name]) for name in names]
    found = case.merge_updates(files, case.weights)
    assert_same_bits(found, case.merge_updates(memory, case.weights))
    later = [make_spool(tmp_path / f"spool-{seed}").open(name) for name in names]
    assert_same_bits(case.merge_updates(later, case.weights), found)  # a restarted server


@EACH
@QUICK
@given(seed=SEEDS)
def test_20_no_input_is_changed(rule: Rule, seed: int) -> None:
    case = Case(seed, rule)
    for arrays in (case.current, *case.deltas):
        for value in arrays.values():
            value.flags.writeable = False
    case.weights.flags.writeable = False
    copies = [{n: v.copy() for n, v in each.items()} for each in (case.current, *case.deltas)]
    case.merge()
    for arrays, copy in zip((case.current, *case.deltas), copies, strict=True):
        for name, value in copy.items():
            np.testing.assert_array_equal(arrays[name], value)


@EACH
@QUICK
@given(seed=SEEDS)
def test_5_turning_inputs_and_outputs_of_a_module_turns_the_result(rule: Rule, seed: int) -> None:
    """Turned, dW is Q dW P: no rule may depend on the coordinates of the model."""
    case = Case(seed, rule)
    assume(not truncates(rule) or case.is_well_separated())
    plain = case.change(case.merge())
    shapes = [case.spec.shapes[case.spec.modules()[0] + name] for name in (A, B)]
    p, _ = np.linalg.qr(case.rng.normal(size=(shapes[0][1], shapes[0][1])))
    q, _ = np.linalg.qr(case.rng.normal(size=(shapes[1][0], shapes[1][0])))

    def turned(arrays: Arrays) -> Arrays:
        return {
            n: (v @ p if n.endswith(A) else q @ v).astype(np.float32) for n, v in arrays.items()
        }

    case.current, case.deltas = turned(case.current), [turned(delta) for delta in case.deltas]
    changes = plain.reshape(-1, shapes[1][0], shapes[0][1])
    expected = np.concatenate([(q @ change @ p).ravel() for change in changes])
    assert error(case.change(case.merge()), expected) < 5e-6


@only("edits_base")
@QUICK
@given(seed=SEEDS)
def test_8_the_base_delta_has_one_rank_and_no_more_than_the_clients(rule: Rule, seed: int) -> None:
    case = Case(seed, rule)
    merged = case.merge()
    ranks = {value.shape[0] for name, value in merged.base.items() if name.endswith(A)}
    assert len(ranks) <= 1
    assert max(ranks, default=0) <= case.count * case.spec.rank


@EACH
def test_a_strategy_file_is_short(rule: Rule) -> None:
    if rule not in RULES:
        pytest.skip("a stranger's file is the stranger's")
    path = Path(__file__).parents[2] / "strategies" / "rules" / f"{rule.name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
