#!/usr/bin/env python3
"""Measure the rules and the Gram matrix beside stock Flower's strategies, in one run.

    OPENBLAS_NUM_THREADS=1 python scripts/bench_strategies.py --repeat 3

Four tables, in CPU seconds of the whole process (medians; sides take turns):

    flexlora   redistribution: `--modules` of 2048 x 2048, `--clients` clients, r = 8, in memory
    gram       of 32 adapters of `--megabytes`, bf16 in memory
    weighers   given that matrix
    rules      each rule over the same 32 adapters, and stock Flower's FedAvg, FedMedian and Krum

Stock Flower gets f32 arrays that are in memory already; ours decode bf16 as they go. Its median and
Krum act on factors, which breaks the product: they stand here for their speed alone. Seconds waver
with what else runs: compare them with plain numpy's in the same table (a copy of as many f32; the
two products of stacked factors that a Gram matrix cannot do without).

"adapters" is the most memory that a side of ours takes beside its inputs, its result included, in
f32 adapters: one more run, traced. `flora` and `fedex` return a stack of all clients for the base.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from bench_merge import adapter_spec

from federation.adapter.delta import rank_axis, to_bf16
from federation.adapter.format import AdapterSpec, initial_arrays
from federation.adapter.tensors import Arrays
from strategies.catalogue import RULES
from strategies.coded import Coded
from strategies.gram import gram
from strategies.merge import merge_by
from strategies.pairs import ClientPair, Pair
from strategies.rule import Ctx, Rule
from strategies.rules.flexlora import flexlora
from strategies.weighers import WEIGHERS

SIDE, RANK = 2048, 8


@dataclass(frozen=True)
class Bf16Update:
    """One node's change as bf16 bits in memory."""

    sha256: str
    tensors: dict[str, Coded]

    def coded(self, name: str) -> Coded:
        """Tensor `name`."""
        return self.tensors[name]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its tables."""
    options = parse(arguments)
    report = measure(options)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for table, rows in report.items():
        print(table)
        for name, row in rows.items():
            print(_line(name, row))


def _line(name: str, row: Mapping[str, float]) -> str:
    speed = row["gb_per_cpu_second"]
    read = f"{speed:8.2f} GB per CPU-s" if speed else " " * 21
    held = f"{row['adapters']:8.2f} adapters" if "adapters" in row else ""
    return f"  {name:28}{row['cpu_seconds']:8.3f} s{read}{held}".rstrip()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of this benchmark."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--modules", type=int, default=44)
    parser.add_argument("--clients", type=int, default=10, help="of the flexlora table")
    parser.add_argument("--adapters", type=int, default=32, help="of the other tables")
    parser.add_argument("--megabytes", type=float, default=17.7, help="one adapter in f32")
    parser.add_argument("--rank", type=int, default=RANK, help="of the other tables")
    parser.add_argument("--repeat", type=int, default=3, help="medians over this many")
    parser.add_argument("--only", nargs="*", default=[""], help="words; sides named with one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Return CPU seconds, and GB of f32 per CPU second, by table and side."""
    spec = adapter_spec(options.megabytes, options.rank)
    current = initial_arrays(spec, 0)
    updates = [_update(spec, index) for index in range(options.adapters)]
    size = options.adapters * spec.tensor_bytes
    sides = _rules(updates, current, spec) | _stock(updates, current)
    sides["numpy, copy"] = _copy(len(updates), spec)
    tables = {
        "flexlora": (_flexlora(options), 0),
        "gram": (_geometry(updates, current, spec), size),
        "weighers": (_weighers(updates, current, spec), 0),
        "rules": (sides, size),
    }
    report = {}
    for table, (found, bytes_) in tables.items():
        chosen = {n: run for n, run in found.items() if any(word in n for word in options.only)}
        report[table] = _time(chosen, options.repeat, bytes_)
        for name in chosen:
            if name.startswith(("ours", "gram")):
                report[table][name]["adapters"] = _peak(chosen[name]) / spec.tensor_bytes
    return report


