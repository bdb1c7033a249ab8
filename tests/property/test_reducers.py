"""What every rule promises by its traits, on random updates (design: strategies.md, section 4).

The numbers in the names are those of that list. Errors are relative Frobenius norms of dW.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.adapter.format import AdapterSpec
from federation.adapter.tensors import Arrays
from strategies.catalogue import RULES
from strategies.merge import merge
from strategies.pairs import to_adapter
from strategies.rule import Rule
from tests.adapter_samples import make_spec, random_arrays
from tests.update_samples import MemoryUpdate, bf16_exact, make_context, make_spool, put

pytestmark = pytest.mark.strategies
EACH = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
SEEDS = st.integers(0, 2**32 - 1)
QUICK = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def only(trait: str, *, holds: bool = True) -> pytest.MarkDecorator:
    chosen = [rule for rule in RULES if getattr(rule.traits, trait) is holds]
    return pytest.mark.parametrize("rule", chosen, ids=lambda rule: rule.name)


class Case:
    """A current adapter and some clients' updates, all from one seed."""

    def __init__(self, seed: int, *, zero_b: bool = False) -> None:
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
        return random_arrays(self.spec, int(self.rng.integers(2**32)) + index, size)

    def merge(
        self, rule: Rule, deltas: list[Arrays] | None = None, weights: np.ndarray | None = None
    ) -> Arrays:
        deltas = self.deltas if deltas is None else deltas
        weights = self.weights if weights is None else weights
        updates = [MemoryUpdate(f"{i:064x}", delta) for i, delta in enumerate(deltas)]
        context = make_context(self.spec)
        return merge(updates, weights, self.current, self.spec, rule.reduce, context)

    def change(self, arrays: Arrays) -> np.ndarray:
        """The change of dW of all modules as one f64 vector."""
        before, after = self._products(self.current), self._products(arrays)
        return np.concatenate([(a - b).ravel() for a, b in zip(after, before, strict=True)])

    def _products(self, arrays: Arrays) -> list[np.ndarray]:
        pairs = to_adapter(arrays, self.spec).pairs
        return [
            pairs[module].scale * pairs[module].B.astype(np.float64) @ pairs[module].A
            for module in self.spec.modules()
        ]


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12))


def arrays_error(found: Arrays, expected: Arrays) -> float:
    return error(
        np.concatenate([found[name].ravel() for name in expected]).astype(np.float64),
        np.concatenate([expected[name].ravel() for name in expected]).astype(np.float64),
    )


@EACH
@QUICK
@given(seed=SEEDS)
def test_1_the_order_of_clients_changes_no_bit(rule: Rule, seed: int) -> None:
    case = Case(seed)
    first = case.merge(rule)
    order = case.rng.permutation(case.count)
    updates = [MemoryUpdate(f"{i:064x}", case.deltas[i]) for i in order]
    again = merge(
        updates, case.weights[order], case.current, case.spec, rule.reduce, make_context(case.spec)
    )
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])


@EACH
@QUICK
@given(seed=SEEDS)
def test_2_equal_clients_are_one_client_and_a_weightless_one_is_none(rule: Rule, seed: int) -> None:
    case = Case(seed)
    same = case.merge(rule, [case.deltas[0]] * case.count)
    alone = case.merge(rule, case.deltas[:1], np.ones(1))
    assert arrays_error(same, alone) < 2e-6
    with_nobody = case.merge(
        rule, [*case.deltas, case.delta(99, 1e6)], np.append(case.weights, 0.0)
    )
    without = case.merge(rule)
    for name in without:
        np.testing.assert_array_equal(with_nobody[name], without[name])


@EACH
@QUICK
@given(seed=SEEDS, zero_b=st.booleans())
def test_3_one_client_is_adopted_as_it_is(rule: Rule, seed: int, zero_b: bool) -> None:
    case = Case(seed, zero_b=zero_b)
    merged = case.merge(rule, case.deltas[:1], np.ones(1))
    theirs = {name: case.current[name] + case.deltas[0][name] for name in case.current}
    assert error(case.change(merged), case.change(theirs)) < 2e-6


@EACH
@QUICK
@given(seed=SEEDS, share=st.floats(0.05, 0.95))
def test_4_one_client_split_into_two_changes_nothing(rule: Rule, seed: int, share: float) -> None:
    case = Case(seed)
    weights = np.append(case.weights, case.weights[0] * (1 - share))
    weights[0] *= share
    split = case.merge(rule, [*case.deltas, case.deltas[0]], weights)
    assert arrays_error(split, case.merge(rule)) < 2e-6


