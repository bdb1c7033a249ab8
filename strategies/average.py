"""Factors moved by the weighted mean of their changes, for rules that do no more than that.

Such a rule looks at one number of each update at a time, so tensors need not be taken one by one:
of many small ones, what is done around a sum takes longer than the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from federation.adapter.format import A, AdapterSpec, B
from federation.adapter.parts import apart, batches
from federation.adapter.tensors import Arrays
from strategies.coded import Coded, in_a_line, moved
from strategies.pairs import F32, F64, Update

VALUES = 2**17  # of one update, summed together: more would be 2 % faster, and hold more memory


def average(
    updates: Sequence[Update],
    weights: F64,
    current: Mapping[str, F32],
    spec: AdapterSpec,
    factors: frozenset[str],
) -> Arrays:
    """Return current + sum_i weights_i * change_i for the tensors of `factors`, else current.

    Args:
        updates: in the order of the sum; each tensor of each is asked for once.
        weights: one per update, finite.
        current: f32; read batch by batch, not modified.
        spec: names and shapes.
        factors: a subset of {"A", "B"}.

    Returns:
        f32 arrays with the names of the spec, sorted.

    Raises:
        ValueError: a change of another shape than its tensor.
    """
    wanted = tuple(ending for factor, ending in (("A", A), ("B", B)) if factor in factors)
    moving = [name for name in sorted(spec.shapes) if name.endswith(wanted)]
    merged = {name: current[name] for name in spec.shapes.keys() - moving}
    for names in batches(moving, spec.shapes, VALUES):
        changes = [[update.coded(name) for name in names] for update in updates]
        parts = _moved([current[name] for name in names], changes, weights)
        merged |= dict(zip(names, parts, strict=True))
    return dict(sorted(merged.items()))


def _moved(starts: Sequence[F32], changes: Sequence[Sequence[Coded]], weights: F64) -> list[F32]:
    """As `moved`, of several tensors; `changes` by update."""
    shapes = [start.shape for start in starts]
    lines = [in_a_line(terms, shapes) for terms in changes]
    whole = [line for line in lines if line is not None]
    if len(whole) < len(lines):
        return [
            moved(start, [terms[index].over(start.shape) for terms in changes], weights)
            for index, start in enumerate(starts)
        ]
    flat = moved(np.concatenate([start.reshape(1, -1) for start in starts], 1), whole, weights)
    return apart(flat[0], shapes)
