"""Padding: few sizes, little added, nothing lost, and nothing that Flower would send only once."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import FormatError
from federation.flower_env import CHUNK_BYTES
from federation.padding import cut, pad, padded_size

KIB, MIB = 2**10, 2**20
# What a package has beside its tensors, at most: manifest, configuration, names, zip.
FRAME_BYTES = 12 * KIB
sizes = st.integers(1, 200 * MIB)


@given(st.binary(min_size=1, max_size=5000))
def test_what_is_padded_is_cut_to_itself(data: bytes) -> None:
    blob = pad(data)
    assert len(blob) == padded_size(len(data))
    assert bytes(cut(blob, len(data))) == data


@given(sizes)
def test_a_padded_size_needs_no_padding_and_sizes_stay_in_order(size: int) -> None:
    padded = padded_size(size)
    assert padded_size(padded) == padded >= size
    assert padded_size(size + 1) >= padded


@given(st.integers(KIB, 100 * MIB))
def test_the_wire_stays_within_a_twentieth_of_the_tensors_and_16_kib(tensor_bytes: int) -> None:
    assert padded_size(tensor_bytes + FRAME_BYTES) <= 1.05 * tensor_bytes + 16 * KIB


@given(sizes.filter(lambda size: size >= 64 * KIB))
def test_a_watcher_sees_one_of_few_sizes(size: int) -> None:
    """Between a size and its double lie at most 32 others."""
    seen = {padded_size(size)}
    while max(seen) < 2 * size:
        seen.add(padded_size(max(seen) + 1))
    assert len(seen) <= 34


def test_the_sizes_are_those_of_the_paper() -> None:
    """By hand, section 4: L = 9 is 1001 in binary, E = 3, S = 2, so its last bit is rounded up."""
    assert [padded_size(size) for size in (0, 1, 2, 8, 9, 15, 16, 17, 1000, 1025)] == [
        *(0, 1, 2, 8, 10, 16, 16, 18, 1024, 1088),
    ]
    steps = {after - before for before, after in pairwise(sorted(map(padded_size, range(2048))))}
    assert max(steps) == 64


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_any_other_size_is_refused(size: int, said: int) -> None:
    blob = pad(b"x" * size)
    if padded_size(said) == len(blob):
        assert len(cut(blob, said)) == said
    else:
        with pytest.raises(FormatError, match="bytes were announced"):
            cut(blob, said)


def test_nothing_is_not_a_package() -> None:
    with pytest.raises(FormatError):
        cut(b"", 0)


def test_no_two_chunks_of_padding_are_equal() -> None:
    size = 64 * MIB + 1
    blob = pad(bytes(size))
    added = memoryview(blob)[size:]
    chunks = [bytes(added[at : at + CHUNK_BYTES]) for at in range(0, len(added), CHUNK_BYTES)]
    assert len(chunks) > 4
    assert len(set(chunks)) == len(chunks)
