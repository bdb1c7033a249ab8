"""What the round benchmark concludes from its figures, and how it codes in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench_round_bytes import section_of as bytes_section
from bench_round_coding import Nodes, section_of
from bench_round_link import settings_of

from federation.adapter.delta import encode
from tests.adapter_samples import make_spec, random_arrays

FACTS = {"adapter_bytes": 1000, "rank": 8, "report": {"outcome": {"version": None}}}


@pytest.mark.parametrize(("int8", "is_met"), [(300, True), (301, False)])
def test_bytes_are_judged_against_those_of_stock(int8: int, is_met: bool) -> None:
    assert bytes_section({"bf16": 550, "int8": int8}, 1000, FACTS).is_met is is_met


@pytest.mark.parametrize(("worse", "is_met"), [(0.05, True), (0.15, False), (-0.5, True)])
def test_int8_may_be_worse_by_the_noise_of_seeds_and_no_more(worse: float, is_met: bool) -> None:
    exact = [2.9, 3.0, 3.1]  # sd 0.1
    losses = {"f32": exact, "bf16": exact, "int8": [loss + worse for loss in exact]}
    assert section_of(4.0, losses, 48).is_met is is_met


@pytest.mark.parametrize("coding", ["f32", "bf16", "int8"])
def test_what_a_coding_loses_is_made_up_for_the_next_night(coding: str) -> None:
    delta = random_arrays(make_spec(), 1)
    nodes = Nodes(coding)
    once, twice = nodes.update("luna", delta), nodes.update("luna", delta)
    for name, wanted in delta.items():
        got = once.coded(name).decode() + twice.coded(name).decode()
        left = nodes.lost["luna"][name] if coding != "f32" else np.zeros_like(wanted)
        np.testing.assert_allclose(got + left, 2 * wanted, atol=1e-7)


def test_int8_tensors_are_read_with_their_own_scales() -> None:
    delta = random_arrays(make_spec(), 2)
    lost = encode(delta, "int8")[1]
    update = Nodes("int8").update("luna", delta)
    for name, wanted in delta.items():
        np.testing.assert_allclose(update.coded(name).decode(), wanted - lost[name], atol=1e-7)


def test_settings_of_a_run_are_toml() -> None:
    assert settings_of({"nodes": 3, "home": Path("/a b")}) == ["nodes=3", "home='/a b'"]