def _flexlora(options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    stacks = np.random.default_rng(0).normal(size=(2, options.clients * RANK, SIDE))

    def products() -> None:
        for _ in range(options.modules):
            for factors in stacks:
                factors @ factors.T

    return {"redistribution": _redistribution(options), "numpy, its two Gram products": products}


def _redistribution(options: argparse.Namespace) -> Callable[[], None]:
    rng = np.random.default_rng(0)

    def factor(shape: tuple[int, int], size: float) -> np.ndarray:
        return rng.normal(0, size, shape).astype(np.float32)

    previous = Pair(factor((RANK, SIDE), 0.02), factor((SIDE, RANK), 0.02), 2.0)
    clients = [
        ClientPair(
            previous,
            Coded.of(to_bf16(factor((RANK, SIDE), 1e-3)), None, 0),
            Coded.of(to_bf16(factor((SIDE, RANK), 1e-3)), None, 1),
        )
        for _ in range(options.clients)
    ]
    weights = np.full(options.clients, 1.0 / options.clients)

    def run() -> None:
        for _ in range(options.modules):
            flexlora(clients, weights, previous, _context(RANK))

    return run


def _geometry(
    updates: list[Bf16Update], current: Arrays, spec: AdapterSpec
) -> dict[str, Callable[[], Any]]:
    return {
        "gram": lambda: gram(updates, current, spec),
        "numpy, its products": _products(len(updates), spec),
    }


def _weighers(
    updates: list[Bf16Update], current: Arrays, spec: AdapterSpec
) -> dict[str, Callable[[], Any]]:
    matrix = gram(updates, current, spec)
    weights = np.full(len(updates), 1.0 / len(updates))
    return {
        weigher.name: lambda found=weigher: found.weigh(matrix, weights) for weigher in WEIGHERS
    }


def _products(count: int, spec: AdapterSpec) -> Callable[[], None]:
    rng = np.random.default_rng(0)
    sides = sorted({max(shape) for shape in spec.shapes.values()})
    stacks = {side: rng.normal(size=(count * spec.rank, side)).astype(np.float32) for side in sides}

    def run() -> None:
        for shape in spec.shapes.values():
            factors = stacks[max(shape)]
            factors @ factors.T

    return run


def _copy(count: int, spec: AdapterSpec) -> Callable[[], None]:
    source = np.ones(spec.tensor_bytes // 4, np.float32)
    target = np.empty_like(source)

    def run() -> None:
        for _ in range(count):
            np.copyto(target, source)

    return run


def _rules(
    updates: list[Bf16Update], current: Arrays, spec: AdapterSpec
) -> dict[str, Callable[[], Any]]:
    weights = np.full(len(updates), 1.0 / len(updates))

    def side(rule: Rule) -> Callable[[], Any]:
        return lambda: merge_by(rule, updates, weights, current, spec, _context(spec.rank))

    return {f"ours, {rule.name}": side(rule) for rule in RULES}


def _stock(updates: list[Bf16Update], current: Arrays) -> dict[str, Callable[[], Any]]:
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
    from flwr.serverapp.strategy import FedAvg, FedMedian, Krum

    held = []
    for update in updates:
        arrays = {n: Array(v + update.coded(n).decode()) for n, v in current.items()}
        held.append((arrays, MetricRecord({"num-examples": 1})))

    def side(kind: Any, **values: Any) -> Callable[[], Any]:  # noqa: ANN401 - Flower's classes
        def run() -> None:
            # records anew, of the same arrays: the median empties what it is given
            replies = [_reply(RecordDict({"arrays": ArrayRecord(a), "m": m})) for a, m in held]
            kind(**values).aggregate_train(1, replies)

        return run

    krum = side(Krum, num_malicious_nodes=max(1, len(updates) // 4))
    return {
        "flwr, FedAvg": side(FedAvg),
        "flwr, FedMedian": side(FedMedian),
        "flwr, Krum": krum,
    }


def _reply(content: Any) -> Any:  # noqa: ANN401 - as much of a Message as Flower's strategies ask
    """Stand in for a Message, which is made only inside a run."""
    place = SimpleNamespace(src_node_id=1)
    return SimpleNamespace(
        content=content, has_content=lambda: True, has_error=lambda: False, metadata=place
    )


def _update(spec: AdapterSpec, index: int) -> Bf16Update:
    rng = np.random.default_rng(index)
    total = sum(rows * columns for rows, columns in spec.shapes.values())
    # tensors lie one after another, as in a package
    whole = Coded.of(to_bf16(rng.normal(0, 1e-3, (1, total)).astype(np.float32)))
    tensors, begin = {}, 0
    for name, shape in sorted(spec.shapes.items()):
        tensors[name] = whole._replace(shape=shape, begin=begin, rank_axis=rank_axis(name))
        begin += 2 * shape[0] * shape[1]
    return Bf16Update(f"{index:064x}", tensors)


def _context(rank: int) -> Ctx:
    return Ctx(round=1, rank=rank, rng=np.random.default_rng(0))


def _peak(run: Callable[[], Any]) -> int:
    """Bytes at the highest point of a run; numpy tells tracemalloc what it takes."""
    tracemalloc.start()
    try:
        found = run()
        peak = tracemalloc.get_traced_memory()[1]
        del found
    finally:
        tracemalloc.stop()
    return peak


def _time(
    sides: dict[str, Callable[[], Any]], repeat: int, size: int
) -> dict[str, dict[str, float]]:
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeat):
        for name, run in sides.items():
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    found = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        name: {"cpu_seconds": median, "gb_per_cpu_second": size / 1e9 / max(median, 1e-9)}
        for name, median in found.items()
    }


if __name__ == "__main__":
    main()
