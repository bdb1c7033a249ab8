"""Low-rank deltas added to a base model's own weights, in memory and for a time (simulation).

A node keeps such a delta as a second adapter. Where one process plays many nodes over many rounds,
its rank would grow by all of them each round; so the sum is dense here, in f32 and on the CPU, and
always put on the weights as they were loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from federation.adapter.format import PREFIX, A, B
from federation.errors import ModelError
from federation.model.load import Loaded

F32 = npt.NDArray[np.float32]


class Ground:
    """The weights of `loaded` that deltas are added to, kept as they were.

    Args:
        loaded: on the CPU, f32, with no adapter attached while weights change.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._first: dict[str, F32] = {}
        self._sum: dict[str, F32] = {}

    def reset(self) -> None:
        """Give the base its own weights back."""
        for module, weights in self._first.items():
            self._weights(module)[...] = weights
        self._sum.clear()

    def add(self, delta: Mapping[str, F32]) -> None:
        """Add B @ A of each module.

        Args:
            delta: a base delta as `strategies.merge.Merged.base` gives it (scale 1).

        Raises:
            ModelError: the base is not f32 on the CPU, or has no such layer.
        """
        for name in sorted(delta):
            if not name.endswith(A):
                continue
            module = name.removesuffix(A)
            change = delta[module + B] @ delta[name]
            view = self._weights(module)
            self._first.setdefault(module, view.copy())
            if view.shape != change.shape:  # GPT-2 keeps its weights the other way round
                change = change.T
            self._sum[module] = self._sum.get(module, np.zeros_like(change)) + change
            view[...] = self._first[module] + self._sum[module]

    def _weights(self, module: str) -> F32:
        if self._loaded.adapted is not None:
            raise ModelError("an adapter is attached to the base")
        try:
            weight = self._loaded.model.get_submodule(module.removeprefix(PREFIX)).weight
            view: F32 = weight.detach().numpy()
        except (AttributeError, TypeError, RuntimeError) as err:
            raise ModelError(f"nothing can be added to {module}: {err}") from err
        if view.dtype != np.float32:
            raise ModelError(f"{module} is {view.dtype}, not float32")
        return view
