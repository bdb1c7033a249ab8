"""An onion service as `up` runs it, with a gateway of a few lines; and volunteers who visit it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tor_network import PrivateTor
from tor_process import TorProcess

from federation.processes import Supervisor
from federation.tor.control import open_control
from federation.tor.forwarder import Forwarder
from federation.tor.socks import SocksAddress, SocksError, dial
from server.ca import TlsFiles
from server.config import ServerConfig, ServerHome, load_config, save_config
from server.onion import Onion
from server.onion_state import read_state
from server.onion_watch import OnionWatch
from server.serve import _onion, answers
from tests.fake_gateway import serve_gateway
from tests.server_home import make_home

LIMIT_S = 60.0
PORT = 443
NO_KEY, WRONG_KEY = 0xF4, 0xF5  # of SOCKS: what a service says to who may not come in
TRIES = 3  # circuits are lost now and then, on a busy machine more often
VERDICTS = (0, NO_KEY, WRONG_KEY)  # what a service itself says


@dataclass
class Served:
    """A running onion service.

    Attributes:
        said: what `up` would print about it.
    """

    home: ServerHome
    config: ServerConfig
    supervisor: Supervisor
    watch: OnionWatch
    said: list[str] = field(default_factory=list)

    @property
    def onion(self) -> Onion:
        """The service as a command of its own would see it."""
        return Onion(self.home, self.config)

    @property
    def hosts(self) -> list[str]:
        """Its addresses."""
        return [shard.host for shard in self.onion.clients.shards()]

    def await_state(self, name: str) -> None:
        """Wait until the state is called so."""
        await_that(lambda: read_state(self.home.onion).state == name)


@contextmanager
def served(folder: Path, network: PrivateTor | str, **settings: object) -> Iterator[Served]:
    """Run the onion service of a new server below `folder`, or of the one that is there.

    Args:
        folder: of the server.
        network: that its tor joins, or the path of a torrc.
        settings: of the server.
    """
    torrc = network if isinstance(network, str) else str(network.torrc_file)
    tor = {"torrc": torrc, "start_s": 60, **dict(settings.pop("tor", {}))}  # type: ignore[call-overload]
    home = ServerHome(folder)
    if not home.config.exists():
        make_home(folder, onion=True, tor=tor, **settings)
    with serve_gateway(home.tls) as gateway:
        port = int(gateway.address.rpartition(":")[2])
        config = load_config(home).model_copy(update={"gateway_port": port})
        save_config(home, config)
        said: list[str] = []
        with _onion(home, config, said.append) as (children, watch):
            assert watch is not None
            supervisor = Supervisor(children)
            thread = threading.Thread(target=supervisor.run)
            thread.start()
            try:
                yield Served(home, config, supervisor, watch, said)
            finally:
                supervisor.request_stop()
                thread.join()


class Volunteer:
    """A tor of a volunteer, and at most one key to each address."""

    def __init__(self, tor: TorProcess, home: ServerHome) -> None:
        self._tor = tor
        self._files = TlsFiles(home.tls)

    def take(self, address: str, private: str) -> None:
        """Use the key of an invitation."""
        with open_control(self._tor.folder) as control:
            control.add_client_key(address.removesuffix(f":{PORT}"), private)

    def forget(self) -> None:
        """Forget descriptors and keys, as a tor does that is started anew."""
        with open_control(self._tor.folder) as control:
            for line in control.ask("ONION_CLIENT_AUTH_VIEW"):
                if line.startswith("CLIENT "):
                    control.remove_client_key(line.split()[1])

    def knock(self, host: str) -> int | None:
        """Dial the service: tor's code, 0 for a connection; again if a circuit was lost."""
        code = None
        for _ in range(TRIES):
            with open_control(self._tor.folder) as control:
                control.fetch(host)
            code = asyncio.run(_dialled(SocksAddress.parse(self._tor.socks), host))
            if code in VERDICTS:
                break
        return code

    def reaches(self, host: str) -> bool:
        """Whether the gateway behind the service answers over TLS; asked again likewise."""
        with self._way(host) as way:
            port = int(way.address.rpartition(":")[2])
            return any(answers(self._files, port, timeout_s=30.0) for _ in range(TRIES))

    @contextmanager
    def connection(self, host: str) -> Iterator[ssl.SSLSocket]:
        """A TLS connection to the gateway that stays open and silent."""
        trust = ssl.create_default_context(cafile=str(self._files.ca_certificate))
        with self._way(host) as way:
            place = ("127.0.0.1", int(way.address.rpartition(":")[2]))
            with (
                socket.create_connection(place, timeout=LIMIT_S) as plain,
                trust.wrap_socket(plain, server_hostname="localhost") as line,
            ):
                yield line

    def _way(self, host: str) -> Forwarder:
        socks = SocksAddress.parse(self._tor.socks, is_extended=True)
        return Forwarder(socks, host, PORT, purpose="volunteer")


def is_cut(line: ssl.SSLSocket, within_s: float) -> bool:
    """Whether the connection ends within so many seconds."""
    line.settimeout(within_s)
    try:
        return line.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def await_that(condition: Callable[[], bool], timeout_s: float = LIMIT_S) -> float:
    """Wait until `condition` holds; returns the seconds it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, "the condition never held"
        time.sleep(0.05)
    return time.monotonic() - started


async def _dialled(socks: SocksAddress, host: str) -> int | None:
    try:
        _reader, writer = await dial(socks, host, PORT, purpose="knock", timeout_s=30.0)
    except SocksError as err:
        return err.code
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return 0
