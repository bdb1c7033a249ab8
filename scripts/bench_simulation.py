#!/usr/bin/env python3
"""Measure rounds in memory beside Flower's simulation: clients a second, first round, memory.

    OPENBLAS_NUM_THREADS=1 python scripts/bench_simulation.py --clients 100,1000 --train lab:100

A case is `idle:N`, clients that send a small change of an adapter of `--kilobytes`, made before;
`lab:N`, the regression lab's with 40 steps each; `semilla:N` with two steps of two texts, and
`semilla:N:1` with one. Each client is a node of an `InProcessGrid`, whose ClientApp gets a Message
for it; but all of `lab` are one node, as in a comparison, and `lab-each:N` is a node each. The rest
is what `flower-server compare` runs in a round: bf16 coding, screen of sizes, weights, fedit.
Nothing is measured of the model meanwhile, on either side. Each case is a process of its own;
"first round" counts from the start of Python, memory is that of all its processes. Flower's side
(`bench_simulation_flower.py`) runs after it, where ray is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
RANK, IDLE_CHANGES = 8, 16
OURS, FLOWER, COLD = "ours", "Flower", "Flower, base loaded anew"
NO_RAY = "ray is not installed: Flower's own simulation was not measured"
RESULT = "RESULT "
STEPS, BATCH, TOKENS = {"lab": 40, "lab-each": 40, "semilla": 2}, 2, 64
LOOK_S = 2.0  # looking costs: the system adds up every page


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print a table, or JSON."""
    options = parse(arguments)
    if options.child:
        found = child(options.child, options.rounds, options.kilobytes)
        print(RESULT + json.dumps(found))
        return
    rows = []
    for row in measure(options):
        rows.append(row)
        if not options.json:
            print(line(row), flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))
    if not has_ray():
        print(NO_RAY)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of this benchmark."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--clients", default="10,100,1000", help="idle ones: numbers, by commas")
    parser.add_argument(
        "--train",
        default="lab:100,lab-each:100,semilla:8:1,semilla:8",
        help="cases with training, or ''",
    )
    parser.add_argument("--rounds", type=int, default=5, help="after the first; medians of them")
    parser.add_argument("--kilobytes", type=float, default=10.0, help="one adapter in f32")
    parser.add_argument("--ours-alone", action="store_true", help="leave Flower's side out")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def has_ray() -> bool:
    """Whether Flower's simulation can run here."""
    return importlib.util.find_spec("ray") is not None


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per case and side: ours, then Flower's."""
    cases = [f"idle:{int(number)}" for number in options.clients.split(",") if number]
    cases += [case for case in options.train.split(",") if case]
    fixed = [f"--rounds={options.rounds}", f"--kilobytes={options.kilobytes}"]
    for case in cases:
        own = [str(Path(__file__).resolve()), f"--child={case}", *fixed]
        yield {"case": case, "side": OURS} | watched(own, dict(os.environ))
        if options.ours_alone or not has_ray():
            continue
        for side in (FLOWER, COLD) if case.startswith("semilla") else (FLOWER,):
            yield {"case": case, "side": side} | by_flower(case, fixed, cold=side == COLD)


def by_flower(case: str, fixed: Sequence[str], *, cold: bool) -> dict[str, Any]:
    """Flower's side of a case, in folders of its own."""
    from federation.flower_env import flower_environment

    # as a module, so that Ray's processes import it and keep what it has loaded
    code = "import bench_simulation_flower as flower; flower.main()"
    argv = ["-c", code, f"--child={case}", *fixed, *(["--cold"] if cold else [])]
    with (
        tempfile.TemporaryDirectory() as home,
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as ray,
    ):
        extra = {"RAY_TMPDIR": ray, "RAY_USAGE_STATS_ENABLED": "0"}
        extra["PYTHONPATH"] = os.pathsep.join([str(ROOT / "scripts"), str(ROOT)])
        return watched(argv, flower_environment(os.environ, Path(home), extra=extra))


