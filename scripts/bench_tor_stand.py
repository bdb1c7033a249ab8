"""The stand of `bench_tor`: one onion on a private Tor network, two ways to two servers behind it.

Port 443 leads to the real gateway over TLS, port 80 to a bare HTTP server. The first is reached as
a node does it, through a forwarder, the second straight from the SOCKS port of the same tor. All
but the client is in processes of their own.
"""

from __future__ import annotations

import http.client
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_round_link import stop
from bench_tor_end import BODY_BYTES
from tor_network import PrivateTor
from tor_process import HOST, Onion, TorProcess

from client import link
from federation import probe
from federation.adapter.signing import SigningKey, pseudonym
from federation.processes import free_port, is_listening
from federation.tor.way import Way
from server.ca import TlsFiles
from server.config import ServerHome, new_config, save_config
from server.nodes import Nodes
from server.starting import make_secrets

TLS_PORT, BARE_PORT = 443, 80
READY_S = 60.0
PATIENCE_S = 120.0
BODY = bytes(BODY_BYTES)
PURPOSE = b"forwarder"  # as that process names its connections
Say = Callable[[str], None]
Exchange = Callable[[], None]


@dataclass(frozen=True)
class Stand:
    """What a part of the benchmark needs.

    Attributes:
        client: a tor that has been used for nothing else.
        key: of a node that the gateway admits.
        certificate: PEM text of the gateway's authority.
    """

    network: PrivateTor
    client: TorProcess
    onion: Onion
    key: SigningKey
    certificate: str


@contextmanager
def stand(folder: Path, scheduler: str, say: Say) -> Iterator[Stand]:
    """Start network, servers and onion, and end them all after the block."""
    gateway, bare = free_port(), free_port()
    home, key = _make_home(folder / "server", gateway)
    # Few votes, so that no time period of the onion ends within the run.
    network = PrivateTor(folder / "tor", scheduler=scheduler, interval_s=300)
    say("a private Tor network starts")
    with _end("gateway", str(home.root)), _end("bare", str(bare)), network:
        for port in (gateway, bare):
            _wait_for(port)
        service, client = network.service("service"), network.client("client")
        onion = service.publish({TLS_PORT: gateway, BARE_PORT: bare})
        certificate = TlsFiles(home.tls).ca_certificate.read_text(encoding="utf-8")
        yield Stand(network, client, onion, key, certificate)


@contextmanager
def forwarder(socks: str, onion: Onion, port: int) -> Iterator[tuple[str, int]]:
    """A forwarder as a process of its own: where it listens, and its process id."""
    command = [sys.executable, "-m", "federation.tor.forwarder", socks]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("a pipe to the forwarder is missing")
        child.stdin.write(f"{onion.host}:{port}\n")
        child.stdin.flush()
        yield child.stdout.readline().strip(), child.pid
        child.stdin.close()


@contextmanager
def ours(stand: Stand, address: str) -> Iterator[tuple[Exchange, Exchange]]:
    """Send and fetch a body as a node does, through the forwarder at `address`."""
    size, path = BODY_BYTES, probe.path_of(BODY_BYTES)
    way = Way(address, is_tor=True)
    with link.connect(way, stand.certificate, timeout_s=PATIENCE_S) as client:

        def up() -> None:
            headers = probe.headers(stand.key, "POST", size, now=time.time())
            client.post(path, content=BODY, headers=headers).raise_for_status()

        def down() -> None:
            headers = probe.headers(stand.key, "GET", size, now=time.time())
            answer = client.get(path, headers=headers).raise_for_status()
            _require(len(answer.content))

        yield up, down


@contextmanager
def bare(stand: Stand) -> Iterator[tuple[Exchange, Exchange]]:
    """Send and fetch a body over HTTP alone, on one connection straight from tor."""
    client = http.client.HTTPConnection(stand.onion.host)
    client.sock = dial(stand.client, stand.onion, BARE_PORT)

    def up() -> None:
        client.request("POST", "/", body=BODY)
        client.getresponse().read()

    def down() -> None:
        client.request("GET", f"/{BODY_BYTES}")
        _require(len(client.getresponse().read()))

    try:
        yield up, down
    finally:
        client.close()


def dial(tor: TorProcess, onion: Onion, port: int) -> socket.socket:
    """A connection from tor's SOCKS port, on the same circuit as the forwarder's process."""
    address, listens = tor.socks.split(":")
    sock = socket.create_connection((address, int(listens)), timeout=PATIENCE_S)
    name, host = PURPOSE, onion.host.encode()
    for said, length in (
        (b"\x05\x01\x02", 2),
        (b"\x01" + bytes([len(name)]) + name + b"\x01-", 2),
        (b"\x05\x01\x00\x03" + bytes([len(host)]) + host + port.to_bytes(2, "big"), 10),
    ):
        sock.sendall(said)
        answer = sock.recv(length)
    if answer[1]:
        sock.close()
        raise RuntimeError(f"tor answered {answer[1]:02X}")
    return sock


@contextmanager
def _end(*arguments: str) -> Iterator[None]:
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("bench_tor_end.py")), *arguments]
    )
    try:
        yield
    finally:
        stop(child)


def _make_home(folder: Path, gateway: int) -> tuple[ServerHome, SigningKey]:
    """A server's home whose node book holds one admitted node."""
    home = ServerHome(folder)
    config = new_config({"gateway_port": gateway, "onion": False, "max_daily_mb": 10**6})
    save_config(home, config)
    make_secrets(home, config)
    nodes, key, token = Nodes(home.nodes_db), SigningKey.generate(), secrets.token_hex(32)
    nodes.invite_for("bench", token_sha256=token, seconds=READY_S)
    nodes.claim(token, supernode_key="bench", signing_key=key.public_hex)
    nodes.activate("bench", pseudonym=pseudonym(key.public_hex), flower_node_id="1")
    return home, key


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + READY_S
    while not is_listening(port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens on {HOST}:{port}")
        time.sleep(0.2)


def _require(received: int) -> None:
    if received != BODY_BYTES:
        raise RuntimeError(f"{received} of {BODY_BYTES} bytes came")
