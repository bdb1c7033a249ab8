"""Pairs, and the geometry of dW computed from factors alone."""

from __future__ import annotations

import numpy as np
import pytest

from federation.adapter.format import initial_arrays
from strategies.pairs import Pair, client_pair, norms, pair_of, stack, to_adapter, to_arrays
from tests.adapter_samples import make_spec, random_arrays
from tests.update_samples import MemoryUpdate, dense_changes

pytestmark = pytest.mark.strategies


def test_norms_are_those_of_dense_changes_and_of_the_factors() -> None:
    spec = make_spec()
    current, delta = random_arrays(spec, 0, 0.1), random_arrays(spec, 1, 1e-3)
    found = norms(MemoryUpdate("0" * 64, delta), current, spec)
    dense = np.linalg.norm(dense_changes([delta], current, spec))
    assert found.product == pytest.approx(dense, rel=1e-6)
    for suffix, norm in ((".lora_A.weight", found.a), (".lora_B.weight", found.b)):
        parts = [value.ravel() for name, value in delta.items() if name.endswith(suffix)]
        assert norm == pytest.approx(np.linalg.norm(np.concatenate(parts)), rel=1e-6)


def test_norms_of_no_change_are_zero_and_of_a_huge_one_finite() -> None:
    spec = make_spec()
    current = random_arrays(spec, 0, 0.1)
    nothing = {name: np.zeros_like(value) for name, value in current.items()}
    found = norms(MemoryUpdate("0" * 64, nothing), current, spec)
    assert (found.product, found.a, found.b) == (0.0, 0.0, 0.0)
    huge = {name: np.full_like(value, 3e38) for name, value in current.items()}
    with np.errstate(over="ignore"):
        found = norms(MemoryUpdate("0" * 64, huge), current, spec)
    assert np.isfinite([found.product, found.a, found.b]).all()


def test_stack_is_the_weighted_sum_of_products_with_unequal_ranks_and_scales() -> None:
    rng = np.random.default_rng(0)
    pairs = [
        Pair(
            rng.normal(size=(rank, 12)).astype(np.float32),
            rng.normal(size=(9, rank)).astype(np.float32),
            scale,
        )
        for rank, scale in ((2, 8.0), (4, 4.0), (1, 0.5))
    ]
    weights = np.array([0.5, 0.3, 0.2])
    found = stack(pairs, weights)
    ideal = sum(w * p.scale * p.B.astype(float) @ p.A for w, p in zip(weights, pairs, strict=True))
    assert found.A.shape == (7, 12)
    assert found.scale == 1.0
    error = np.linalg.norm(found.B.astype(float) @ found.A - ideal) / np.linalg.norm(ideal)
    assert error < 1e-6


def test_a_client_pair_is_the_current_pair_plus_its_delta() -> None:
    spec = make_spec()
    current, delta = initial_arrays(spec, 0), random_arrays(spec, 1)
    module = spec.modules()[0]
    pair = client_pair(MemoryUpdate("0" * 64, delta), pair_of(current, spec, module), module)
    a, b = module + ".lora_A.weight", module + ".lora_B.weight"
    np.testing.assert_array_equal(pair.A, current[a] + delta[a])
    np.testing.assert_array_equal(pair.B, current[b] + delta[b])
    assert pair.scale == spec.scale


def test_arrays_to_adapter_and_back_are_the_same_views() -> None:
    spec = make_spec()
    arrays = random_arrays(spec, 0)
    back = to_arrays(to_adapter(arrays, spec))
    assert list(back) == list(spec.shapes)
    assert all(back[name] is arrays[name] for name in arrays)
