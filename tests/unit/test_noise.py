"""Clipping and noise on a node's change: lengths, spread, what is promised, what is sent."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from client.noise import Blur
from client.packaging import make_package
from federation import accountant
from federation.adapter.delta import decode_tensor
from federation.adapter.package import open_package
from federation.adapter.signing import SigningKey
from federation.errors import ConfigError
from tests.adapter_samples import FACTS, make_spec, random_arrays

SPEC = make_spec(rank=16, linears={"self_attn.q_proj": (128, 128)})


def length(arrays: dict[str, np.ndarray]) -> float:
    return math.sqrt(sum(float((value.astype(float) ** 2).sum()) for value in arrays.values()))


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_a_long_change_is_cut_to_the_bound_and_a_short_one_is_left(size: float) -> None:
    change = random_arrays(SPEC, 0, size)
    found = Blur(clip_norm=0.5).apply(change)
    assert length(found) == pytest.approx(min(0.5, length(change)), rel=1e-5)
    ratio = {n: found[n].ravel() @ change[n].ravel() / length({n: change[n]}) for n in change}
    assert all(value > 0 for value in ratio.values())


def test_noise_has_the_spread_that_was_set_on_every_tensor() -> None:
    nothing = {name: np.zeros(shape, np.float32) for name, shape in SPEC.shapes.items()}
    found = Blur(clip_norm=0.5, noise_multiplier=0.2).apply(nothing)
    for value in found.values():
        assert value.std() == pytest.approx(0.1, rel=0.1)
        assert abs(value.mean()) < 0.01
    again = Blur(clip_norm=0.5, noise_multiplier=0.2).apply(nothing)
    assert all((found[name] != again[name]).mean() > 0.99 for name in found)


def test_one_package_promises_what_replacing_a_change_of_twice_the_bound_costs() -> None:
    blur = Blur(clip_norm=1.0, noise_multiplier=4.0)
    assert blur.epsilon == accountant.epsilon(accountant.gaussian(2.0), 1e-5)
    assert Blur(clip_norm=1.0).epsilon == math.inf


def test_noise_without_a_bound_is_refused() -> None:
    with pytest.raises(ConfigError, match="promises nothing"):
        Blur(noise_multiplier=1.0)


@pytest.mark.privacy
def test_what_is_packaged_is_the_blurred_change() -> None:
    key = SigningKey.generate()
    start = {name: np.zeros(shape, np.float32) for name, shape in SPEC.shapes.items()}
    trained = random_arrays(SPEC, 1, 1.0)
    for blur, largest in ((Blur(), math.inf), (Blur(clip_norm=0.01), 0.0101)):
        facts = replace(FACTS, blur=blur)
        data, _lost = make_package(trained, start, SPEC, facts, key)
        file = open_package(data, max_bytes=len(data)).tensors
        sent = {name: decode_tensor(file, name, "bf16") for name in SPEC.shapes}
        assert length(sent) <= largest
        assert length(sent) > 0.0099
