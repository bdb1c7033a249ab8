"""What the operator sees at a glance: what runs, who is there, what has come in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from federation.adapter.signing import SigningKey
from server.ca import TlsFiles
from server.config import ServerHome, load_config, load_onion_config
from server.intake import Intake
from server.nodes import Nodes
from server.onion_clients import PORT, OnionClients
from server.onion_state import read_state
from server.registry import Registry
from server.round_memory import RoundMemory
from server.rounds import report_paths
from server.serve import answers, running

STATES = ("merged", "refused", "expired", "spooled")
_PRIVATE = ("supernode_key",)


def open_registry(home: ServerHome, *, to_write: bool = False) -> Registry:
    """The registry of `home`, for reading unless `to_write`."""
    load_config(home)
    key = SigningKey.load(home.signing_key)
    return Registry(
        home.registry, key if to_write else None, key.public_hex, candidates=home.candidates
    )


def overview(home: ServerHome) -> dict[str, Any]:
    """The state of the server as JSON."""
    config = load_config(home)
    registry = open_registry(home)
    server = running(home)
    rows = node_rows(home)
    reports = report_paths(home)
    counts = {state: sum(row[state] for row in rows) for state in STATES}
    return {
        "home": str(home.root),
        "name": config.name,
        "up": server is not None,
        "healthy": server is not None and answers(TlsFiles(home.tls), config.gateway_port),
        "gateway": f"{config.gateway_host}:{config.gateway_port}",
        "onion": str(read_state(home.onion)) if config.onion else "none",
        "base": registry.spec.base_ref,
        "current": registry.current,
        "versions": len(registry.versions()),
        "nodes": sum(1 for row in rows if row["status"] == "active"),
        "invited": sum(1 for row in rows if row["status"] == "invited"),
        "banned": sum(1 for row in rows if row["status"] == "banned"),
        "rounds": len(reports),
        **_privacy(RoundMemory(home.memory, registry).spent(config.privacy.delta)),
        **counts,
        "bytes_up": sum(row["bytes_up"] for row in rows),
        "bytes_down": sum(row["bytes_down"] for row in rows),
    }


def _privacy(spent: Mapping[str, Any]) -> dict[str, str]:
    if not spent:
        return {}
    epsilon = f"epsilon {spent['epsilon']:.3g} at delta {spent['delta']:g}"
    return {"privacy": f"{epsilon} after {spent['rounds']} rounds"}


def onion_overview(home: ServerHome, *, show_address: bool) -> dict[str, Any]:
    """State and addresses of the onion service as JSON.

    Raises:
        UsageError: this server has none.
    """
    config = load_onion_config(home)
    state = read_state(home.onion)
    shown = {key: getattr(state, key) for key in ("state", "percent", "tag", "reason")}
    rows: list[dict[str, Any]] = [
        {"name": s.folder.name, "volunteers": s.volunteers, "retires_at": s.retires_at}
        | ({"address": f"{s.host}:{PORT}"} if show_address else {})
        for s in OnionClients(home.onion, config.onion_clients).shards()
    ]
    return {**shown, "text": str(state), "addresses": rows}


def node_rows(home: ServerHome) -> list[dict[str, Any]]:
    """One JSON row a node, with its packages per state."""
    load_config(home)
    counts = Intake(home.intake_db).counts()
    rows = []
    for node in Nodes(home.nodes_db).all():
        row = {key: value for key, value in asdict(node).items() if key not in _PRIVATE}
        mine = counts.get(node.pseudonym, {}) if node.pseudonym else {}
        rows.append(row | {state: mine.get(state, 0) for state in STATES})
    return rows


def history(home: ServerHome) -> list[dict[str, Any]]:
    """One JSON row a version, oldest first."""
    registry = open_registry(home)
    current = registry.current
    rows = []
    for version in registry.versions():
        manifest = registry.manifest(version)
        rows.append(
            {
                "version": version,
                "current": version == current,
                "created_at": manifest.created_at,
                "strategy": manifest.strategy,
                "inputs": [record.model_dump(mode="json") for record in manifest.inputs],
                "gate": manifest.gate,
                "tensors_sha256": manifest.tensors_sha256,
            }
        )
    return rows
