"""Clients of unequal ranks, the best pair of a rank, and what single rules promise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.adapter.format import A, B
from federation.adapter.parts import at_rank, only
from strategies.catalogue import all_rules
from strategies.coded import Coded
from strategies.gram import gram
from strategies.lowrank import fit_rank
from strategies.merge import merge_all
from strategies.pairs import ClientPair, Factors, Pair, client_pair, norms, pair_of
from strategies.rule import Ctx, Rule
from strategies.rules.fedex import fedex
from strategies.rules.fedit import fedit
from strategies.rules.fedrot import fedrot
from strategies.rules.fedsvd import fedsvd
from strategies.rules.flexlora import flexlora
from strategies.rules.flora import flora
from strategies.rules.lorafair import lorafair
from strategies.rules.rbla import rbla
from strategies.rules.rolora import rolora
from strategies.rules.zeropad import zeropad
from tests.adapter_samples import make_spec, random_arrays
from tests.update_samples import MemoryUpdate, make_context

pytestmark = pytest.mark.strategies
SEEDS = st.integers(0, 2**32 - 1)
QUICK = settings(max_examples=10, deadline=None)
D_IN, D_OUT, ALPHA = 48, 40, 16.0
HETERO = [rule for rule in all_rules() if rule.traits.hetero_ranks]


def normal(rng: np.random.Generator, shape: tuple[int, int], size: float) -> np.ndarray:
    return rng.normal(0, size, shape).astype(np.float32)


def make_previous(rng: np.random.Generator, rank: int) -> Pair:
    return Pair(normal(rng, (rank, D_IN), 0.1), normal(rng, (D_OUT, rank), 0.1), ALPHA / rank)


def make_clients(
    rng: np.random.Generator, previous: Pair, ranks: Sequence[int]
) -> list[ClientPair]:
    """Each trained from what a client of its rank is sent, alpha / r as its scale."""
    found = []
    for rank in ranks:
        sent = fit_rank(previous, rank, ALPHA / rank)
        delta_a = Coded.of(normal(rng, sent.A.shape, 0.05), None, 0)
        delta_b = Coded.of(normal(rng, sent.B.shape, 0.05), None, 1)
        found.append(ClientPair(sent, delta_a, delta_b))
    return found


def context(rank: int, number: int = 1) -> Ctx:
    return Ctx(round=number, rank=rank, rng=np.random.default_rng(0))


def product(pair: Factors | None) -> np.ndarray:
    if pair is None:
        return np.zeros((D_OUT, D_IN))
    return pair.scale * pair.B.astype(np.float64) @ pair.A.astype(np.float64)


def weighted_sum(pairs: Sequence[Factors], weights: np.ndarray) -> np.ndarray:
    return np.sum([w * product(p) for p, w in zip(pairs, weights, strict=True)], axis=0)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@QUICK
@given(seed=SEEDS)
def test_7_stacking_is_exact_for_ranks_2_4_8_16_and_their_scales(seed: int) -> None:
    rng = np.random.default_rng(seed)
    previous = make_previous(rng, 16)
    clients, weights = make_clients(rng, previous, (2, 4, 8, 16)), rng.dirichlet(np.ones(4))
    out = flora(clients, weights, previous, context(16))
    assert error(product(out.pair) + product(out.base), weighted_sum(clients, weights)) < 1e-6
    assert out.base is not None
    assert len(out.base.A) == 30


@QUICK
@given(seed=SEEDS, ranks=st.lists(st.sampled_from((1, 2, 4, 8, 16)), min_size=1, max_size=6))
def test_9_flexlora_is_the_best_pair_of_its_rank(seed: int, ranks: list[int]) -> None:
    """Eckart–Young: what is missing is the tail of the singular values, and nothing else."""
    rng = np.random.default_rng(seed)
    previous = make_previous(rng, 8)
    clients, weights = make_clients(rng, previous, ranks), rng.dirichlet(np.ones(len(ranks)))
    ideal = weighted_sum(clients, weights)
    pair = flexlora(clients, weights, previous, context(8)).pair
    tail = np.linalg.norm(np.linalg.svd(ideal, compute_uv=False)[8:])
    missing = np.linalg.norm(product(pair) - ideal)
    assert abs(missing - tail) < 1e-5 * np.linalg.norm(ideal)
    leading = np.linalg.norm(pair.A, axis=1) * np.linalg.norm(pair.B, axis=0)
    alive = leading[: min(8, sum(ranks))]
    assert (np.diff(alive) <= 1e-6 * leading[0]).all()  # largest first: a lower rank takes the best


@pytest.mark.parametrize("stretch", [1.0, 1e3, 1e6])
def test_9_a_stretched_client_costs_flexlora_no_digits(stretch: float) -> None:
    rng = np.random.default_rng(3)
    previous = make_previous(rng, 8)
    pairs: list[Factors] = list(make_clients(rng, previous, (2, 2, 4)))
    t = np.float32(stretch)
    pairs[0] = Pair(pairs[0].A / t, pairs[0].B * t, pairs[0].scale)
    weights = np.array([0.5, 0.25, 0.25])
    found = flexlora(pairs, weights, previous, context(8)).pair  # type: ignore[arg-type]
    assert error(product(found), weighted_sum(pairs, weights)) < 1e-6


def test_9_no_direction_stays_dead() -> None:
    rng = np.random.default_rng(0)
    previous = make_previous(rng, 8)
    nothing = Pair(previous.A, np.zeros_like(previous.B), previous.scale)
    few = flexlora(make_clients(rng, nothing, (2,)), np.ones(1), nothing, context(8)).pair
    assert (np.linalg.norm(few.A, axis=1) > 0).all()
    assert not few.B[:, 2:].any()
    begun = flexlora([], np.empty(0), nothing, context(8)).pair
    assert (np.linalg.norm(begun.A, axis=1) > 0).all()
    assert not begun.B.any()


@pytest.mark.parametrize("rule", HETERO, ids=lambda rule: rule.name)
@pytest.mark.parametrize("ranks", [(2, 2, 2), (2, 4, 8, 16), (16, 16), (1,)])
def test_any_ranks_give_a_pair_of_the_global_rank(rule: Rule, ranks: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    previous = make_previous(rng, 8)
    weights = np.full(len(ranks), 0.9 / len(ranks))
    out = rule.reduce(make_clients(rng, previous, ranks), weights, previous, context(8))
    assert out.pair.A.shape == previous.A.shape
    assert out.pair.B.shape == previous.B.shape
    assert np.isfinite(out.pair.A).all()
    assert np.isfinite(out.pair.B).all()


def test_rows_that_few_own_are_diluted_by_padding_and_not_by_rbla() -> None:
    rng = np.random.default_rng(0)
    previous = make_previous(rng, 8)
    clients = make_clients(rng, previous, (4, 8))
    weights = np.array([0.5, 0.5])
    owned = clients[1].A[4:]
    own = rbla(clients, weights, previous, context(8)).pair.A[4:]
    padded = zeropad(clients, weights, previous, context(8)).pair.A[4:]
    np.testing.assert_allclose(own, owned, rtol=1e-5)
    np.testing.assert_allclose(padded, owned / 2, rtol=1e-5)


@pytest.mark.parametrize("rule", [rbla, zeropad])
def test_at_equal_ranks_they_are_fedit(rule: object) -> None:
    rng = np.random.default_rng(0)
    previous = make_previous(rng, 8)
    clients, weights = make_clients(rng, previous, (8, 8, 8)), np.array([0.2, 0.3, 0.4])
    found = rule(clients, weights, previous, context(8)).pair  # type: ignore[operator]
    plain = fedit(clients, weights, previous, context(8)).pair
    np.testing.assert_allclose(found.A, plain.A, atol=1e-7)
    np.testing.assert_allclose(found.B, plain.B, atol=1e-7)


@QUICK
@given(seed=SEEDS, count=st.integers(1, 4))
def test_8_the_residual_of_fedex_has_rank_of_one_client_less(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    previous = make_previous(rng, 4)
    clients, weights = make_clients(rng, previous, [4] * count), rng.dirichlet(np.ones(count))
    out = fedex(clients, weights, previous, context(4))
    residual = weighted_sum(clients, weights) - product(out.pair)
    assert np.linalg.norm(product(out.base) - residual) < 1e-6 * np.linalg.norm(product(out.pair))
    assert (len(out.base.A) if out.base else 0) == (count - 1) * 4


@QUICK
@given(seed=SEEDS)
def test_lorafair_is_never_further_from_the_sum_than_fedit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    previous = make_previous(rng, 4)
    clients, weights = make_clients(rng, previous, (4,) * 5), rng.dirichlet(np.ones(5))
    ideal = weighted_sum(clients, weights)
    plain = product(fedit(clients, weights, previous, context(4)).pair)
    mended = product(lorafair(clients, weights, previous, context(4)).pair)
    assert np.linalg.norm(mended - ideal) < np.linalg.norm(plain - ideal)


@QUICK
@given(seed=SEEDS)
def test_6_fedrot_undoes_rotations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    previous = make_previous(rng, 4)
    clients, weights = make_clients(rng, previous, (4,) * 5), rng.dirichlet(np.ones(5))
    turned = []
    for client in clients:
        turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
        a = (turn.T @ client.A).astype(np.float32)
        turned.append(Pair(a, (client.B @ turn).astype(np.float32), client.scale))
    found = fedrot(turned, weights, previous, context(4)).pair  # type: ignore[arg-type]
    assert (
        error(product(found), product(fedrot(clients, weights, previous, context(4)).pair)) < 5e-6
    )


def test_fedsvd_makes_rows_orthonormal_and_never_leaves_their_space() -> None:
    rng = np.random.default_rng(0)
    previous = first = make_previous(rng, 4)
    for _ in range(20):
        clients = make_clients(rng, previous, (4, 4))
        previous = fedsvd(clients, np.array([0.5, 0.5]), previous, context(4)).pair
    np.testing.assert_allclose(previous.A @ previous.A.T, np.eye(4), atol=1e-6)
    space = np.linalg.qr(first.A.T.astype(np.float64))[0]
    outside = previous.A - previous.A @ space @ space.T
    assert np.linalg.norm(outside) < 1e-5


def test_rolora_takes_b_first_then_a() -> None:
    rng = np.random.default_rng(0)
    previous = make_previous(rng, 4)
    clients = make_clients(rng, previous, (4, 4))
    first = rolora(clients, np.full(2, 0.5), previous, context(4, 1)).pair
    second = rolora(clients, np.full(2, 0.5), previous, context(4, 2)).pair
    np.testing.assert_array_equal(first.A, previous.A)
    np.testing.assert_array_equal(second.B, previous.B)
    assert (first.B != previous.B).any()
    assert (second.A != previous.A).any()


class Mixed:
    """Updates of ranks 2 … 64, or of one factor, to an adapter of rank 64, as in packages."""

    def __init__(self, seed: int, parts: Sequence[tuple[int, str]]) -> None:
        rng = np.random.default_rng(seed)
        self.spec = make_spec(layers=1, rank=64, linears={"self_attn.q_proj": (D_IN, D_OUT)})
        self.current = random_arrays(self.spec, seed, 0.1)
        self.weights = rng.dirichlet(np.ones(len(parts)))
        self.updates = []
        for index, (rank, factors) in enumerate(parts):
            delta = only(random_arrays(at_rank(self.spec, rank), index, 0.01), factors)  # type: ignore[arg-type]
            self.updates.append(MemoryUpdate(f"{index:064x}", delta))
        self.module = self.spec.modules()[0]

    def client(self, update: MemoryUpdate) -> ClientPair:
        return client_pair(update, pair_of(self.current, self.spec, self.module), self.module)

    def changes(self) -> list[np.ndarray]:
        """Dense changes of dW, of what each client was sent."""
        pairs = [self.client(update) for update in self.updates]
        return [product(pair) - product(pair.current) for pair in pairs]


PARTS = st.lists(
    st.tuples(st.sampled_from((2, 4, 8, 16, 32, 64)), st.sampled_from(("AB", "A", "B"))),
    min_size=1,
    max_size=6,
)


@QUICK
@given(seed=SEEDS, parts=PARTS)
def test_10_the_gram_matrix_is_the_dense_one_for_any_ranks_and_factors(
    seed: int, parts: list[tuple[int, str]]
) -> None:
    case = Mixed(seed, parts)
    found = gram(case.updates, case.current, case.spec)
    flat = np.stack([change.ravel() for change in case.changes()])
    expected = flat @ flat.T
    assert np.abs(found - expected).max() <= 1e-7 * np.diag(expected).max()
    for index, update in enumerate(case.updates):
        size = norms(update, case.current, case.spec).product
        assert size == pytest.approx(np.sqrt(expected[index, index]), rel=1e-6)


@QUICK
@given(seed=SEEDS, ranks=st.lists(st.sampled_from((2, 4, 8, 16, 32, 64)), min_size=1, max_size=5))
def test_7_packages_of_ranks_2_to_64_stack_exactly(seed: int, ranks: list[int]) -> None:
    case = Mixed(seed, [(rank, "AB") for rank in ranks])
    merged = merge_all(
        case.updates, case.weights, case.current, case.spec, flora, make_context(case.spec)
    )
    assert len(merged.base[case.module + A]) == sum(ranks)
    pairs = [case.client(update) for update in case.updates]
    total = merged.base[case.module + B].astype(float) @ merged.base[case.module + A]
    assert error(total, weighted_sum(pairs, case.weights)) < 1e-6
    assert not merged.adapter[case.module + B].any()
