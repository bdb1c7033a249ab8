"""The merge: one result for one set of updates, whatever the order, coding, size or company."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.adapter.delta import decode
from federation.adapter.format import AdapterSpec, initial_arrays
from federation.adapter.tensors import Arrays
from federation.errors import ConfigError
from strategies import coded
from strategies.catalogue import RULES, find
from strategies.coded import Coded, moved
from strategies.merge import merge
from strategies.pairs import Pair
from strategies.rule import Out
from strategies.rules.fedit import FEDIT
from strategies.spool import Spool, SpooledUpdate
from tests.adapter_samples import make_spec
from tests.update_samples import MemoryUpdate, make_context, make_spool, put, typical_delta

pytestmark = pytest.mark.strategies


def spooled(
    folder: Path, spec: AdapterSpec, start: Arrays, count: int, codings: tuple[str, ...] = ("bf16",)
) -> list[SpooledUpdate]:
    spool = make_spool(folder / "spool")
    for i in range(count):
        put(spool, spec, start, typical_delta(spec, i), coding=codings[i % len(codings)])
    return [spool.open(entry.sha256) for entry in spool.entries()]


def reference(
    updates: list[SpooledUpdate], weights: np.ndarray, start: Arrays
) -> dict[str, np.ndarray]:
    """The sum written down plainly, in f64."""
    total = {name: value.astype(np.float64) for name, value in start.items()}
    for update, weight in zip(updates, weights, strict=True):
        for name, value in decode(update.package.tensors, update.manifest.coding).items():
            total[name] += weight * value.astype(np.float64)
    return total


@pytest.mark.parametrize("codings", [("bf16",), ("int8",), ("bf16", "int8")])
@pytest.mark.parametrize("rank", [1, 3, 4])
def test_the_merge_is_the_weighted_sum_of_decoded_deltas(
    tmp_path: Path, codings: tuple[str, ...], rank: int
) -> None:
    spec = make_spec(rank=rank, linears={"mlp.down_proj": (33, 17), "self_attn.q_proj": (8, 5)})
    start = initial_arrays(spec, 0)
    updates = spooled(tmp_path, spec, start, 5, codings)
    weights = np.array([0.1, 0.2, 0.3, 0.15, 0.05])
    merged = merge(updates, weights, start, spec, FEDIT.reduce, make_context(spec))
    assert list(merged) == list(spec.shapes)
    for name, value in reference(updates, weights, start).items():
        assert merged[name].dtype == np.float32
        np.testing.assert_allclose(merged[name], value, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("codings", [("bf16",), ("int8",), ("bf16", "int8")])
def test_the_order_of_arrival_changes_no_bit(tmp_path: Path, codings: tuple[str, ...]) -> None:
    spec = make_spec()
    start = initial_arrays(spec, 0)
    updates = spooled(tmp_path, spec, start, 7, codings)
    weights = np.random.default_rng(0).dirichlet(np.ones(7))
    context = make_context(spec)
    first = merge(updates, weights, start, spec, FEDIT.reduce, context)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(7)
        shuffled = [updates[i] for i in order]
        again = merge(shuffled, weights[order], start, spec, FEDIT.reduce, context)
        for name in first:
            np.testing.assert_array_equal(first[name], again[name])


@pytest.mark.parametrize("block", [2, 6, 64, 2**15])
def test_the_size_of_blocks_and_groups_changes_nothing_but_rounding(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=(7, 31)).astype(np.float32)
    bits = [rng.integers(0x3F00, 0x4000, (7, 31)).astype(np.uint16) for _ in range(9)]
    steps = rng.uniform(0.5, 1.5, 7).astype(np.float32)
    ints = [rng.integers(-127, 128, (7, 31)).astype(np.int8) for _ in range(9)]
    terms = [Coded.of(each) for each in bits] + [Coded.of(each, steps, 0) for each in ints]
    weights = rng.dirichlet(np.ones(18))
    expected = moved(start, terms, weights)
    monkeypatch.setattr(coded, "BLOCK", block)
    monkeypatch.setattr(coded, "CELLS", 3 * block)
    np.testing.assert_allclose(moved(start, terms, weights), expected, rtol=3e-7)


@pytest.mark.parametrize("columns", [4, 20_000, 40_001])
@pytest.mark.parametrize("axis", [0, 1])
def test_long_and_short_rows_of_int8_get_their_own_step(columns: int, axis: int) -> None:
    shape = (4, columns) if axis == 0 else (columns, 4)
    steps = np.array([1.0, 10.0, 100.0, 1000.0], np.float32)
    found = Coded.of(np.ones(shape, np.int8), steps, axis).decode()
    assert (found == (steps[:, None] if axis == 0 else steps)).all()


def test_no_update_and_zero_weights_leave_the_current_adapter(tmp_path: Path) -> None:
    spec = make_spec()
    start = initial_arrays(spec, 0)
    updates = spooled(tmp_path, spec, start, 2)
    for chosen, weights in (([], np.empty(0)), (updates, np.zeros(2))):
        merged = merge(chosen, weights, start, spec, FEDIT.reduce, make_context(spec))
        for name in start:
            np.testing.assert_array_equal(merged[name], start[name])
            assert not np.shares_memory(merged[name], start[name])


def test_deltas_of_an_older_version_are_put_on_the_current_one() -> None:
    spec = make_spec()
    delta = typical_delta(spec, 1)
    now = typical_delta(spec, 2, 0.05)
    update = MemoryUpdate("1" * 64, delta)
    merged = merge([update], np.ones(1), now, spec, FEDIT.reduce, make_context(spec))
    for name in now:
        np.testing.assert_array_equal(merged[name], now[name] + delta[name])


def test_memory_does_not_grow_with_the_number_of_updates(tmp_path: Path) -> None:
    spec = make_spec(layers=4, rank=16, linears={"self_attn.q_proj": (2048, 2048)})
    start = initial_arrays(spec, 0)
    spool = Spool(tmp_path / "spool", max_bytes_each=2**22, max_total_bytes=2**30)
    for i in range(40):
        put(spool, spec, start, typical_delta(spec, i))
    peaks = []
    for count in (20, 40):
        updates = [spool.open(entry.sha256) for entry in spool.entries()[:count]]
        weights = np.full(count, 1 / count)
        for update in updates:
            update.coded(next(iter(spec.shapes)))  # headers are in memory, tensors are not
        tracemalloc.start()
        merge(updates, weights, start, spec, FEDIT.reduce, make_context(spec))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2**17
    assert peaks[1] < 3 * spec.tensor_bytes + 2**22


@pytest.mark.parametrize("weights", [[0.6, 0.6], [-0.1, 0.5], [np.nan, 0.5], [np.inf, 0], [0.5]])
def test_weights_that_are_no_shares_are_an_error(weights: list[float]) -> None:
    spec = make_spec()
    updates = [MemoryUpdate(f"{i:064x}", typical_delta(spec, i)) for i in range(2)]
    start = initial_arrays(spec, 0)
    with pytest.raises(ValueError, match="weights"):
        merge(updates, np.array(weights), start, spec, FEDIT.reduce, make_context(spec))


def test_an_update_cannot_be_merged_twice() -> None:
    spec = make_spec()
    update = MemoryUpdate("1" * 64, typical_delta(spec, 1))
    start = initial_arrays(spec, 0)
    with pytest.raises(ValueError, match="twice"):
        merge([update, update], np.full(2, 0.5), start, spec, FEDIT.reduce, make_context(spec))


def test_a_rule_that_breaks_the_adapter_is_an_error() -> None:
    spec = make_spec()
    start, update = initial_arrays(spec, 0), MemoryUpdate("1" * 64, typical_delta(spec, 1))

    def truncates(pairs: Any, weights: Any, previous: Pair, ctx: Any) -> Out:
        return Out(Pair(previous.A[:1], previous.B[:, :1], previous.scale))

    def edits_base(pairs: Any, weights: Any, previous: Pair, ctx: Any) -> Out:
        return Out(previous, base=previous)

    for rule, message in ((truncates, "shape"), (edits_base, "base")):
        with pytest.raises(ValueError, match=message):
            merge([update], np.ones(1), start, spec, rule, make_context(spec))


def test_values_too_large_for_f32_do_not_stop_the_merge() -> None:
    start = np.full((2, 2), 3e38, np.float32)
    assert np.isinf(moved(start, [Coded.of(start)], np.ones(1))).all()


def test_terms_of_another_shape_or_number_are_an_error() -> None:
    start = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="shape"):
        moved(start, [Coded.of(np.zeros((1, 3), np.float32))], np.ones(1))
    with pytest.raises(ValueError, match="weights"):
        moved(start, [Coded.of(start)], np.ones(2))


def test_strategies_are_found_by_name_and_the_nearest_is_offered() -> None:
    assert find("fedit") is FEDIT
    assert len({rule.name for rule in RULES}) == len(RULES)
    with pytest.raises(ConfigError) as caught:
        find("fedti")
    assert "fedit" in caught.value.hint