def watched(argv: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Run Python with `argv`; what it says of itself, and the memory of all its processes."""
    began, peak = time.time(), 0
    process = subprocess.Popen(
        [sys.executable, *argv],
        cwd=ROOT,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(LOOK_S):
            peak = max(peak, memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        told, errors = process.communicate()
    finally:
        done.set()
        watcher.join()
    if process.returncode != 0 or RESULT not in told:
        raise SystemExit(f"{argv} ended with status {process.returncode}:\n{errors[-2000:]}")
    row: dict[str, Any] = json.loads(told.rpartition(RESULT)[2])
    row["first_s"] = row.pop("first_ended") - began
    return row | {"peak_mb": max(row.get("peak_mb", 0.0), peak / 1e6)}


def memory(pid: int) -> int:
    """Bytes of a process and all that it started; shared pages count once."""
    total = 0
    with suppress(psutil.Error):
        top = psutil.Process(pid)
        for each in (top, *top.children(recursive=True)):
            with suppress(psutil.Error):
                total += getattr(each.memory_full_info(), "pss", 0) or each.memory_info().rss
    return total


def line(row: Mapping[str, Any]) -> str:
    """One row as text."""
    return (
        f"{row['case']:>12} {row['side']:<26} first round {row['first_s']:6.1f} s, then "
        f"{row['per_s']:7.1f} clients/s ({row['per_cpu_s']:.0f} by CPU), "
        f"{row['rounds_a_minute']:7.1f} rounds/min, {row['peak_mb']:5.0f} MB"
    )


def child(case: str, rounds: int, kilobytes: float) -> dict[str, Any]:
    """Run all rounds of one case in this process, and in its workers where it has some."""
    from strategies.compare.federate import federate
    from strategies.compare.setting import Setting

    kind, number, steps = parts_of(case)
    setting = Setting(clients=number, rounds=rounds + 1, steps=steps, rank=RANK, coding="bf16")
    ends: list[tuple[float, float]] = []
    with playing(kind, setting, kilobytes) as task:
        federate(task, setting, report=lambda *_: ends.append((time.time(), time.process_time())))
    return told(ends, number)


def parts_of(case: str) -> tuple[str, int, int]:
    """Kind, clients and steps of each: "semilla:8:1", "lab:100"."""
    kind, clients, *steps = case.split(":")
    return kind, int(clients), int(steps[0]) if steps else STEPS.get(kind, 1)


def told(ends: Sequence[tuple[float, float]], clients: int) -> dict[str, Any]:
    """Figures of a side from the ends of its rounds: time and CPU seconds of this process."""
    import resource

    wall, cpu = (statistics.median(b[at] - a[at] for a, b in pairwise(ends)) for at in (0, 1))
    return {
        "clients": clients,
        "first_ended": ends[0][0],
        "per_s": clients / wall,
        "per_cpu_s": clients / max(cpu, 1e-9),
        "rounds_a_minute": 60 / wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


@contextmanager
def playing(kind: str, setting: Any, kilobytes: float) -> Iterator[Any]:  # noqa: ANN401 - a task
    """The task of a case, on nodes of this process; its losses, which nobody measures, are 0."""
    from server.compare.client_app import app
    from server.compare.flower_nodes import FlowerLab
    from server.compare.in_process import InProcessGrid
    from server.compare.players import STAGE
    from strategies.compare.federate import Measured

    plays = idle_app() if kind == "idle" else app
    most, workers = 1 if kind == "lab" else setting.clients, 2 if kind == "semilla" else 1
    with closing(STAGE), closing(InProcessGrid(plays, most, workers=workers)) as grid:
        if kind == "idle":
            task: Any = Idle(kilobytes, grid)
        elif kind == "semilla":
            task = semilla_on(grid, setting)
        else:
            task = FlowerLab(grid, grid.get_node_ids(), setting)
        task.measure = lambda _adapters: Measured(0.0, {})
        yield task


def semilla_on(grid: Any, setting: Any) -> Any:  # noqa: ANN401 - what `--help` does not load
    """The clients of semilla in two worker processes."""
    from dataclasses import replace

    from federation.model.documents import Document
    from server.compare.flower_nodes import FlowerNodes
    from server.compare.language import LanguageTask, split

    opening = {"model": "semilla", "search": str(ROOT), "rank": RANK, "alpha": 2.0 * RANK}
    nodes = FlowerNodes(grid, grid.get_node_ids(), opening | {"data": []}, at_once=2)
    cell = replace(setting, partition="iid", batch=BATCH, tokens=TOKENS)
    texts = split([Document(**each) for each in nodes.opened["documents"]])
    return LanguageTask(nodes, texts, cell)


def idle_app() -> Any:  # noqa: ANN401 - a ClientApp, which `--help` does not load
    """A ClientApp whose clients add to an adapter what was made before, and answer."""
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    from federation.adapter.tensors import load_arrays, save_tensors
    from server.compare.flower_nodes import question_of, reply_to

    app, changes = ClientApp(), {}

    @app.train()
    def train(message: Message, _context: Context) -> Message:
        answers = []
        for _what, blob, values in question_of(message).tasks:
            start = load_arrays(blob)
            at = values["client"] % IDLE_CHANGES
            change = changes.get(at) or changes.setdefault(at, idle_change(start, at))
            answers.append(({}, save_tensors({k: v + change[k] for k, v in start.items()})))
        return reply_to(message, answers)

    return app


def idle_spec(kilobytes: float) -> Any:  # noqa: ANN401 - an AdapterSpec
    """One module whose A and B are as many bytes, in f32."""
    from federation.adapter.format import AdapterSpec

    side = max(1, round(kilobytes * 1024 / 4 / RANK / 2))
    name = "base_model.model.idle.lora_{}.weight"
    shapes = {name.format("A"): (RANK, side), name.format("B"): (side, RANK)}
    return AdapterSpec("", "idle", RANK, 2.0 * RANK, False, ("idle",), shapes)


def idle_change(start: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A small change of an adapter."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return {k: rng.normal(0, 1e-3, v.shape).astype(np.float32) for k, v in start.items()}


class Idle:
    """A `federate.Task` whose clients do nothing but answer, each a node behind a grid."""

    def __init__(self, kilobytes: float, grid: Any) -> None:  # noqa: ANN401 - a Grid
        from server.compare.flower_nodes import FlowerNodes

        self.spec = idle_spec(kilobytes)
        self._nodes = FlowerNodes(grid, grid.get_node_ids(), {})

    def initial(self) -> dict[str, Any]:
        """A and B."""
        from federation.adapter.format import initial_arrays

        return initial_arrays(self.spec, 0)

    def examples(self, client: int) -> int:
        """Some."""
        return 1 + client % 3

    def train(self, jobs: Sequence[Any]) -> Iterator[dict[str, Any]]:
        """The start and a change made in advance."""
        from server.compare.flower_nodes import trained

        return trained(self._nodes, jobs)

    def add_base(self, delta: dict[str, Any]) -> None:
        """No rule that edits the base is run here."""
        raise NotImplementedError(str(len(delta)))

    def facts(self) -> dict[str, str]:
        """None."""
        return {}


if __name__ == "__main__":
    main()
