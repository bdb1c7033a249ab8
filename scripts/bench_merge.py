#!/usr/bin/env python3
"""Measure the merge beside stock Flower's aggregation, in one run on the same updates.

    python scripts/bench_merge.py --clients 32 --megabytes 18 --coding bf16

Ours reads packages from a spool on disk, as a round does; stock Flower's `aggregate_arrayrecords`
gets f32 arrays that are in memory already. Both run in turn, `--repeat` times; medians are shown.
GB are f32-equivalent bytes (4 per value) of all updates together; CPU seconds are those of the
whole process, all threads. Memory is measured in a process of its own per side, as the growth of
resident memory above what it holds with the current adapter loaded: its peak, mapped files
included. Stock Flower's growth includes the replies, since it needs them all at once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client.packaging import PackageFacts, make_package
from federation.adapter.format import AdapterSpec, initial_arrays
from federation.adapter.signing import SigningKey
from federation.adapter.tensors import Arrays
from strategies.merge import merge_by
from strategies.rule import Ctx
from strategies.rules.fedit import FEDIT
from strategies.spool import Arrival, Spool, SpooledUpdate

RANK, HIDDEN, INNER = 16, 1024, 2816
LINEARS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (HIDDEN, INNER),
    "mlp.up_proj": (HIDDEN, INNER),
    "mlp.down_proj": (INNER, HIDDEN),
}
FACTS = PackageFacts(
    global_version=0,
    global_sha256="0" * 64,
    examples=100,
    tokens=10_000,
    steps=10,
    loss_before=2.0,
    loss_after=1.9,
)
CODINGS = ("bf16", "int8")
OURS, OPENED, STOCK = "ours, merge", "ours, open + hash + merge", "stock flwr"


@dataclass(frozen=True)
class Case:
    """What is merged: the spool on disk, and the adapter the updates change."""

    spec: AdapterSpec
    spool: Spool
    current: Arrays

    def updates(self) -> list[SpooledUpdate]:
        """Fresh handles; nothing is open or mapped yet."""
        return [self.spool.open(entry.sha256) for entry in self.spool.entries()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    options = parse(arguments)
    if options.memory_of:
        print(_memory_growth(options.memory_of, _case(Path(options.spool), options)))
        return
    report = measure(options)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        _show(report, options)


def measure(options: argparse.Namespace, *, memory: bool = True) -> dict[str, Any]:
    """Time both sides, and unless told otherwise measure their memory; plain values."""
    with tempfile.TemporaryDirectory(prefix="bench-merge-") as folder:
        case = _case(Path(folder), options)
        _fill(case, options)
        seconds = _time(case, options.repeat)
        sides = (OURS, STOCK) if memory else ()
        growth = {side: _memory_apart(side, folder, options) for side in sides}
        return _report(case, seconds, growth)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of this benchmark."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--clients", type=int, default=32, help="updates to merge")
    parser.add_argument("--megabytes", type=float, default=17.7, help="one adapter in f32")
    parser.add_argument("--coding", choices=CODINGS, default="bf16")
    parser.add_argument("--repeat", type=int, default=7, help="medians over this many")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--memory-of", choices=(OURS, STOCK), help=argparse.SUPPRESS)
    parser.add_argument("--spool", default="", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def adapter_spec(megabytes: float, rank: int = RANK) -> AdapterSpec:
    """A transformer's adapter of about so many MB in f32."""
    per_layer = 4 * rank * sum(d_in + d_out for d_in, d_out in LINEARS.values())
    shapes: dict[str, tuple[int, int]] = {}
    for layer in range(max(1, round(megabytes * 1e6 / per_layer))):
        for module, (d_in, d_out) in LINEARS.items():
            path = f"base_model.model.model.layers.{layer}.{module}"
            shapes[f"{path}.lora_A.weight"] = (rank, d_in)
            shapes[f"{path}.lora_B.weight"] = (d_out, rank)
    targets = tuple(module.rpartition(".")[2] for module in LINEARS)
    return AdapterSpec("ab" * 32, "bench", rank, 2.0 * rank, False, targets, shapes)


def _case(folder: Path, options: argparse.Namespace) -> Case:
    spec = adapter_spec(options.megabytes)
    spool = Spool(folder, max_bytes_each=2**31, max_total_bytes=2**40)
    return Case(spec, spool, initial_arrays(spec, 0))


