"""Updates for the tests of the strategies: in memory, and as real packages in a spool."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from client.packaging import make_package
from federation.adapter.delta import rank_axis, to_bf16
from federation.adapter.format import AdapterSpec
from federation.adapter.signing import SigningKey, pseudonym
from federation.adapter.tensors import Arrays
from strategies.coded import NOTHING, Coded
from strategies.rule import Ctx
from strategies.spool import Arrival, Spool, SpoolEntry
from tests.adapter_samples import FACTS, random_arrays


@dataclass(frozen=True)
class MemoryUpdate:
    """An update whose delta is f32 arrays in memory."""

    sha256: str
    delta: Arrays

    def coded(self, name: str) -> Coded:
        if name not in self.delta:
            return NOTHING
        return Coded.of(self.delta[name], None, rank_axis(name))


def bf16_exact(arrays: Arrays) -> Arrays:
    """Round to values that bf16 holds exactly."""
    return {
        name: (to_bf16(value).astype(np.uint32) << np.uint32(16)).view(np.float32)
        for name, value in arrays.items()
    }


def make_context(spec: AdapterSpec, seed: int = 0) -> Ctx:
    return Ctx(round=1, rank=spec.rank, rng=np.random.default_rng(seed))


def make_spool(folder: Path) -> Spool:
    return Spool(folder, max_bytes_each=2**20, max_total_bytes=2**24)


def put(
    spool: Spool,
    spec: AdapterSpec,
    start: Arrays,
    delta: Arrays,
    key: SigningKey | None = None,
    **facts: Any,
) -> SpoolEntry:
    """Spool a real, signed package of `delta`; without `key` a node of its own sends it."""
    key = key or SigningKey.generate()
    trained = {name: start[name] + delta[name] for name in start}
    data, _ = make_package(trained, start, spec, replace(FACTS, **facts), key)
    return spool.add(data, Arrival(node=pseudonym(key.public_hex)))


def typical_delta(spec: AdapterSpec, seed: int, size: float = 1e-3) -> Arrays:
    """A change as large as others of the same `size`; only its direction depends on `seed`."""
    return random_arrays(spec, seed, size)


def dense_changes(deltas: list[Arrays], current: Arrays, spec: AdapterSpec) -> np.ndarray:
    """Every change of dW as one long f64 row."""
    rows = []
    for delta in deltas:
        parts = []
        for module in spec.modules():
            a, b = module + ".lora_A.weight", module + ".lora_B.weight"
            a0, b0 = current[a].astype(np.float64), current[b].astype(np.float64)
            after = (b0 + delta[b]) @ (a0 + delta[a])
            parts.append(spec.scale * (after - b0 @ a0).ravel())
        rows.append(np.concatenate(parts))
    return np.array(rows)
