"""The server's onion address changes now and then: a node follows to an onion, nowhere else."""

from __future__ import annotations

import logging

from client.config import NodeHome, host_of, load_federation
from client.keys import keep_onion_key, onion_key
from federation import settings
from federation.tor.keys import check_onion, is_onion

logger = logging.getLogger(__name__)


def follow(home: NodeHome, address: str) -> bool:
    """Remember the server's new address; the node dials it from its next start on.

    An address that is no onion's is not followed: it would lead the node out of Tor.

    Args:
        home: a home that has joined.
        address: "host:port", as the server says it; "" if it says none.

    Returns:
        Whether anything changed.
    """
    federation = load_federation(home)
    if not address or address == federation.address or not is_onion(host_of(federation.address)):
        return False
    host, _colon, port = address.rpartition(":")
    try:
        host = check_onion(host)
        is_port = 0 < int(port) < 65536
    except ValueError:
        is_port = False
    if not is_port:
        logger.warning("the server named a new address that is no onion's; the old one is kept")
        return False
    if key := onion_key(home.onion_key):
        keep_onion_key(home.onion_key, host, key)
    settings.save(federation.model_copy(update={"address": f"{host}:{port}"}), home.federation)
    logger.info("the server has a new address")
    return True
