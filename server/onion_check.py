"""Whether the onion service works: tried on demand only, as regular visits would be a pattern."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from federation.errors import TorError
from federation.tor.control import Control
from federation.tor.forwarder import Forwarder
from federation.tor.keys import new_client_key
from federation.tor.socks import SocksAddress
from server.ca import TlsFiles
from server.config import ServerConfig, ServerHome
from server.onion import Onion
from server.onion_clients import PORT, TRIAL, Shard
from server.onion_tor import publish
from server.serve import answers

ANSWER_S = 60.0
TRIES, PAUSE_S = 3, 2.0  # a circuit may be lost at any time; nodes dial again too


@dataclass(frozen=True)
class Visit:
    """One address, tried from outside through Tor.

    Attributes:
        shard: name of its folder.
        is_healthy: whether the gateway answered to a volunteer's key.
        problem: why not.
        publish_s: from a new key file until every directory had the descriptor.
        connect_s: from the first dial until the gateway's answer, lost tries among it.
    """

    shard: str
    is_healthy: bool
    problem: str
    publish_s: float
    connect_s: float


def check(home: ServerHome, config: ServerConfig) -> list[Visit]:
    """Visit every address: without a key, which must fail, and with one made for this.

    Raises:
        OpenServiceError: an address let a stranger in; it was taken down.
        TorError: the server is down, or its tor is not ready.
    """
    onion = Onion(home, config)
    with onion.clients.lock():
        control = onion.control()
        if control is None:
            raise TorError("the server is down", hint="Run: flower-server up")
        with control:
            seen = control.bootstrap()
            if not seen.is_ready:
                raise TorError(f"tor is not in its network yet: {seen}")
            onion.prove_closed(control)
            visits = [_visit(onion, control, shard, home) for shard in onion.clients.shards()]
            onion.prove_closed(control)
            return visits


def _visit(onion: Onion, control: Control, shard: Shard, home: ServerHome) -> Visit:
    key, host = new_client_key(), shard.host
    started = time.monotonic()
    try:
        shard.put(TRIAL, key)
        publish(control, [shard], onion.folder)
        published = time.monotonic()
        control.add_client_key(host, key.private)
        control.fetch(host)  # the one it remembers was made before the key
        socks = SocksAddress.parse(control.socks()[0], is_extended=True)
        dialled = time.monotonic()
        with Forwarder(socks, host, PORT, purpose="check") as way:
            port = int(way.address.rpartition(":")[2])
            is_healthy = _answers(TlsFiles(home.tls), port)
            last = way.last
    finally:
        shard.path(TRIAL).unlink(missing_ok=True)
        with suppress(TorError):
            control.remove_client_key(host)
        publish(control, [shard], onion.folder)
    ended = time.monotonic()
    problem = "" if is_healthy else last.sentence if last and not last.ok else "no answer"
    return Visit(
        shard.folder.name,
        is_healthy,
        problem,
        round(published - started, 2),
        round(ended - dialled, 2),
    )


def _answers(files: TlsFiles, port: int) -> bool:
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE_S)
        if answers(files, port, timeout_s=ANSWER_S):
            return True
    return False