def _fill(case: Case, options: argparse.Namespace) -> None:
    key = SigningKey.generate()
    facts = PackageFacts(**{**FACTS.__dict__, "coding": options.coding})
    for client in range(options.clients):
        rng = np.random.default_rng(client)
        trained = {
            name: start + rng.normal(0, 1e-3, start.shape).astype(np.float32)
            for name, start in case.current.items()
        }
        data, _ = make_package(trained, case.current, case.spec, facts, key)
        case.spool.add(data, Arrival(node=f"{client:016x}"))


def _weights(count: int) -> np.ndarray:
    weights = np.arange(1.0, count + 1)
    return weights / weights.sum()


def _merge(case: Case, updates: Sequence[SpooledUpdate]) -> None:
    ctx = Ctx(round=1, rank=case.spec.rank, rng=np.random.default_rng(0))
    merge_by(FEDIT, updates, _weights(len(updates)), case.current, case.spec, ctx)


def _stock_records(case: Case) -> list[Any]:
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

    records = []
    for update, weight in zip(case.updates(), _weights(len(case.updates())), strict=True):
        arrays = {n: Array(v + update.delta(n)) for n, v in case.current.items()}
        update.release()
        content = {"arrays": ArrayRecord(arrays), "m": MetricRecord({"w": float(weight)})}
        records.append(RecordDict(content))
    return records


def _stock(records: list[Any]) -> None:
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    aggregate_arrayrecords(records, "w")


def _time(case: Case, repeat: int) -> dict[str, list[float]]:
    """Return process CPU seconds per side, the sides taking turns."""
    opened, records = case.updates(), _stock_records(case)
    for update in opened:
        _ = update.package
    sides: dict[str, Callable[[], None]] = {
        OURS: lambda: _merge(case, opened),
        OPENED: lambda: _merge(case, case.updates()),
        STOCK: lambda: _stock(records),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeat + 1):
        for name, run in sides.items():
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    return {name: values[1:] for name, values in seconds.items()}  # the first warms up


def _memory_growth(side: str, case: Case) -> float:
    """Return the growth of peak resident memory in bytes, mapped files included."""
    if side == STOCK:
        pass
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    if side == OURS:
        _merge(case, case.updates())
    else:
        _stock(_stock_records(case))
    return _status("VmHWM") - before


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return float(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def _memory_apart(side: str, folder: str, options: argparse.Namespace) -> float:
    if not sys.platform.startswith("linux"):
        return float("nan")
    command = [sys.executable, __file__, "--memory-of", side, "--spool", folder]
    command += ["--megabytes", str(options.megabytes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def _report(
    case: Case, seconds: dict[str, list[float]], growth: dict[str, float]
) -> dict[str, Any]:
    entries = case.spool.entries()
    values = len(entries) * case.spec.tensor_bytes
    coded = sum(entry.size_bytes for entry in entries)
    rows = {
        name: {
            "cpu_seconds": statistics.median(found),
            "gb_per_cpu_second": values / 1e9 / statistics.median(found),
            "gb_per_cpu_second_best": values / 1e9 / min(found),
            "coded_gb_per_cpu_second": coded / 1e9 / statistics.median(found),
            "memory_growth_mb": growth.get(name, float("nan")) / 1e6,
        }
        for name, found in seconds.items()
    }
    return {"adapter_mb": case.spec.tensor_bytes / 1e6, "coded_mb": coded / 1e6, "rows": rows}


def _show(report: dict[str, Any], options: argparse.Namespace) -> None:
    print(
        f"{options.clients} updates of {report['adapter_mb']:.1f} MB (f32), {options.coding}, "
        f"{report['coded_mb']:.1f} MB on disk; medians of {options.repeat}; "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"
    )
    print(f"{'':28}{'CPU s':>8}{'GB/CPU-s':>10}{'best':>8}{'coded':>8}{'peak + MB':>11}")
    for name, row in report["rows"].items():
        print(
            f"{name:28}{row['cpu_seconds']:8.3f}{row['gb_per_cpu_second']:10.2f}"
            f"{row['gb_per_cpu_second_best']:8.2f}{row['coded_gb_per_cpu_second']:8.2f}"
            f"{row['memory_growth_mb']:11.1f}"
        )


if __name__ == "__main__":
    main()
