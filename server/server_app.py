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
from server.rounds import next_report_path, report_paths
from strategies.adapter_fedavg import AdapterFedAvg
from strategies.choice import check_choice
from strategies.round import Mode, Round, RoundPolicy
from strategies.screen import ScreenPolicy
from strategies.sizes import SizePolicy
from strategies.spool import Spool
from strategies.streaming import Timing
from strategies.weigh import WeighPolicy

logger = logging.getLogger(__name__)
app = ServerApp()
HISTORY_ROUNDS = 30
# Nodes choose how long they train, so honest norms differ: shrink above twice the usual size,
# refuse above three and a half times.
MIN_SIGMA = 0.35


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
    rule = check_choice(config.strategy, config.weigher, max_staleness=config.max_staleness)
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
    work = Round(spec, spool, desk.members(), registry, intake)
    gate = ServerGate(GateRunner(home, config, spec), registry, config)
    policy = RoundPolicy(
        mode=mode,
        quorum=config.quorum,
        strategy=rule.name,
        seed=config.seed,
        log_norms=earlier_log_norms(home),
        screen=ScreenPolicy(
            max_staleness=config.max_staleness,
            gauge_safe=rule.traits.gauge_safe,
            sizes=SizePolicy(min_sigma=MIN_SIGMA),
        ),
        weigh=WeighPolicy(by=config.weigher, half_life=config.staleness_half_life),
    )
    hello_s = min(Timing.hello_s, config.round_deadline_s / 4)
    timing = Timing(collect_s=config.round_deadline_s, hello_s=hello_s)
    return AdapterFedAvg(desk, work, gate, policy, timing)


def earlier_log_norms(home: ServerHome) -> dict[str, list[float]]:
    """Log-norms accepted in the last rounds, from their reports, oldest first."""
    found: dict[str, list[float]] = {}
    for path in list(report_paths(home).values())[-HISTORY_ROUNDS:]:
        outcome = json.loads(path.read_text(encoding="utf-8")).get("outcome", {})
        for space, values in outcome.get("log_norms", {}).items():
            found.setdefault(space, []).extend(values)
    return found
