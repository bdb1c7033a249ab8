"""The Flower Apps that `bench_round` runs; `bench_round_link` copies this file into a bundle.

`app` is our strategy or stock FedAvg, by the run's setting `side`; `node` is a stock node that
returns the adapter it gets, changed a little. A run ends with a JSON file of what it measured.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from federation import durable
from federation.adapter.format import read_adapter_folder
from federation.adapter.tensors import Arrays

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
TIMEOUT_S = 1800.0
app = ServerApp()
node = ClientApp()


@dataclass
class Memory:
    """Resident memory of this process in bytes, mapped files included; Linux counts the peaks.

    Attributes:
        idle: just before the messages that ask for adapters are sent.
        gathered: largest from then until the last reply was there (ours: on disk).
        reduced: largest until the replies were merged.
        end: largest until the end of the round.
    """

    idle: int = 0
    gathered: int = 0
    reduced: int = 0
    end: int = 0

    def begin(self) -> None:
        """From now on peaks count."""
        self.idle = resident("VmRSS")
        CLEAR_REFS.write_text(RESET_PEAK, encoding="ascii")


def resident(name: str) -> int:
    """`VmRSS` (now) or `VmHWM` (largest) of this process in bytes.

    Raises:
        OSError: not on Linux.
    """
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {name} in {STATUS}")


class StockFedAvg(FedAvg):
    """Stock FedAvg; its memory is noted before and after it gathers replies."""

    memory: Memory

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As stock."""
        messages = super().configure_train(server_round, arrays, config, grid)
        self.memory.begin()
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As stock."""
        self.memory.gathered = resident("VmHWM")
        merged = super().aggregate_train(server_round, replies)
        self.memory.reduced = resident("VmHWM")
        return merged


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one round of the side asked for and write what it took."""
    memory = Memory()
    settings = context.run_config
    run = {"ours": _run_ours, "stock": _run_stock}[str(settings["side"])]
    facts: dict[str, Any] = {"merged": 0}
    try:
        facts = run(grid, settings, memory)
    except Exception:
        facts["error"] = traceback.format_exc()
        raise
    finally:
        memory.end = resident("VmHWM")
        text = json.dumps(asdict(memory) | facts) + "\n"
        durable.write_text(Path(str(settings["report"])), text)


@node.train()
def train(message: Message, context: Context) -> Message:
    """Return the adapter that came, every value changed: equal chunks would not travel again."""
    rng = np.random.default_rng(context.node_id % 2**32)
    arrays = {
        name: array.numpy() + rng.normal(0, 1e-3, array.shape).astype(np.float32)
        for name, array in message.content.array_records["arrays"].items()
    }
    return Message(reply_of(arrays), reply_to=message)


def reply_of(arrays: Arrays) -> RecordDict:
    """What a stock node answers."""
    metrics = MetricRecord({"num-examples": 100, "loss": 2.0})
    return RecordDict({"arrays": record_of(arrays), "metrics": metrics})


def record_of(arrays: Arrays) -> ArrayRecord:
    """Arrays as stock Flower sends them, one object each."""
    return ArrayRecord({name: Array(np.ascontiguousarray(a)) for name, a in arrays.items()})


def _run_stock(grid: Grid, settings: Any, memory: Memory) -> dict[str, Any]:  # noqa: ANN401
    count = int(settings["nodes"])
    strategy = StockFedAvg(fraction_evaluate=0.0, min_train_nodes=count, min_available_nodes=count)
    strategy.memory = memory
    start = record_of(read_adapter_folder(Path(str(settings["adapter"])))[0])
    result = strategy.start(grid, start, num_rounds=1, timeout=TIMEOUT_S)
    return {"merged": count if result.train_metrics_clientapp else 0}


def _run_ours(grid: Grid, settings: Any, memory: Memory) -> dict[str, Any]:  # noqa: ANN401
    """The operator's strategy as `server_app` builds it, but for the gate: torch is not ours."""
    from server.config import ServerHome, load_config
    from server.server_app import build_strategy
    from strategies.adapter_fedavg import AdapterFedAvg
    from strategies.gate import GateDecision
    from strategies.round import Gate, Outcome, Round, RoundPolicy

    class OpenGate:
        def decide(
            self, current: Mapping[str, npt.NDArray[np.float32]], candidate: Arrays
        ) -> GateDecision:
            del current, candidate
            memory.reduced = resident("VmHWM")
            return GateDecision(True, "not measured")

        def keep(self, candidate: Arrays, decision: GateDecision) -> None:
            del candidate, decision

    class OurRound(Round):
        def finish(
            self, policy: RoundPolicy, gate: Gate, *, clock: Callable[[], float] = time.monotonic
        ) -> Outcome:
            memory.gathered = resident("VmHWM")
            return super().finish(policy, gate, clock=clock)

    class OurFedAvg(AdapterFedAvg):
        def configure_train(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
        ) -> Iterable[Message]:
            messages = super().configure_train(server_round, arrays, config, grid)
            memory.begin()
            return messages

    home = ServerHome(Path(str(settings["home"])))
    made = build_strategy(home, load_config(home), mode="collect")
    work = made.work
    work = OurRound(work.spec, work.spool, work.members, work.shelf, work.ledger)
    strategy = OurFedAvg(made.desk, work, OpenGate(), made.policy, made.timing)
    strategy.run(grid)
    merged = strategy.report.outcome.get("merged", [])
    return {"merged": len(merged), "lost": strategy.report.lost}
