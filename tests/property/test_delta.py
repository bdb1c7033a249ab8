"""Coding a delta: bf16 as torch rounds it, int8 within half a step, and nothing lost for good."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from federation.adapter.delta import (
    SCALES,
    add,
    coded_names,
    decode,
    decode_tensor,
    encode,
    from_bf16,
    subtract,
    to_bf16,
)
from federation.adapter.tensors import Arrays, TensorFile, save_tensors
from federation.errors import FormatError
from tests.adapter_samples import make_spec, random_arrays

A, B = "base_model.model.x.lora_A.weight", "base_model.model.x.lora_B.weight"
ANY_BITS = arrays_of.arrays(np.uint32, st.integers(0, 300))
MODERATE = st.floats(-100, 100, width=32)


def pairs(values: st.SearchStrategy[float] = MODERATE) -> st.SearchStrategy[Arrays]:
    """LoRA pairs of any small shape."""

    def pair(shape: tuple[int, int, int]) -> st.SearchStrategy[Arrays]:
        rank, d_in, d_out = shape
        return st.fixed_dictionaries(
            {
                A: arrays_of.arrays(np.float32, (rank, d_in), elements=values),
                B: arrays_of.arrays(np.float32, (d_out, rank), elements=values),
            }
        )

    return st.tuples(*[st.integers(1, 6)] * 3).flatmap(pair)


def through_file(coded: dict[str, np.ndarray], coding: str) -> Arrays:
    return decode(TensorFile.from_bytes(save_tensors(coded)), coding)


@settings(deadline=None)
@given(ANY_BITS)
def test_bf16_rounds_as_torch_does(bits: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    values = bits.view(np.float32)

    ours = from_bf16(to_bf16(values))

    theirs = torch.from_numpy(values.copy()).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(values))
    np.testing.assert_array_equal(ours, theirs)


@settings(deadline=None)
@given(arrays_of.arrays(np.uint16, st.integers(0, 100)))
def test_bf16_values_come_back_bit_by_bit(bits: np.ndarray) -> None:
    finite = np.where(np.isnan(from_bf16(bits)), np.uint16(0), bits)

    np.testing.assert_array_equal(to_bf16(from_bf16(finite)), finite)


def test_bf16_ties_go_to_even() -> None:
    ties = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)

    np.testing.assert_array_equal(to_bf16(ties), np.array([0x3F80, 0x3F82], np.uint16))


@settings(deadline=None)
@given(pairs())
def test_int8_errs_by_half_a_step_of_its_rank_row(delta: Arrays) -> None:
    coded, _ = encode(delta, "int8")
    got = through_file(coded, "int8")

    for row, (name, axis) in enumerate(((A, 1), (B, 0))):
        step = np.abs(delta[name]).max(axis=axis, keepdims=True) / 127
        assert (np.abs(got[name] - delta[name]) <= 0.5001 * step + 1e-37).all()
        assert coded[name].dtype == np.int8
        np.testing.assert_array_equal(coded[SCALES][row], step.reshape(-1))


@pytest.mark.parametrize("coding", ["bf16", "int8"])
@settings(deadline=None)
@given(delta=pairs(), before=st.integers(0, 2**31))
def test_what_is_sent_and_what_is_kept_add_up(coding: str, delta: Arrays, before: int) -> None:
    rng = np.random.default_rng(before)
    residual = {n: rng.normal(0, 0.1, v.shape).astype(np.float32) for n, v in delta.items()}

    coded, lost = encode(delta, coding, residual)
    got = through_file(coded, coding)

    for name, value in delta.items():
        np.testing.assert_array_equal(lost[name], (value + residual[name]) - got[name])


@pytest.mark.parametrize("coding", ["bf16", "int8"])
@settings(max_examples=20, deadline=None)
@given(delta=pairs(st.floats(-1, 1, width=32)))
def test_error_feedback_keeps_the_sum_of_many_rounds(coding: str, delta: Arrays) -> None:
    total = {name: np.zeros(value.shape) for name, value in delta.items()}
    residual: Arrays | None = None
    for _ in range(20):
        coded, residual = encode(delta, coding, residual)
        for name, value in through_file(coded, coding).items():
            total[name] += value

    for name, value in delta.items():
        # without feedback an int8 value could be off by 20 half steps of up to 1/127
        assert np.abs(total[name] - 20 * value.astype(np.float64)).max() <= 0.03


def test_all_zero_rows_decode_to_zero_and_tiny_ones_do_not_overflow() -> None:
    tiny = np.float32(1e-45)
    delta = {A: np.array([[0, 0], [tiny, -tiny]], np.float32), B: np.ones((1, 2), np.float32)}

    coded, lost = encode(delta, "int8")

    assert not through_file(coded, "int8")[A].any()
    np.testing.assert_array_equal(lost[A], delta[A])


def test_int8_refuses_what_has_no_scale() -> None:
    delta = {A: np.array([[np.nan]], np.float32), B: np.ones((1, 1), np.float32)}

    with pytest.raises(FormatError, match=r"lora_A\.weight.*not finite"):
        encode(delta, "int8")


def test_decoding_reuses_a_given_array() -> None:
    delta = random_arrays(make_spec(), 2)
    for coding in ("bf16", "int8"):
        file = TensorFile.from_bytes(save_tensors(encode(delta, coding)[0]))
        assert coded_names(file, coding) == sorted(delta)
        for name, value in delta.items():
            out = np.full(value.shape, np.nan, np.float32)
            assert decode_tensor(file, name, coding, out=out) is out
            np.testing.assert_array_equal(out, decode_tensor(file, name, coding))


def test_large_tensors_are_decoded_in_blocks_without_a_seam() -> None:
    name = A
    delta = {
        name: np.random.default_rng(0).normal(size=(3, 200_001)).astype(np.float32),
        B: np.ones((2, 3), np.float32),
    }
    coded, _ = encode(delta, "bf16")

    expected = coded[name].astype(np.uint32) << 16

    np.testing.assert_array_equal(through_file(coded, "bf16")[name], expected.view(np.float32))


@settings(deadline=None)
@given(pairs(), pairs())
def test_subtract_and_add_want_the_same_tensors(left: Arrays, right: Arrays) -> None:
    if all(left[name].shape == right[name].shape for name in left):
        back = add(right, subtract(left, right))
        np.testing.assert_allclose(back[A], left[A], rtol=1e-6, atol=1e-4)
    else:
        with pytest.raises(FormatError, match="shapes"):
            subtract(left, right)
    with pytest.raises(FormatError, match="one adapter only"):
        add(left, {A: left[A]})


def test_files_in_another_coding_are_refused() -> None:
    delta = random_arrays(make_spec(), 1)
    as_bf16 = TensorFile.from_bytes(save_tensors(encode(delta, "bf16")[0]))
    without_scales = encode(delta, "int8")[0]
    del without_scales[SCALES]
    bare = TensorFile.from_bytes(save_tensors(without_scales))
    name = next(iter(delta))

    for file, coding in ((as_bf16, "int8"), (as_bf16, "f32"), (bare, "int8"), (bare, "zip")):
        with pytest.raises(FormatError):
            decode_tensor(file, name, coding)
