"""A server's home without a base model, and the keys of a node, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation import durable
from federation.adapter.format import AdapterSpec, initial_arrays
from federation.adapter.signing import SigningKey
from server.config import ServerConfig, ServerHome, save_config
from server.nodes import Nodes, header_key
from server.registry import Registry
from server.starting import make_secrets
from tests.adapter_samples import make_spec


@dataclass(frozen=True)
class NodeKeys:
    """Both keys of a node.

    Attributes:
        line: OpenSSH public key line of the SuperNode key.
        private: its private half, OpenSSH PEM.
    """

    line: str
    private: bytes
    signing: SigningKey

    @property
    def header(self) -> str:
        """Value of the `flwr-public-key` header."""
        return header_key(self.line)


def node_keys() -> NodeKeys:
    """Fresh keys."""
    key = ec.generate_private_key(ec.SECP384R1())
    line = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    return NodeKeys(line.decode("ascii"), private, SigningKey.generate())


def make_home(folder: Path, spec: AdapterSpec | None = None, **settings: object) -> ServerHome:
    """What `init --no-onion` leaves behind, but for a spec of ours and with no model loaded."""
    home = ServerHome(durable.make_folder(folder))
    config = ServerConfig.model_validate(
        {"gateway_port": 1, "superlink_port": 2, "quorum": 1, "onion": False, **settings}
    )
    save_config(home, config)
    key = make_secrets(home, config)
    Nodes(home.nodes_db)
    chosen = spec or make_spec()
    registry = Registry(home.registry, key, key.public_hex)
    registry.publish(initial_arrays(chosen, 0), strategy="initial", spec=chosen)
    return home
