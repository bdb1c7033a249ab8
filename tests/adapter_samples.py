"""Small real adapters, packages and keys for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from client.packaging import PackageFacts, make_package
from federation.adapter.format import AdapterSpec, Arrays, initial_arrays
from federation.adapter.manifest import Coding
from federation.adapter.signing import SigningKey

PREFIX = "base_model.model.model.layers."
LINEARS = {
    "self_attn.q_proj": (32, 32),
    "self_attn.v_proj": (32, 16),
    "mlp.down_proj": (64, 32),
}
FACTS = PackageFacts(
    global_version=0,
    global_sha256="0" * 64,
    examples=12,
    tokens=3400,
    steps=7,
    loss_before=2.5,
    loss_after=2.25,
)


def make_spec(
    *,
    layers: int = 2,
    rank: int = 4,
    linears: dict[str, tuple[int, int]] | None = None,
    **other: Any,
) -> AdapterSpec:
    """Spec over `linears`: module suffix -> (d_in, d_out)."""
    shapes: dict[str, tuple[int, int]] = {}
    chosen = LINEARS if linears is None else linears
    for layer in range(layers):
        for module, (d_in, d_out) in chosen.items():
            shapes[f"{PREFIX}{layer}.{module}.lora_A.weight"] = (rank, d_in)
            shapes[f"{PREFIX}{layer}.{module}.lora_B.weight"] = (d_out, rank)
    values: dict[str, Any] = {
        "base_hash": "ab" * 32,
        "base_ref": "semilla",
        "alpha": 16.0,
        "rslora": False,
        "targets": tuple(module.rpartition(".")[2] for module in chosen),
    }
    return AdapterSpec(rank=rank, shapes=shapes, **(values | other))


def random_arrays(spec: AdapterSpec, seed: int, scale: float = 1e-2) -> Arrays:
    """Normal values for every tensor."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, scale, shape).astype(np.float32) for name, shape in spec.shapes.items()
    }


def make_sample(
    spec: AdapterSpec, key: SigningKey, *, seed: int = 1, coding: Coding = "bf16", **facts: Any
) -> bytes:
    """Build a valid package of a random change; the same seed makes the same tensors."""
    start = initial_arrays(spec, 0)
    change = random_arrays(spec, seed)
    trained = {name: start[name] + change[name] for name in start}
    return make_package(trained, start, spec, replace(FACTS, coding=coding, **facts), key)[0]
