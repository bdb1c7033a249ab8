"""What a version asks for, and parts of adapters: factors, leading rows, their packages."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from client.packaging import make_package, verify
from federation.adapter import delta as delta_module
from federation.adapter.checks import check_update
from federation.adapter.delta import encode, from_bf16, to_bf16
from federation.adapter.format import A, AdapterSpec, B
from federation.adapter.instructions import Instructions
from federation.adapter.manifest import canonical, read_manifest
from federation.adapter.package import Package, open_package
from federation.adapter.parts import at_rank, batches, leading, only
from federation.adapter.signing import SigningKey, pseudonym
from federation.errors import FormatError
from tests.adapter_samples import FACTS, make_sample, make_spec, random_arrays

pytestmark = pytest.mark.strategies
SPEC = make_spec(rank=64)
KEY = SigningKey.generate()


def package_of(spec: AdapterSpec, factors: str = "AB", coding: str = "bf16") -> Package:
    data = make_sample(spec, KEY, factors=factors, coding=coding)  # type: ignore[arg-type]
    return open_package(data, max_bytes=len(data))


def judged(package: Package, asked: Instructions) -> str:
    found = check_update(
        package, SPEC, node=pseudonym(KEY.public_hex), public_key=KEY.public_hex, asked=asked
    )
    return "" if found is None else found.code


@pytest.mark.parametrize("coding", ["bf16", "int8"])
@pytest.mark.parametrize("sent", ["A", "B", "AB"])
def test_a_package_is_valid_exactly_if_its_version_asked_for_its_factors(
    sent: str, coding: str
) -> None:
    package = package_of(SPEC, sent, coding)
    for asked in ("A", "B", "AB"):
        expected = "" if asked == sent else "schema"
        assert judged(package, Instructions(sends=asked)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("rank", [2, 4, 8, 16, 32, 63])
def test_a_lower_rank_is_valid_where_any_rank_was_asked_for(rank: int) -> None:
    package = package_of(at_rank(SPEC, rank))
    assert judged(package, Instructions(any_rank=True)) == ""
    assert judged(package, Instructions()) == "rank"


def test_a_higher_rank_than_the_federations_is_never_valid() -> None:
    assert judged(package_of(make_spec(rank=65)), Instructions(any_rank=True)) == "rank"


def test_another_scale_at_a_lower_rank_is_refused() -> None:
    package = package_of(make_spec(rank=8, alpha=16.0))  # at the federation's scale it is 2
    assert judged(package, Instructions(any_rank=True)) == "alpha"


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("rank", [2, 3, 5, 8, 16, 31, 64])
def test_leading_rows_keep_the_scale(rank: int, rslora: bool) -> None:
    spec = make_spec(rank=64, rslora=rslora)
    cut = at_rank(spec, rank)
    assert cut.scale == pytest.approx(spec.scale, rel=1e-12)
    arrays = random_arrays(spec, 0)
    rows = leading(arrays, cut)
    for module in spec.modules():
        np.testing.assert_array_equal(rows[module + A], arrays[module + A][:rank])
        np.testing.assert_array_equal(rows[module + B], arrays[module + B][:, :rank])
    with pytest.raises(FormatError):
        at_rank(spec, 65)


def test_a_part_is_small_on_the_wire() -> None:
    whole, half = package_of(SPEC), package_of(SPEC, "B")
    bytes_of_b = 2 * sum(rows * columns for rows, columns in only(SPEC.shapes, "B").values())
    assert bytes_of_b < half.tensors.size_bytes < bytes_of_b + 2000
    assert package_of(at_rank(SPEC, 2)).size_bytes < whole.size_bytes / 8


def test_what_asks_for_nothing_special_reads_as_before() -> None:
    text = canonical(package_of(SPEC).manifest)
    assert "factors" not in json.loads(text)
    assert "factors" in json.loads(canonical(package_of(SPEC, "B").manifest))
    told = json.loads(text) | {"factors": "AB"}
    with pytest.raises(FormatError, match="canonical"):
        read_manifest(canonical(told))


def test_a_node_checks_its_own_parts() -> None:
    cut = at_rank(SPEC, 4)
    arrays = random_arrays(cut, 0)
    trained = {name: value + 1 for name, value in arrays.items()}
    data, lost = make_package(trained, arrays, cut, FACTS, KEY)
    assert set(lost) == set(cut.shapes)
    assert "rank 4, alpha 1, bf16" in verify(data, SPEC)
    half = replace(FACTS, factors="B")
    data, lost = make_package(trained, arrays, cut, half, KEY)
    assert set(lost) == set(only(cut.shapes, "B"))
    assert "one factor of each module: B" in verify(data, SPEC)


def test_instructions_send_no_more_than_is_trained() -> None:
    assert Instructions(trains="B").sends == "B"
    with pytest.raises(ValidationError):
        Instructions(trains="B", sends="AB")


def test_batches_hold_neighbours_and_no_more_values_than_they_may() -> None:
    shapes = {"a": (2, 3), "b": (1, 4), "c": (5, 5), "d": (1, 1), "e": (3, 3)}
    assert list(batches(shapes, shapes, 10)) == [["a", "b"], ["c"], ["d", "e"]]
    assert list(batches(shapes, shapes, 1)) == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert list(batches(shapes, shapes, 10**6)) == [list(shapes)]
    assert list(batches([], shapes, 10)) == []


@pytest.mark.parametrize("values", [1, 50, 2**18])
def test_tensors_coded_together_are_coded_as_each_alone(
    monkeypatch: pytest.MonkeyPatch, values: int
) -> None:
    monkeypatch.setattr(delta_module, "BLOCK", values)
    spec = make_spec(layers=2, rank=3)
    delta, lost_before = random_arrays(spec, 1, 0.1), random_arrays(spec, 2, 1e-4)
    coded, lost = encode(delta, "bf16", lost_before)
    assert list(coded) == list(lost) == sorted(spec.shapes)
    for name, value in delta.items():
        wanted = value + lost_before[name]
        np.testing.assert_array_equal(coded[name], to_bf16(wanted))
        np.testing.assert_array_equal(lost[name], wanted - from_bf16(coded[name]))
