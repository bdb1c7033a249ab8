"""Flower's side of `bench_simulation`: the same clients, FedAvg in f32, Ray on two cores.

`run_simulation` needs no SuperLink, so this is Flower at its quickest. A ClientApp keeps its lab,
or its base model, from message to message; with `--cold` it loads the base for each message, as an
app does that builds its model where it trains.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import bench_simulation as bench
import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from client.virtual import VirtualNodes, starter
from federation.adapter.format import initial_arrays
from federation.adapter.tensors import Arrays, TensorFile, save_tensors
from federation.errors import ProcessError
from federation.model.load import open_base
from strategies.compare.federate import Job
from strategies.compare.lab import Lab
from strategies.compare.setting import Setting

Train = Callable[[Arrays, int, int], Arrays]
BOTH = frozenset("AB")
TWO_CORES = {"client_resources": {"num_cpus": 1.0}, "init_args": {"num_cpus": 2}}


def main() -> None:
    """Run one case as `bench_simulation` asks for it, and print what it took."""
    import json
    import sys

    cold = "--cold" in sys.argv
    options = bench.parse([word for word in sys.argv[1:] if word != "--cold"])
    kind, clients, steps = bench.parts_of(options.child)
    ends: list[tuple[float, float]] = []
    server = server_app(start_of(kind, options.kilobytes), clients, options.rounds + 1, ends)
    from flwr.simulation import run_simulation

    client = client_app(f"{kind} cold" if cold else kind, clients, steps)
    run_simulation(server, client, num_supernodes=clients, backend_config=TWO_CORES)
    print(bench.RESULT + json.dumps(bench.told(ends, clients)))


def server_app(
    start: Arrays, clients: int, rounds: int, ends: list[tuple[float, float]]
) -> ServerApp:
    """FedAvg over all clients; `ends` is told the end of each round."""
    app = ServerApp()

    class Timed(FedAvg):
        """Says when a round is over."""

        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:  # noqa: ANN401 - Flower's own
            """As FedAvg, which would go on without those that failed.

            Raises:
                ProcessError: a client failed, or is missing.
            """
            came = list(replies)
            failed = [str(each.error.reason) for each in came if each.has_error()]
            if failed or len(came) != clients:
                raise ProcessError(f"{len(came)} of {clients} answered: {failed[:1]}")
            found = super().aggregate_train(server_round, came)
            ends.append((time.time(), time.process_time()))
            return found

    @app.main()
    def run(grid: Grid, _context: Context) -> None:
        # else its first round takes as many as have registered by then
        strategy = Timed(
            fraction_evaluate=0.0, min_available_nodes=clients, min_train_nodes=clients
        )
        strategy.start(grid, initial_arrays=record_of(start), num_rounds=rounds)

    return app


def client_app(kind: str, clients: int, steps: int) -> ClientApp:
    """Trains, and answers with the adapter."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        given: Any = message.content
        start = {name: array.numpy() for name, array in given["arrays"].items()}
        at = int(context.node_config["partition-id"]), int(given["config"]["server-round"])
        found = record_of(trainer(kind, clients, steps)(start, *at))
        content = {"arrays": found, "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    return app


def trainer(kind: str, clients: int, steps: int) -> Train:
    """What a client does with an adapter, its number and the round's."""
    if kind == "idle":
        return lambda start, _client, _number: start
    if kind.startswith("lab"):
        return _lab(clients, steps)
    nodes = opened()
    if kind != "semilla":
        nodes._loaded = open_base("semilla", search=bench.ROOT)
    return functools.partial(_semilla, nodes, shares(clients), steps)


@functools.cache
def _lab(clients: int, steps: int) -> Train:
    lab = Lab(Setting(clients=clients, steps=steps, rank=bench.RANK))

    def train(start: Arrays, client: int, number: int) -> Arrays:
        return next(lab.train([Job(client, number, start, BOTH)]))

    return train


@functools.cache
def opened() -> VirtualNodes:
    """semilla, loaded."""
    nodes = VirtualNodes()
    opening = {"model": "semilla", "search": str(bench.ROOT), "rank": bench.RANK}
    nodes.open(opening | {"alpha": 2.0 * bench.RANK, "data": []}, b"")
    return nodes


@functools.cache
def shares(clients: int) -> list[list[dict[str, Any]]]:
    """The texts of each client, as many as ours have."""
    rows = [asdict(each) for each in starter()]
    return [rows[client::clients] for client in range(clients)]


def _semilla(
    nodes: VirtualNodes,
    texts: list[list[dict[str, Any]]],
    steps: int,
    start: Arrays,
    client: int,
    number: int,
) -> Arrays:
    plan = {"learning_rate": Setting.lr, "batch_size": bench.BATCH, "max_seq_len": bench.TOKENS}
    asked = {"documents": texts[client], "plan": plan | {"seed": client}, "round": number}
    _content, blob = nodes.train(asked | {"steps": steps, "trains": "AB"}, save_tensors(start))
    file = TensorFile.from_bytes(blob)
    return {name: np.array(file.array(name), np.float32) for name in file.names()}


def start_of(kind: str, kilobytes: float) -> Arrays:
    """The adapter that all begin with."""
    if kind == "idle":
        return initial_arrays(bench.idle_spec(kilobytes), 0)
    if kind.startswith("lab"):
        return Lab(Setting(rank=bench.RANK)).initial()
    return initial_arrays(opened()._spec, 0)


def record_of(arrays: Arrays) -> ArrayRecord:
    """Arrays as Flower sends them."""
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()})
