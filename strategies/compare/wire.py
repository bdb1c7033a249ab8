"""A change as it travels, in memory: coded as a node codes it, with what earlier codings lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from federation.adapter.delta import encode, rank_axis
from federation.adapter.tensors import Arrays
from strategies.coded import Coded

ITEM_BYTES = {"f32": 4, "bf16": 2, "int8": 1}
FACTOR = -8  # place of A or B in "….lora_A.weight"


@dataclass(frozen=True)
class VirtualUpdate:
    """One client's change in memory; `strategies.pairs.Update` is what it stands for."""

    sha256: str
    tensors: Mapping[str, Coded]

    def coded(self, name: str) -> Coded:
        """Tensor `name` of the change."""
        return self.tensors[name]


class Coder:
    """Codes changes and remembers, client by client, what coding lost.

    Args:
        coding: "bf16", "int8", or "f32" (as it is).
        feedback: add what the last coding lost to the next change; not where a rule has given
            factors new coordinates since.
    """

    def __init__(self, coding: str, *, feedback: bool = True) -> None:
        self.coding, self._feedback = coding, feedback
        self._lost: dict[int, Arrays] = {}

    def code(self, client: int, delta: Arrays, sends: frozenset[str]) -> VirtualUpdate:
        """Code the factors that are sent; the others do not change, and what they lost waits.

        `delta` is kept, not copied, where nothing is to be coded.
        """
        tensors = {name: Coded.of(value, None, rank_axis(name)) for name, value in delta.items()}
        if self.coding != "f32":
            part, kept = factors(delta, sends), self._lost.setdefault(client, {})
            held = {name: kept[name] for name in part if name in kept}
            coded, lost = encode(part, self.coding, held or None)
            if self._feedback:
                kept |= lost
            steps = dict(zip(sorted(part), coded.pop("scales", np.empty(0)), strict=False))
            for name, value in coded.items():
                tensors[name] = Coded.of(value, steps.get(name), rank_axis(name))
        return VirtualUpdate(f"{client:064x}", tensors)

    def bytes_of(self, delta: Arrays, sends: frozenset[str]) -> int:
        """Bytes of the factors that are sent."""
        values = sum(value.size for name, value in delta.items() if name[FACTOR] in sends)
        return ITEM_BYTES[self.coding] * values


def factors(arrays: Mapping[str, np.ndarray], chosen: frozenset[str]) -> Arrays:
    """Return the tensors of the chosen factors."""
    return {name: value for name, value in arrays.items() if name[FACTOR] in chosen}
