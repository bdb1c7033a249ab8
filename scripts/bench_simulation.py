#!/usr/bin/env python3
"""Measure rounds in memory: virtual clients a second, first round, memory; Flower's beside it.

    OPENBLAS_NUM_THREADS=1 python scripts/bench_simulation.py --clients 100,1000

A client does nothing: it sends a small change of an adapter of `--kilobytes`, made in advance. The
rest is what `flower-server compare` runs in a round: start, change, bf16 coding, screen of sizes,
weights, fedit. Each number of clients is a process of its own, and so is its memory; "first round"
counts from the start of Python. Flower's simulation runs beside it where ray is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIDE, RANK = 160, 8  # 2 × 8 × 160 f32: 10 KiB
NO_RAY = "ray is not installed: Flower's own simulation was not measured"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print a table, or JSON."""
    options = parse(arguments)
    if options.child:
        print(json.dumps(child(options.child, options.rounds, options.kilobytes)))
        return
    report = measure(options)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{'clients':>8}{'first round s':>15}{'clients/s':>11}{'by CPU':>9}{'MB':>7}")
    for row in report["ours"]:
        print(
            f"{row['clients']:>8}{row['first_s']:>15.2f}{row['per_s']:>11.0f}"
            f"{row['per_cpu_s']:>9.0f}{row['peak_mb']:>7.0f}"
        )
    print(report["flower"])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of this benchmark."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--clients", default="10,100,1000", help="numbers, joined by commas")
    parser.add_argument("--rounds", type=int, default=5, help="after the first; medians of them")
    parser.add_argument("--kilobytes", type=float, default=10.0, help="one adapter in f32")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--child", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return one row per number of clients, and what was measured of Flower."""
    ours = []
    for clients in (int(number) for number in options.clients.split(",")):
        command = [sys.executable, str(Path(__file__).resolve()), f"--child={clients}"]
        command += [f"--rounds={options.rounds}", f"--kilobytes={options.kilobytes}"]
        began = time.time()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout)
        row["first_s"] = row.pop("first_ended") - began
        ours.append(row)
    has_ray = importlib.util.find_spec("ray") is not None
    return {"ours": ours, "flower": flower(options) if has_ray else NO_RAY}


def child(clients: int, rounds: int, kilobytes: float) -> dict[str, Any]:
    """Run all rounds of one number of clients in this process."""
    from strategies.compare.federate import federate
    from strategies.compare.setting import Setting

    task = Idle(kilobytes)
    ends: list[tuple[float, float]] = []
    setting = Setting(clients=clients, rounds=rounds + 1, rank=RANK, coding="bf16")
    federate(task, setting, report=lambda *_: ends.append((time.time(), time.process_time())))
    walls = [after[0] - before[0] for before, after in pairwise(ends)]
    cpus = [after[1] - before[1] for before, after in pairwise(ends)]
    return {
        "clients": clients,
        "first_ended": ends[0][0],
        "per_s": clients / statistics.median(walls),
        "per_cpu_s": clients / statistics.median(cpus),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


class Idle:
    """A `federate.Task` whose clients do nothing but answer."""

    def __init__(self, kilobytes: float) -> None:
        import numpy as np

        from federation.adapter.format import AdapterSpec, initial_arrays

        side = max(1, round(kilobytes * 1024 / 4 / RANK / 2))
        name = "base_model.model.idle.lora_{}.weight"
        shapes = {name.format("A"): (RANK, side), name.format("B"): (side, RANK)}
        self.spec = AdapterSpec("", "idle", RANK, 2.0 * RANK, False, ("idle",), shapes)
        self._start = initial_arrays(self.spec, 0)
        rng = np.random.default_rng(0)
        self._changes = [
            {k: rng.normal(0, 1e-3, v.shape).astype(np.float32) for k, v in self._start.items()}
            for _ in range(16)
        ]

    def initial(self) -> dict[str, Any]:
        """A and B."""
        return self._start

    def examples(self, client: int) -> int:
        """Some."""
        return 1 + client % 3

    def train(self, jobs: Sequence[Any]) -> Iterator[dict[str, Any]]:
        """The start and a change made in advance."""
        for job in jobs:
            change = self._changes[job.client % len(self._changes)]
            yield {name: value + change[name] for name, value in job.start.items()}

    def measure(self, adapters: Sequence[Mapping[str, Any]]) -> Any:  # noqa: ANN401, ARG002
        """Nothing."""
        from strategies.compare.federate import Measured

        return Measured(0.0, {})

    def add_base(self, delta: dict[str, Any]) -> None:
        """No rule that edits the base is run here."""
        raise NotImplementedError(str(len(delta)))

    def facts(self) -> dict[str, str]:
        """None."""
        return {}


def flower(options: argparse.Namespace) -> str:
    """Run Flower's simulation with as many idle clients; what it took, in words."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    start, ends, client, server = Idle(options.kilobytes), [time.time()], ClientApp(), ServerApp()
    clients = max(int(number) for number in options.clients.split(","))

    @client.train()
    def train(message: Message, _: Context) -> Message:
        content = {"arrays": message.content["arrays"], "m": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    @server.main()
    def run(grid: Grid, _: Context) -> None:
        class Timed(FedAvg):
            def aggregate_train(self, *given: Any) -> Any:  # noqa: ANN401
                found = super().aggregate_train(*given)
                ends.append(time.time())
                return found

        strategy = Timed(fraction_evaluate=0.0, min_available_nodes=clients)
        arrays = ArrayRecord(start.initial())
        strategy.start(grid, initial_arrays=arrays, num_rounds=options.rounds + 1)

    run_simulation(server, client, num_supernodes=clients)
    walls = [after - before for before, after in pairwise(ends[1:])]
    rate = clients / statistics.median(walls)
    return f"Flower, {clients} clients: first round {ends[1] - ends[0]:.1f} s, then {rate:.0f}/s"


if __name__ == "__main__":
    main()