def gauged(case: Case) -> list[Arrays]:
    """Every client's own gauge: (B, A) becomes (B G, G^T A) with G orthogonal, at random."""
    deltas = []
    for delta in case.deltas:
        found: Arrays = {}
        for module in case.spec.modules():
            a, b = module + ".lora_A.weight", module + ".lora_B.weight"
            gauge, _ = np.linalg.qr(case.rng.normal(size=(case.spec.rank, case.spec.rank)))
            mine_a, mine_b = case.current[a] + delta[a], case.current[b] + delta[b]
            found[a] = (gauge.T @ mine_a - case.current[a]).astype(np.float32)
            found[b] = (mine_b @ gauge - case.current[b]).astype(np.float32)
        deltas.append(found)
    return deltas


@only("gauge_invariant")
@QUICK
@given(seed=SEEDS)
def test_6_rotating_a_clients_factors_changes_nothing(rule: Rule, seed: int) -> None:
    case = Case(seed)
    found = case.change(case.merge(rule, gauged(case)))
    assert error(found, case.change(case.merge(rule))) < 5e-6


@only("gauge_invariant", holds=False)
def test_6_rotating_factors_breaks_rules_that_average_them(rule: Rule) -> None:
    """Why updates for these rules are screened in factor space too (facts 3 and 4)."""
    case = Case(0)
    case.spec = make_spec(layers=1, rank=4, linears={"self_attn.q_proj": (16, 16)})
    case.current = random_arrays(case.spec, 1, 0.1)
    case.deltas = [random_arrays(case.spec, seed, 0.05) for seed in range(6)]
    case.weights = np.full(6, 1 / 6)
    found = case.change(case.merge(rule, gauged(case)))
    assert error(found, case.change(case.merge(rule))) > 0.1


@only("exact")
@QUICK
@given(seed=SEEDS)
def test_7_the_change_is_the_weighted_sum_of_products(rule: Rule, seed: int) -> None:
    case = Case(seed)
    theirs = [{n: case.current[n] + d[n] for n in case.current} for d in case.deltas]
    ideal = sum(w * case.change(each) for w, each in zip(case.weights, theirs, strict=True))
    assert error(case.change(case.merge(rule)), np.asarray(ideal)) < 1e-6


@EACH
@QUICK
@given(seed=SEEDS, clip=st.floats(0.1, 0.99))
def test_16_a_clipped_client_moves_by_its_share(rule: Rule, seed: int, clip: float) -> None:
    """Through the previous adapter as one more client; to first order for averages of factors."""
    case = Case(seed)
    size = np.float32(1.0 if rule.traits.exact else 1e-2)
    delta = {name: size * value for name, value in case.deltas[0].items()}
    whole = case.change(case.merge(rule, [delta], np.ones(1)))
    clipped = case.change(case.merge(rule, [delta], np.array([clip])))
    assert error(clipped, clip * whole) < (1e-6 if rule.traits.exact else 2e-2)


@only("linear")
@QUICK
@given(seed=SEEDS)
def test_17_the_sum_of_results_is_the_result_of_sums(rule: Rule, seed: int) -> None:
    case = Case(seed)
    case.current = {name: np.zeros_like(value) for name, value in case.current.items()}
    others = [case.delta(i) for i in range(case.count)]
    sums = [{n: x[n] + y[n] for n in x} for x, y in zip(case.deltas, others, strict=True)]
    one, other, both = (case.merge(rule, deltas) for deltas in (case.deltas, others, sums))
    assert arrays_error({name: one[name] + other[name] for name in one}, both) < 2e-6


@EACH
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=SEEDS)
def test_18_from_files_and_from_memory_the_bits_are_the_same(
    rule: Rule, seed: int, tmp_path: Path
) -> None:
    case = Case(seed)
    case.current = {name: np.zeros_like(value) for name, value in case.current.items()}
    spool = make_spool(tmp_path / f"spool-{seed}")
    held: dict[str, Arrays] = {}
    for delta in map(bf16_exact, case.deltas):
        held[put(spool, case.spec, case.current, delta).sha256] = delta
    names = sorted(held)
    case.current = random_arrays(case.spec, seed, 0.1)
    context = make_context(case.spec)
    files = [spool.open(name) for name in names]
    memory = [MemoryUpdate(name, held[name]) for name in names]
    one = merge(files, case.weights, case.current, case.spec, rule.reduce, context)
    other = merge(memory, case.weights, case.current, case.spec, rule.reduce, context)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


@EACH
@QUICK
@given(seed=SEEDS)
def test_20_no_input_is_changed(rule: Rule, seed: int) -> None:
    case = Case(seed)
    for arrays in (case.current, *case.deltas):
        for value in arrays.values():
            value.flags.writeable = False
    case.weights.flags.writeable = False
    copies = [{n: v.copy() for n, v in each.items()} for each in (case.current, *case.deltas)]
    case.merge(rule)
    for arrays, copy in zip((case.current, *case.deltas), copies, strict=True):
        for name, value in copy.items():
            np.testing.assert_array_equal(arrays[name], value)


@EACH
def test_a_strategy_file_is_short(rule: Rule) -> None:
    path = Path(__file__).parents[2] / "strategies" / "rules" / f"{rule.name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
