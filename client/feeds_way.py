"""How this node reaches feeds: as it reaches its server, through Tor or straight.

A Tor that does not work is a sentence; there is no other way then. Each host has circuits of its
own, so no exit sees what else the node reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from client.config import (
    NodeConfig,
    NodeHome,
    goes_through_tor,
    load_federation,
    server_address,
)
from client.link import means
from federation.errors import TorError
from federation.tor.forwarder import PATIENCE, Forwarder, Patience
from federation.tor.socks import failure
from federation.tor.way import Tor, open_tor
from rag.ingest.address_guard import (
    DirectRoute,
    Place,
    require_public_name,
    require_web_port,
)
from rag.ingest.fetch import FetchError, Route

OWN_LEGS = ("tor", "socks", "bootstrap")  # what fails there is no feed's fault


class TorRoute:
    """Through a running tor, which alone looks names up.

    Args:
        tor: open for as long as this is used.
        patience: with one host.
    """

    is_tor = True

    def __init__(self, tor: Tor, patience: Patience = PATIENCE) -> None:
        self._tor, self._patience = tor, patience

    @asynccontextmanager
    async def open(self, place: Place) -> AsyncIterator[tuple[str, int]]:
        """A forwarder to the place for the length of the block.

        Raises:
            RefusedError: no public name, or not one of the web's ports.
            FetchError: Tor could not reach it.
            TorError: Tor itself does not work.
        """
        require_public_name(place.host)
        require_web_port(place)
        purpose = f"feed {place.host}"[:200]
        socks, patience = self._tor.socks, self._patience
        forwarder = Forwarder(socks, place.host, place.port, purpose=purpose, patience=patience)
        await asyncio.to_thread(forwarder.__enter__)
        host, _colon, port = forwarder.address.rpartition(":")
        try:
            yield host, int(port)
        except Exception as err:
            last = forwarder.last
            if last is None or last.ok:
                raise
            if last.leg in OWN_LEGS:
                raise TorError(last.sentence) from err
            hint = "" if last.code is None else failure(last.code, extended=True).hint
            raise FetchError(f"{last.sentence} {hint}".strip()) from err
        finally:
            await asyncio.to_thread(forwarder.__exit__)


@contextmanager
def open_route(home: NodeHome, config: NodeConfig, say: Callable[[str], None]) -> Iterator[Route]:
    """The route for the length of the block.

    Args:
        home: the node's.
        config: its settings.
        say: told how far tor has come.

    Raises:
        TorError: Tor is needed and cannot be had.
    """
    if not needs_tor(home, config):
        yield DirectRoute(allow_loopback=config.feeds.allow_loopback)
        return
    with open_tor("", means(home, config), say) as tor:
        yield TorRoute(tor)


def needs_tor(home: NodeHome, config: NodeConfig) -> bool:
    """Whether feeds are fetched through Tor: whenever the node's server is reached so.

    Before it has joined, the settings alone decide.
    """
    if config.use_tor is not None or not home.federation.exists():
        return bool(config.use_tor)
    return goes_through_tor(config, server_address(config, load_federation(home).address))
