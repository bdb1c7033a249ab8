"""What Flower loads on the operator's machine: one run is one round. Nobody imports this file.

Its working folder is the SuperLink's, so every path comes from `CONSCIENCE_SERVER_HOME`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from federation import durable
from federation.adapter.signing import SigningKey
from federation.redaction import redact
from server.config import ServerConfig, ServerHome, find_home, load_config
from server.desk import ServerDesk, ServerGate
from server.gate import GateRunner
from server.intake import Intake
from server.nodes import Nodes
from server.onion_clients import OnionClients
from server.registry import Registry
from server.round_memory import RoundMemory
from server.round_policy import policy_of, tell_nodes
from server.rounds import next_report_path
from server.starting import require_strategy
from strategies.adapter_fedavg import AdapterFedAvg
from strategies.round import Mode, Round
from strategies.spool import Spool
from strategies.streaming import Timing

logger = logging.getLogger(__name__)
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that the operator asked for and write a report of each."""
    home = find_home()
    config = load_config(home)
    is_live = context.run_config.get("mode", "collect") == "live"
    # After a crash Flower may start a run again that nobody waits for: one at a time.
    with durable.locked(home.work_lock, timeout_s=config.round_deadline_s):
        strategy = build_strategy(home, config, mode="live" if is_live else "collect")
        for _ in range(int(context.run_config.get("num-server-rounds", 1))):
            strategy.run(grid)
            report: dict[str, Any] = asdict(strategy.report) | {"run_id": context.run_id}
            path = next_report_path(home)
            text = redact(json.dumps(report, indent=2, ensure_ascii=False))
            durable.write_text(path, text + "\n")
            logger.info("round report: %s", path.name)


def build_strategy(home: ServerHome, config: ServerConfig, *, mode: Mode) -> AdapterFedAvg:
    """Join the operator's records and settings into the strategy of one run."""
    rule = require_strategy(config)
    key = SigningKey.load(home.signing_key)
    registry = Registry(home.registry, key, key.public_hex, candidates=home.candidates)
    intake = Intake(home.intake_db)
    nodes = Nodes(home.nodes_db)
    onion = OnionClients(home.onion, config.onion_clients) if config.onion else None
    desk = ServerDesk(nodes, intake, registry, max_staleness=config.max_staleness, onion=onion)
    spec = registry.spec
    limit = config.max_package_bytes or 2 * spec.tensor_bytes + 65_536
    spool = Spool(home.spool, max_bytes_each=limit, max_total_bytes=1024 * limit)
    intake.reconcile(registry)
    tell_nodes(registry, rule)
    memory = RoundMemory(home.memory, registry)
    work = Round(spec, spool, desk.members(), registry, intake, memory)
    gate = ServerGate(GateRunner(home, config, spec), registry, config)
    policy = policy_of(home, config, mode)
    hello_s = min(Timing.hello_s, config.round_deadline_s / 4)
    timing = Timing(collect_s=config.round_deadline_s, hello_s=hello_s)
    return AdapterFedAvg(desk, work, gate, policy, timing)
