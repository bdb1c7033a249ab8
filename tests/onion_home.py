"""A node whose server is an onion service, and who goes there through a SOCKS port of a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client.config import NodeConfig, NodeHome, load_federation
from client.keys import keep_onion_key
from federation import durable, settings
from federation.tor.keys import new_client_key
from tests.adapter_samples import make_spec
from tests.global_samples import Chain, joined_home

ONION = f"{'a' * 51}m2dqd.onion"
OTHER_ONION = f"{'7' * 51}vpaqd.onion"


def onion_home(folder: Path, ca_certificate: str, **tor: Any) -> NodeHome:
    """A home that joined at `ONION`; `tor` are its settings for Tor."""
    home = joined_home(folder, Chain(make_spec()))
    move(home, f"{ONION}:443")
    keep_onion_key(home.onion_key, ONION, new_client_key().private)
    durable.write_text(home.ca, ca_certificate)
    content = {"start_jitter_s": 0, "tor": tor}
    settings.save(NodeConfig.model_validate(content), home.config)
    return home


def move(home: NodeHome, address: str) -> None:
    """Write another server's address into `federation.json`."""
    federation = load_federation(home).model_copy(update={"address": address})
    settings.save(federation, home.federation)
