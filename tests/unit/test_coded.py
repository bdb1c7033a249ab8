"""Tensors decoded as they were coded."""

from __future__ import annotations

import numpy as np
import pytest

from federation.adapter.delta import to_bf16
from strategies.coded import NOTHING, Coded, decode_across, decode_all

pytestmark = pytest.mark.strategies


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("kind", ["bf16", "mixed"])
def test_terms_are_decoded_side_by_side(dtype: type, count: int, kind: str) -> None:
    values = np.random.default_rng(0).normal(size=(count, 3000, 4)).astype(np.float32)
    terms = [Coded.of(to_bf16(each)) for each in values]
    if kind == "mixed":
        terms[-1] = Coded.of(values[-1])
    whole = np.full((3000, 1 + count, 4), np.nan, dtype)  # rows end where others begin
    decode_across(terms, np.float32(0.75), whole[:, 1:])
    for number, term in enumerate(terms, 1):
        expected = term.decode().astype(dtype) * dtype(0.75)
        np.testing.assert_array_equal(whole[:, number], expected)
    assert np.isnan(whole[:, 0]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_terms_of_all_kinds_are_decoded_together(dtype: type) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(21, 6, 4)).astype(np.float32)
    steps = rng.uniform(0.1, 1, 4).astype(np.float32)
    terms = [Coded.of(to_bf16(each)) for each in values[:19]]  # two whole groups, and a mixed one
    terms += [Coded.of(np.full((6, 4), -3, np.int8), steps, 1), NOTHING, Coded.of(values[20])]
    terms.append(Coded.of(values[20, :5, :2].copy()))
    out = np.full((len(terms), 6, 4), np.nan, dtype)
    factor = np.float32(0.75)
    decode_all(terms, factor, out)
    for term, found in zip(terms, out, strict=True):
        expected = np.zeros((6, 4), dtype)
        if term.shape:
            expected[: term.shape[0], : term.shape[1]] = term.decode().astype(dtype) * dtype(0.75)
        np.testing.assert_array_equal(found, expected)
