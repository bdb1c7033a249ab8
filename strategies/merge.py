"""Many spooled updates to one adapter, module by module."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federation.adapter.format import A, AdapterSpec, B
from federation.adapter.tensors import Arrays
from strategies.average import average
from strategies.pairs import Update, client_pairs, pair_of
from strategies.rule import Ctx, Reducer, Rule

F64 = npt.NDArray[np.float64]


def merge(
    updates: Sequence[Update],
    weights: F64,
    current: Mapping[str, npt.NDArray[np.float32]],
    spec: AdapterSpec,
    reduce: Reducer,
    ctx: Ctx,
) -> Arrays:
    """Reduce `updates` to the next global adapter, by a rule that leaves the base alone.

    Args, returns and errors as `merge_all`.

    Raises:
        ValueError: also if the rule edits the base.
    """
    merged = merge_all(updates, weights, current, spec, reduce, ctx)
    if merged.base:
        raise ValueError("the rule edits the base model; an adapter alone cannot hold that")
    return merged.adapter


@dataclass(frozen=True)
class Merged:
    """The next global adapter, and what is added to the frozen base (empty: nothing).

    Attributes:
        adapter: f32 arrays with the names of the spec, sorted.
        base: the same names; rank as the rule gave it, scale 1 (`federation.adapter.base_delta`).
    """

    adapter: Arrays
    base: Arrays


def merge_by(
    rule: Rule,
    updates: Sequence[Update],
    weights: F64,
    current: Mapping[str, npt.NDArray[np.float32]],
    spec: AdapterSpec,
    ctx: Ctx,
) -> Merged:
    """As `merge_all`, by the shortest way for the rule."""
    if not rule.traits.averages:
        return merge_all(updates, weights, current, spec, rule.reduce, ctx)
    ordered, shares = _in_order(updates, weights)
    return Merged(average(ordered, shares, current, spec, rule.traits.sends(ctx.round)), {})


def merge_all(
    updates: Sequence[Update],
    weights: F64,
    current: Mapping[str, npt.NDArray[np.float32]],
    spec: AdapterSpec,
    reduce: Reducer,
    ctx: Ctx,
) -> Merged:
    """Reduce `updates` to the next global adapter and the delta of the base.

    Updates are taken in the order of their sha256, so the result has the same bits for any order
    of arrival; those of weight 0 are not read. Each delta is put on top of `current`, whatever
    version it was trained from. Memory: the result and a few blocks.

    Args:
        updates: any order; read tensor by tensor.
        weights: one per update, >= 0, sum <= 1; the rest stays with `current`.
        current: the current global adapter, f32; not modified.
        spec: names and shapes.
        reduce: the rule.
        ctx: what the rule may know.

    Returns:
        New arrays; equal to `current` without updates.

    Raises:
        ValueError: weights out of range, the same update twice, or a rule that returns another
            shape.
    """
    ordered, shares = _in_order(updates, weights)
    if not ordered:
        return Merged(
            {name: np.array(current[name], np.float32) for name in sorted(spec.shapes)}, {}
        )
    merged: Arrays = {}
    base: Arrays = {}
    for module in spec.modules():
        previous = pair_of(current, spec, module)
        out = reduce(client_pairs(ordered, previous, module), shares, previous, ctx)
        if out.base is not None:
            base[module + A] = out.base.A
            base[module + B] = out.base.B * np.float32(out.base.scale)
        if out.pair.A.shape != previous.A.shape or out.pair.B.shape != previous.B.shape:
            raise ValueError(f"the rule changed the shape of {module}")
        merged[module + A], merged[module + B] = out.pair.A, out.pair.B
    return Merged(dict(sorted(merged.items())), dict(sorted(base.items())))


def _in_order(updates: Sequence[Update], weights: F64) -> tuple[list[Update], F64]:
    if len(updates) != len(weights):
        raise ValueError(f"{len(updates)} updates and {len(weights)} weights")
    if not all(math.isfinite(w) and w >= 0 for w in weights) or math.fsum(weights) > 1 + 1e-9:
        raise ValueError("weights must be finite, not negative, and have a sum of at most 1")
    chosen = sorted(
        ((u, float(w)) for u, w in zip(updates, weights, strict=True) if w > 0),
        key=lambda item: item[0].sha256,
    )
    if len({update.sha256 for update, _ in chosen}) < len(chosen):
        raise ValueError("an update is there twice")
    return [update for update, _ in chosen], np.array([w for _, w in chosen], np.float64)
