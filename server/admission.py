"""Admitting a node by its keys, and putting one out."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from federation import durable
from federation.errors import ProcessError, UsageError
from federation.invitation import token_hash
from federation.tor.keys import client_line
from server.config import ServerHome, load_config
from server.control import SuperLink
from server.enrol import register
from server.nodes import Node, Nodes, header_key
from server.onion import Onion

_KEY = re.compile(r"^[0-9a-f]{64}$")
_MINUTE = 60.0


def admit(
    home: ServerHome,
    name: str,
    *,
    supernode_key: Path,
    signing_key: str,
    onion_key: Path | None = None,
) -> Node:
    """Admit a node whose public keys are known; the server must be up.

    Args:
        home: the server's.
        name: of the node.
        supernode_key: file with its OpenSSH public key.
        signing_key: its Ed25519 public key, hex.
        onion_key: where its key to the onion service is written (0600), as tor reads it.

    Raises:
        UsageError: a key file that cannot be read or is not named, or a name that is taken.
        EnrolmentError: a key that cannot be used.
        TorError: the key to the onion service could not be published.
    """
    config = load_config(home)
    if config.onion and onion_key is None:
        raise UsageError(
            "the node needs a key to the onion service",
            hint="Name a file for it, to hand over privately: --onion-key FILE",
        )
    if not _KEY.match(signing_key):
        raise UsageError("the signing key must be 64 hex digits")
    try:
        line = supernode_key.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as err:
        raise UsageError(f"the key file {supernode_key} cannot be read: {err}") from err
    nodes = Nodes(home.nodes_db)
    # An invitation that nobody sees, redeemed here: one way in, with one set of checks.
    token = token_hash(secrets.token_hex(32))
    header = header_key(line)
    nodes.invite_for(name, token_sha256=token, seconds=_MINUTE)
    nodes.claim(token, supernode_key=header, signing_key=signing_key)
    if config.onion and onion_key is not None:
        address, private = Onion(home, config).grant(name)
        host = address.rpartition(":")[0]
        durable.write_text(onion_key, client_line(host, private) + "\n")
    return register(nodes, SuperLink(home), name, header, signing_key)


def ban(home: ServerHome, name: str) -> str:
    """Refuse a node from now on; returns a warning if Flower could not be told.

    The gateway reads the node book at every request, so the ban holds whether or not the SuperLink
    is up. Flower is told as well, so that it holds no place for the node in a round. With an onion
    service the node's key is taken away and its open connections are cut.

    Raises:
        UsageError: there is no such node.
        TorError: the node is refused, but the onion service did not come back.
    """
    config = load_config(home)
    node = Nodes(home.nodes_db).ban(name)
    try:
        if config.onion:
            Onion(home, config).revoke(name)
    finally:
        warning = _unregister(home, node)
    return warning


def _unregister(home: ServerHome, node: Node) -> str:
    if not node.flower_node_id or node.status == "banned":
        return ""
    try:
        SuperLink(home).unregister(node.flower_node_id)
    except ProcessError as err:
        said = f"the gateway refuses {node.name} from now on"
        return f"{said}; Flower could not be told: {err.message}"
    return ""
