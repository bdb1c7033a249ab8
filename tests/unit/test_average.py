"""Many tensors moved at once: the same bits as one module after another by the rule."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from federation.adapter.delta import to_bf16
from federation.adapter.format import AdapterSpec
from strategies import average as average_module
from strategies.average import average
from strategies.catalogue import RULES
from strategies.coded import NOTHING, Coded, in_a_line
from strategies.merge import merge_all, merge_by
from strategies.rule import Ctx, Rule
from tests.adapter_samples import make_spec, random_arrays
from tests.update_samples import MemoryUpdate, make_context, make_spool, put, typical_delta

pytestmark = pytest.mark.strategies
AVERAGING = [rule for rule in RULES if rule.traits.averages]
EACH = pytest.mark.parametrize("rule", AVERAGING, ids=lambda rule: rule.name)
BOTH = frozenset("AB")


def spec_of_many() -> AdapterSpec:
    return make_spec(layers=3, rank=3, linears={"mlp.down_proj": (33, 17), "q_proj": (8, 5)})


@EACH
@pytest.mark.parametrize("values", [1, 200, 2**18])
@pytest.mark.parametrize("codings", [("bf16",), ("int8",), ("bf16", "int8")])
def test_all_at_once_has_the_bits_of_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    rule: Rule,
    values: int,
    codings: tuple[str, ...],
) -> None:
    monkeypatch.setattr(average_module, "VALUES", values)
    spec = spec_of_many()
    start = random_arrays(spec, 1, 0.1)
    spool = make_spool(tmp_path / "spool")
    for i in range(5):
        put(spool, spec, start, typical_delta(spec, i), coding=codings[i % len(codings)])
    updates = [spool.open(entry.sha256) for entry in spool.entries()]
    weights = np.array([0.1, 0.2, 0.3, 0.15, 0.05])
    for number in (1, 2):
        context = Ctx(round=number, rank=spec.rank, rng=np.random.default_rng(0))
        found = merge_by(rule, updates, weights, start, spec, context).adapter
        expected = merge_all(updates, weights, start, spec, rule.reduce, context).adapter
        assert list(found) == list(expected)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])


def test_updates_may_leave_tensors_out_and_are_asked_once_for_each() -> None:
    spec = spec_of_many()
    start = random_arrays(spec, 1, 0.1)
    names = sorted(spec.shapes)
    asked: Counter[str] = Counter()

    class Counted(MemoryUpdate):
        def coded(self, name: str) -> Coded:
            asked[name] += 1
            return super().coded(name)

    whole, part = random_arrays(spec, 2, 0.1), random_arrays(spec, 3, 0.1)
    del part[names[2]]
    updates = [Counted("a" * 64, whole), Counted("b" * 64, part)]
    found = average(updates, np.array([0.5, 0.25]), start, spec, BOTH)
    assert asked == Counter(dict.fromkeys(names, 2))
    for name in names:
        expected = start[name] + 0.5 * whole[name].astype(np.float64)
        expected += 0.25 * part.get(name, np.zeros(1))
        np.testing.assert_allclose(found[name], expected, rtol=3e-7)


def test_without_updates_and_for_other_factors_all_stays() -> None:
    spec = spec_of_many()
    start = random_arrays(spec, 1, 0.1)
    update = MemoryUpdate("a" * 64, random_arrays(spec, 2, 0.1))
    for found in (
        average([], np.zeros(0), start, spec, BOTH),
        average([update], np.ones(1), start, spec, frozenset()),
        merge_by(AVERAGING[0], [update], np.zeros(1), start, spec, make_context(spec)).adapter,
    ):
        for name, value in start.items():
            np.testing.assert_array_equal(found[name], value)


def test_a_change_of_another_shape_is_refused() -> None:
    spec = spec_of_many()
    start = random_arrays(spec, 1, 0.1)
    delta = random_arrays(spec, 2, 0.1)
    name = next(iter(delta))
    delta[name] = delta[name][:1]
    with pytest.raises(ValueError, match="a change of shape"):
        average([MemoryUpdate("a" * 64, delta)], np.ones(1), start, spec, BOTH)


def test_tensors_in_a_line_are_read_from_any_byte() -> None:
    values = np.random.default_rng(0).normal(size=(1, 60)).astype(np.float32)
    bits = to_bf16(values)
    whole, apart = Coded.of(bits[:, :40]), Coded.of(bits[:, 40:])
    shapes = [(4, 5), (2, 10), (10, 2)]
    terms = [whole._replace(shape=shapes[0]), whole._replace(shape=shapes[1], begin=40)]
    together = in_a_line(terms, shapes[:2])
    assert together is not None
    assert together.source is whole.source  # neighbours: no detour
    line = in_a_line([*terms, apart._replace(shape=shapes[2])], shapes)
    assert line is not None
    assert line.shape == (1, 60)
    np.testing.assert_array_equal(line.decode(), Coded.of(bits).decode())
    stored = bits.tobytes()
    for begin in range(0, 120, 7):
        for end in range(begin, 121, 5):
            buffer = bytearray(end - begin)
            line.source(memoryview(buffer), begin)
            assert buffer == stored[begin:end]


def test_tensors_that_differ_are_in_no_line() -> None:
    one = Coded.of(np.zeros((2, 3), np.uint16))
    steps = np.ones(2, np.float32)
    int8 = Coded.of(np.zeros((2, 3), np.int8), steps)
    shape = (2, 3)
    assert in_a_line([one, int8], [shape, shape]) is None
    assert in_a_line([int8, int8], [shape, shape]) is None
    assert in_a_line([one, NOTHING], [shape, shape]) is None
    assert in_a_line([one, one], [shape, (3, 2)]) is None
