"""Inner products of changes of dW, computed from factors alone."""

from __future__ import annotations

import numpy as np
import pytest

from federation.adapter.parts import at_rank
from federation.adapter.tensors import Arrays
from strategies.gram import _factor, gram
from tests.adapter_samples import make_spec, random_arrays
from tests.update_samples import MemoryUpdate, bf16_exact, dense_changes

pytestmark = pytest.mark.strategies


def updates_of(deltas: list[Arrays]) -> list[MemoryUpdate]:
    return [MemoryUpdate(f"{index:064x}", delta) for index, delta in enumerate(deltas)]


@pytest.fixture(params=["f64", "f32"])
def bound(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """How near to the dense one it has to be, by the precision that a size gets."""
    if request.param == "f64":
        return 1e-9
    monkeypatch.setattr("strategies.gram.EXACT", 0)
    return 1e-6


@pytest.mark.parametrize("relative_size", [1.0, 1e-3])
@pytest.mark.parametrize("tile", [2, 64])
def test_gram_is_the_dense_gram_of_the_changes(
    relative_size: float, tile: int, bound: float
) -> None:
    spec = make_spec()
    current = random_arrays(spec, 0, 0.1)
    deltas = [random_arrays(spec, seed, 0.1 * relative_size) for seed in range(1, 6)]
    changes = dense_changes(deltas, current, spec)
    dense = changes @ changes.T
    found = gram(updates_of(deltas), current, spec, tile=tile)
    assert np.abs(found - dense).max() <= bound * np.abs(dense).max()
    np.testing.assert_array_equal(found, found.T)


def test_clients_of_other_ranks_and_of_no_change_are_counted(bound: float) -> None:
    spec = make_spec(rank=8)
    current = random_arrays(spec, 0, 0.1)
    small = random_arrays(at_rank(spec, 2), 1, 0.01)
    padded = {name: np.zeros_like(value) for name, value in current.items()}
    for name, value in small.items():
        padded[name][: value.shape[0], : value.shape[1]] = value
    full = random_arrays(spec, 2, 0.01)
    only_b = {name: value for name, value in full.items() if "lora_B" in name}
    whole = [
        padded,
        full,
        {n: only_b.get(n, 0 * v) for n, v in full.items()},
        {n: 0 * v for n, v in full.items()},
    ]
    changes = dense_changes(whole, current, spec)
    dense = changes @ changes.T
    found = gram(updates_of([small, full, only_b, {}]), current, spec, tile=3)
    assert np.abs(found - dense).max() <= bound * np.abs(dense).max()
    assert not found[3].any()


def test_sums_of_squares_of_bf16_are_not_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(layers=24, rank=8, linears={"self_attn.q_proj": (2048, 512)})
    current = random_arrays(spec, 0, 0.1)
    deltas = [bf16_exact(random_arrays(spec, seed, 1e-3)) for seed in range(1, 4)]
    exact = gram(updates_of(deltas), current, spec)
    monkeypatch.setattr("strategies.gram.EXACT", 0)
    found = gram(updates_of(deltas), current, spec)
    # OpenBLAS adds up in another order on each kind of processor: 3e-9 to 1.5e-8 on three of them
    assert np.abs(np.diag(found) / np.diag(exact) - 1).mean() < 2.5e-8
    monkeypatch.setattr("strategies.gram._factor", lambda _number: np.float32(1))
    biased = gram(updates_of(deltas), current, spec)
    assert (np.diag(biased) / np.diag(exact) - 1).mean() < -1e-7  # else the factor is not needed


def test_no_modules_factor_has_as_few_digits_as_bf16() -> None:
    factors = [_factor(number) for number in range(1000)]
    assert min(factors) >= 0.5
    assert max(factors) < 1
    assert not [each for each in factors if each == np.round(each * 2**8) / 2**8]
