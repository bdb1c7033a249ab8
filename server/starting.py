"""Setting up a server once: keys, certificates, settings, base model, version 0."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation import durable, settings
from federation.adapter.format import AdapterSpec, initial_arrays
from federation.adapter.instructions import Terms
from federation.adapter.signing import SigningKey
from federation.errors import ConfigError, ModelError, PermissionsError
from federation.processes import free_port
from server import ca
from server.config import ServerConfig, ServerHome, load_config, save_config
from server.gate import add_documents, open_base_of
from server.intake import Intake
from server.nodes import Nodes
from server.onion_clients import OnionClients
from server.registry import Registry
from strategies.choice import check_choice
from strategies.rule import Rule

if TYPE_CHECKING:
    from federation.model.choose import BaseChoice


@dataclass(frozen=True)
class Start:
    """What `init` found or made.

    Attributes:
        is_new: False if the server existed and nothing was changed.
        reasons: why this base model; empty if it existed.
    """

    is_new: bool
    config: ServerConfig
    spec: AdapterSpec
    current: int
    reasons: tuple[str, ...] = ()


def init(
    home: ServerHome,
    wanted: ServerConfig,
    *,
    gate_data: tuple[Path, ...] = (),
    allow_download: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Start:
    """Set up the server at `home`; a complete one is left as it is.

    Interrupted at any point, the next call goes on: the settings are written first and version 0
    last, and what stands is kept.

    Args:
        home: where.
        wanted: settings; ports that are 0 are chosen here and kept.
        gate_data: JSONL files of held-out documents, copied.
        allow_download: whether the base model may be fetched from the hub.
        say: told of each step.

    Raises:
        ModelError: the base model named does not load.
        ConfigError: gate data that cannot be read, or a strategy that cannot run here.
    """
    found = _existing(home)
    if found is not None:
        return found
    if home.config.exists():
        wanted = load_config(home)
    rule = require_strategy(wanted)
    durable.make_folder(home.root)
    for source in gate_data:
        say(f"gate data {source.name}: {add_documents(source, home.gate)} documents")
    say(f"loading the base model '{wanted.model}'")
    config, spec, reasons = _settle(home, wanted, allow_download=allow_download)
    save_config(home, config)
    key = make_secrets(home, config)
    for folder in (home.spool, home.candidates, home.rounds, home.logs, home.gate, home.flwr):
        durable.make_folder(folder)
    if config.onion:
        OnionClients(home.onion, config.onion_clients).settle()
    Nodes(home.nodes_db)
    Intake(home.intake_db)
    registry = Registry(home.registry, key, key.public_hex, candidates=home.candidates)
    terms = Terms(rule.traits.asks(1))
    registry.publish(initial_arrays(spec, config.seed), strategy="initial", spec=spec, terms=terms)
    say("version 0 of the global adapter is signed")
    return Start(True, config, spec, registry.current, reasons)


def describe(home: ServerHome, start: Start) -> dict[str, Any]:
    """What `init` reports, as JSON."""
    return {
        "home": str(home.root),
        "new": start.is_new,
        "model": start.config.model,
        "base_hash": start.spec.base_hash,
        "spec_hash": start.spec.spec_hash,
        "current": start.current,
        "gateway_port": start.config.gateway_port,
        "reasons": list(start.reasons),
    }


def make_secrets(home: ServerHome, config: ServerConfig) -> SigningKey:
    """Make the signing key, the executor's secret and the certificates that are missing."""
    if not home.signing_key.exists():
        SigningKey.generate().save(home.signing_key)
    if not home.superexec_secret.exists():
        durable.write_text(home.superexec_secret, secrets.token_hex(32))
    ca.create(home.tls, name=config.name, addresses=config.addresses, now=datetime.now(UTC))
    return SigningKey.load(home.signing_key)


def require_ready(home: ServerHome) -> ServerConfig:
    """Check that the server at `home` may start; returns its settings.

    Raises:
        ConfigError: not set up, something is missing, or the strategy cannot run here.
        PermissionsError: a private file is open to other users.
    """
    config = load_config(home)
    require_strategy(config)
    ca.TlsFiles(home.tls).require()
    SigningKey.load(home.signing_key)
    for path in (home.config, home.superexec_secret, home.nodes_db):
        if not path.is_file():
            raise ConfigError(f"{path} is missing", hint="Run: flower-server init")
        settings.require_private(path)
    for folder in (home.root, home.keys, home.tls):
        _require_private_folder(folder)
    return config


def require_strategy(config: ServerConfig) -> Rule:
    """Return the rule that the settings name.

    Raises:
        ConfigError: unknown, or what the settings name does not go together.
    """
    if "fltrust" in config.weigher.split("+") and not config.trusted_node:
        raise ConfigError(
            "the weigher 'fltrust' measures others by a node of your own, and none is named",
            hint="Set \"trusted_node\" to its name, or weigh by 'rfa'.",
        )
    return check_choice(
        config.strategy,
        config.weigher,
        config.server_optimiser,
        max_staleness=config.max_staleness,
        private=config.privacy.noise_multiplier > 0,
    )


def _require_private_folder(folder: Path) -> None:
    mode = folder.stat().st_mode & 0o777
    if os.name != "nt" and mode & 0o077:
        raise PermissionsError(
            f"{folder} is open to other users (mode {mode:o})", hint=f"Run: chmod 700 {folder}"
        )


def _existing(home: ServerHome) -> Start | None:
    if not (home.config.exists() and home.signing_key.exists()):
        return None
    key = SigningKey.load(home.signing_key)
    registry = Registry(home.registry, key, key.public_hex, candidates=home.candidates)
    if not registry.versions():
        return None
    return Start(False, load_config(home), registry.spec, registry.current)


def _settle(
    home: ServerHome, wanted: ServerConfig, *, allow_download: bool
) -> tuple[ServerConfig, AdapterSpec, tuple[str, ...]]:
    """Load the base and write down exactly which one it is, and the two ports."""
    from federation.model import adapted, choose

    loaded = open_base_of(home, wanted, allow_download=allow_download)
    asked = choose.candidates(wanted.model, home.models, revision=wanted.revision)[0]
    if wanted.model and loaded.choice.ref != asked.ref:
        raise ModelError(
            f"the base model '{wanted.model}' does not load: {loaded.choice.reasons[0]}",
            hint="Name one that is here, or add --download.",
        )
    spec = adapted.spec_of(
        loaded,
        rank=wanted.rank,
        alpha=wanted.alpha,
        targets=wanted.targets,
        rslora=wanted.rslora,
    )
    settled = {
        "model": _lasting_name(loaded.choice),
        "revision": loaded.choice.revision,
        "gateway_port": wanted.gateway_port or free_port(),
        "superlink_port": wanted.superlink_port or free_port(),
    }
    return wanted.model_copy(update=settled), spec, loaded.choice.reasons


def _lasting_name(choice: BaseChoice) -> str:
    """A name that finds this model again from any working folder."""
    from federation.model import choose

    if choice.path == choose.SEMILLA:
        return choose.SEMILLA_REF
    return choice.ref if choice.revision else str(choice.path.resolve())
