"""From the operator's settings to the plain values of a round, and to what nodes are told."""

from __future__ import annotations

import json
import logging

from federation.errors import ConfigError, UsageError
from server.config import ServerConfig, ServerHome
from server.nodes import Nodes
from server.registry import Registry
from server.rounds import report_paths
from server.starting import require_strategy
from strategies.central_noise import Privacy
from strategies.optimiser import StepPolicy
from strategies.policy import Mode, RoundPolicy
from strategies.rule import Rule
from strategies.screen import ScreenPolicy
from strategies.sizes import SizePolicy
from strategies.weigh import WeighPolicy

logger = logging.getLogger(__name__)
HISTORY_ROUNDS = 30
# Nodes choose how long they train, so honest norms differ: shrink above twice the usual size,
# refuse above three and a half times.
MIN_SIGMA = 0.35
ADAPTIVE_LR = 1e-3  # a step of about that per value; weights of adapters are hundredths


def policy_of(home: ServerHome, config: ServerConfig, mode: Mode) -> RoundPolicy:
    """Return the values of a round now.

    Raises:
        ConfigError: what the settings name does not go together.
    """
    rule = require_strategy(config)
    return RoundPolicy(
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
        weigh=WeighPolicy(
            by=config.weigher, half_life=config.staleness_half_life, trusted=trusted(home, config)
        ),
        optimiser=config.server_optimiser,
        step=step_of(config),
        privacy=privacy_of(config),
    )


def trusted(home: ServerHome, config: ServerConfig) -> str:
    """Return the pseudonym of the operator's own node; empty where no weigher asks for it.

    Raises:
        ConfigError: there is no such node, or it takes no part.
    """
    if "fltrust" not in config.weigher.split("+"):
        return ""
    try:
        node = Nodes(home.nodes_db).by_name(config.trusted_node)
    except UsageError as err:
        raise ConfigError(f"trusted_node: {err.message}", hint=err.hint) from err
    if node.status != "active":
        raise ConfigError(f"trusted_node: '{node.name}' takes no part: it is {node.status}")
    return node.pseudonym


def step_of(config: ServerConfig) -> StepPolicy:
    """The step of the server optimiser that the settings ask for."""
    usual = ADAPTIVE_LR if config.server_optimiser in ("adam", "yogi") else 1.0
    lr = usual if config.server_lr is None else config.server_lr
    return StepPolicy(lr=lr, beta=config.server_momentum)


def privacy_of(config: ServerConfig) -> Privacy | None:
    """The noise that the settings ask for, if any."""
    asked = config.privacy
    if asked.noise_multiplier == 0:
        return None
    return Privacy(asked.clip_norm, asked.noise_multiplier, asked.delta)


def tell_nodes(registry: Registry, rule: Rule) -> None:
    """Publish the current weights again if they ask nodes for what another rule needs.

    So a change of `strategy` takes effect: an update is judged by what its version asked for.
    """
    current = registry.current
    if registry.manifest(current).instructions == rule.traits.asks(current + 1):
        return
    wanted = rule.traits.asks(current + 2)
    manifest = registry.republish(current, strategy="instructions", instructions=wanted)
    logger.info("v%d tells nodes what '%s' needs", manifest.version, rule.name)


def earlier_log_norms(home: ServerHome) -> dict[str, list[float]]:
    """Log-norms accepted in the last rounds, from their reports, oldest first."""
    found: dict[str, list[float]] = {}
    for path in list(report_paths(home).values())[-HISTORY_ROUNDS:]:
        outcome = json.loads(path.read_text(encoding="utf-8")).get("outcome", {})
        for space, values in outcome.get("log_norms", {}).items():
            found.setdefault(space, []).extend(values)
    return found
