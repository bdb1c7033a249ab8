"""Making invitations: a one-use token, everything a node must pin, the operator's signature."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime, timedelta

from federation import bundle, invitation
from federation.adapter.signing import SigningKey
from federation.errors import UsageError
from federation.invitation import Invitation
from server.ca import TlsFiles
from server.config import ServerConfig, ServerHome
from server.nodes import Nodes
from server.onion import Onion
from server.registry import Registry

DEFAULT_LIFE = "7d"
_NAME = re.compile(r"^[\w][\w .-]{0,63}$")
_LIFE = re.compile(r"^([1-9][0-9]{0,4})([smhd])$")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_life(text: str) -> timedelta:
    """Read a length of time such as "7d", "12h", "30m" or "90s".

    Raises:
        UsageError: not of that form.
    """
    match = _LIFE.match(text.strip())
    if match is None:
        raise UsageError(f"'{text}' is not a length of time", hint="Write for example 7d or 12h.")
    return timedelta(**{_UNITS[match.group(2)]: int(match.group(1))})


def invite(home: ServerHome, config: ServerConfig, name: str, *, life: timedelta) -> Invitation:
    """Make an invitation for a node called `name`.

    A name that was invited before and has not joined gets a new token and a new key to the onion
    service; the old ones are void.

    Raises:
        UsageError: not a usable name, or a node of that name has joined.
        TorError: the key could not be published.
    """
    if not _NAME.match(name):
        raise UsageError(
            f"'{name}' is not a usable name", hint="Use letters, digits, '-', '_', '.' and spaces."
        )
    key = SigningKey.load(home.signing_key)
    spec = Registry(home.registry, None, key.public_hex).spec
    expires_at = datetime.now(UTC) + life
    token = secrets.token_hex(32)
    # The book first: it refuses a name that has joined, before that node's key is replaced.
    nodes = Nodes(home.nodes_db)
    nodes.invite(name, token_sha256=invitation.token_hash(token), expires_at=expires_at.timestamp())
    address, onion_key = f"{_in_url(config.addresses[0])}:{config.gateway_port}", ""
    if config.onion:
        address, onion_key = Onion(home, config).grant(name)
    return invitation.seal(
        Invitation(
            label=name,
            address=address,
            ca_certificate=TlsFiles(home.tls).ca_certificate.read_text(encoding="ascii"),
            base_ref=spec.base_ref,
            base_hash=spec.base_hash,
            spec_hash=spec.spec_hash,
            bundle_hash=bundle.bundle_hash(),
            token=token,
            onion_key=onion_key,
            operator_key=key.public_hex,
            expires_at=expires_at.isoformat(timespec="seconds"),
        ),
        key,
    )


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
