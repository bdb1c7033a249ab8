"""What rules that edit the base add to it, as a second adapter that stock PEFT loads.

A sum of rounds is a stack of factors in f32, of scale 1: it is never added to the base's own
weights round by round (ten merges into bf16 lost 69 % of the sum). Ranks add up; `rank_limit` says
from where on a dense copy would be smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from federation.adapter.format import A, AdapterSpec, B
from federation.adapter.tensors import Arrays

F32 = npt.NDArray[np.float32]


def base_spec(spec: AdapterSpec, base: Mapping[str, F32]) -> AdapterSpec:
    """Return the spec of a base delta of the adapters of `spec`: its own rank, scale 1.

    Raises:
        FormatError: tensors of other names, or ranks that differ.
    """
    shapes = {name: (int(value.shape[0]), int(value.shape[1])) for name, value in base.items()}
    rank = next((shape[0] for name, shape in shapes.items() if name.endswith(A)), 0)
    return replace(spec, rank=rank, alpha=float(rank), rslora=False, shapes=shapes)


def add_base(earlier: Mapping[str, F32], new: Mapping[str, F32]) -> Arrays:
    """Return the sum of two base deltas; either may be empty. Ranks add up."""
    if not earlier or not new:
        return dict(earlier or new)
    return {
        name: np.concatenate([earlier[name], new[name]], axis=1 if name.endswith(B) else 0)
        for name in sorted(new)
    }


def rank_limit(spec: AdapterSpec) -> int:
    """Return the largest rank at which factors of every module are smaller than dense copies."""
    sizes = [(spec.shapes[module + B][0], spec.shapes[module + A][1]) for module in spec.modules()]
    dense = sum(d_out * d_in for d_out, d_in in sizes)
    return dense // sum(d_out + d_in for d_out, d_in in sizes)
