"""A change as it travels, in memory: coded as a node codes it, with what earlier codings lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federation.adapter.delta import SCALES, encode, rank_axis
from federation.adapter.tensors import Arrays, RawTensor
from strategies.coded import Coded, kind_of, source_of

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
        coded: Mapping[str, RawTensor] = {}
        steps: Mapping[str, npt.NDArray[np.float32]] = {}
        if self.coding != "f32":
            part, kept = factors(delta, sends), self._lost.setdefault(client, {})
            held = {name: kept[name] for name in part if name in kept}
            coded, lost = encode(part, self.coding, held or None)
            if self._feedback:
                kept |= lost
            steps = dict(zip(sorted(part), coded.pop(SCALES, np.empty(0)), strict=False))
        whole = {n: Coded.of(v, None, rank_axis(n)) for n, v in delta.items() if n not in coded}
        return VirtualUpdate(f"{client:064x}", whole | _in_a_row(coded, steps))

    def bytes_of(self, delta: Arrays, sends: frozenset[str]) -> int:
        """Bytes of the factors that are sent."""
        values = sum(value.size for name, value in delta.items() if name[FACTOR] in sends)
        return ITEM_BYTES[self.coding] * values


def _in_a_row(
    coded: Mapping[str, RawTensor], steps: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, Coded]:
    """Tensors one after another, as they lie in a package."""
    if not coded:
        return {}
    source, begin, tensors = source_of(list(coded.values())), 0, {}
    for name, value in coded.items():
        place = source, begin, steps.get(name), rank_axis(name)
        tensors[name] = Coded(kind_of(value), value.shape, *place)
        begin += value.nbytes
    return tensors


def factors(arrays: Mapping[str, np.ndarray], chosen: frozenset[str]) -> Arrays:
    """Return the tensors of the chosen factors."""
    return {name: value for name, value in arrays.items() if name[FACTOR] in chosen}
