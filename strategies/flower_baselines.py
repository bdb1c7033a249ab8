"""Flower's own robust strategies, as baselines for comparisons; they act on FACTORS (flwr door).

Each sees B and A as so many numbers. A median or trimmed mean of factors is none of products, and
distances of factors change when a client turns or stretches its own (B G, G^-1 A): they show what
that costs, and are no protection. No server runs them; `strategies.weighers` has the same
ideas in the space of dW.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedMedian, FedTrimmedAvg, Krum, MultiKrum

from federation.adapter.format import AdapterSpec
from federation.adapter.tensors import Arrays
from federation.errors import RoundError
from strategies.pairs import Adapter, Pair, Update, client_pair, pair_of, to_arrays

F32 = npt.NDArray[np.float32]
TRIMMED = 0.2


@dataclass(frozen=True)
class Baseline:
    """One of Flower's strategies.

    Attributes:
        make: how many clients are taken for hostile, and how many there are -> the strategy.
        fewest: hostile clients -> fewest clients it works with.
    """

    name: str
    make: Callable[[int, int], Any]
    fewest: Callable[[int], int]
    summary: str


BASELINES: tuple[Baseline, ...] = (
    Baseline(
        "flower-median",
        lambda _hostile, _count: FedMedian(),
        lambda _hostile: 1,
        "median of each value of the factors",
    ),
    Baseline(
        "flower-trimmed",
        lambda _hostile, _count: FedTrimmedAvg(beta=TRIMMED),
        lambda _hostile: 1,
        "mean of each value of the factors without a fifth at both ends",
    ),
    Baseline(
        "flower-krum",
        lambda hostile, _count: Krum(num_malicious_nodes=hostile),
        lambda hostile: 2 * hostile + 3,
        "the client closest to its neighbours, in factors",
    ),
    Baseline(
        "flower-multikrum",
        lambda hostile, count: MultiKrum(
            num_malicious_nodes=hostile, num_nodes_to_select=count - hostile
        ),
        lambda hostile: 2 * hostile + 3,
        "the mean of those closest to their neighbours, in factors",
    ),
    Baseline(
        "flower-bulyan",
        lambda hostile, _count: Bulyan(num_malicious_nodes=hostile),
        lambda hostile: 4 * hostile + 3,
        "trimmed mean of what multikrum selects, in factors",
    ),
)


def merge_by(
    baseline: Baseline,
    updates: Sequence[Update],
    current: Mapping[str, F32],
    spec: AdapterSpec,
    *,
    hostile: int = 0,
) -> Arrays:
    """Let Flower merge whole adapters, each of weight 1; all of them are in memory.

    Args:
        baseline: which strategy.
        updates: taken in the order of their sha256.
        current: the current global adapter; not modified.
        spec: names and shapes.
        hostile: clients taken for hostile.

    Raises:
        RoundError: too few updates for it.
    """
    if len(updates) < baseline.fewest(hostile):
        raise RoundError(
            f"{baseline.name} needs at least {baseline.fewest(hostile)} updates, not {len(updates)}"
        )
    ordered = sorted(updates, key=lambda update: update.sha256)
    replies = [_reply(update, current, spec, place) for place, update in enumerate(ordered)]
    with _without_flowers_log():
        arrays, _metrics = baseline.make(hostile, len(updates)).aggregate_train(1, replies)
    if arrays is None:
        raise RoundError(f"{baseline.name} made nothing of {len(updates)} updates")
    return {name: arrays[name].numpy().astype(np.float32) for name in sorted(spec.shapes)}


@contextmanager
def _without_flowers_log() -> Iterator[None]:
    """Keep Flower from telling of every round on stderr."""
    flower = logging.getLogger("flwr")
    before = flower.level
    flower.setLevel(logging.WARNING)
    try:
        yield
    finally:
        flower.setLevel(before)


def _reply(
    update: Update, current: Mapping[str, F32], spec: AdapterSpec, place: int
) -> SimpleNamespace:
    """As much of a Message as Flower's strategies ask; a real one is made only inside a run."""
    pairs = {}
    for module in spec.modules():
        pair = client_pair(update, pair_of(current, spec, module), module)
        pairs[module] = Pair(pair.A, pair.B, pair.scale)
    arrays = to_arrays(Adapter(pairs))
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(value) for name, value in arrays.items()}),
            "metrics": MetricRecord({"num-examples": 1}),
        }
    )
    return SimpleNamespace(
        content=content,
        has_content=lambda: True,
        has_error=lambda: False,
        metadata=SimpleNamespace(src_node_id=place + 1),
    )
