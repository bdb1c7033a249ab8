"""A gateway before a SuperLink of ours that writes down what reaches it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
import uvicorn
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from federation import invitation
from federation.adapter.signing import SigningKey, pseudonym
from federation.errors import ProcessError
from federation.processes import free_port
from server.ca import TlsFiles
from server.config import ServerHome, load_config
from server.control import SuperLink
from server.enrol import Enrolment
from server.fleet import Forwarder
from server.gateway import Gateway
from server.invitations import invite
from server.limits import Allowance, RateLimit
from server.nodes import Nodes
from server.probe import Probe
from server.registry import Registry
from server.traffic import Traffic
from tests.server_home import NodeKeys, make_home, node_keys


@dataclass
class Upstream:
    """A SuperLink that answers as it is told and remembers what it was asked."""

    status: int = 200
    chunks: tuple[bytes, ...] = (b"reply",)
    seen: list[tuple[str, dict[str, str], int]] = field(default_factory=list)
    largest_chunk: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            self.largest_chunk = max(self.largest_chunk, len(chunk))
        self.seen.append((request.url.path, dict(request.headers), size))
        await StreamingResponse(self._reply(), status_code=self.status)(scope, receive, send)

    async def _reply(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk


class FakeSuperLink(SuperLink):
    """Registers keys in memory, or fails with `failure`."""

    def __init__(self, home: ServerHome) -> None:
        super().__init__(home)
        self.registered: list[str] = []
        self.failure = ""

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the real one is frozen

    def register(self, supernode_key: str) -> str:
        if self.failure:
            raise ProcessError(self.failure)
        self.registered.append(supernode_key)
        return str(2**63 + len(self.registered))


@dataclass
class Bench:
    """A gateway, made anew for every `send`, with everything around it."""

    home: ServerHome
    upstream: Upstream
    nodes: Nodes
    keys: NodeKeys
    port: int

    def __post_init__(self) -> None:
        self.superlink = FakeSuperLink(self.home)
        self.traffic = Traffic(self.nodes)
        self.allowance = Allowance(self.traffic, max_daily_bytes=10**9, clock=lambda: 0.0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Gateway]:
        """A gateway for the length of the block."""
        certificate = TlsFiles(self.home.tls).ca_certificate
        forwarder = Forwarder(
            self.port, certificate, self.nodes, self.traffic, self.allowance, grace_s=1.0
        )
        public_key = SigningKey.load(self.home.signing_key).public_hex
        enrolment = Enrolment(
            self.nodes,
            self.superlink,
            Registry(self.home.registry, None, public_key),
            limit=RateLimit(per_minute=60, burst=8, clock=lambda: 0.0),
        )
        probe = Probe(self.nodes, self.traffic, self.allowance)
        yield Gateway(forwarder, enrolment, probe, self.traffic)
        await forwarder.close()

    def send(self, *requests: httpx.Request, at_once: bool = False) -> list[httpx.Response]:
        """Send requests to one gateway, one after the other or all together."""

        async def run() -> list[httpx.Response]:
            async with (
                self.running() as gateway,
                httpx.AsyncClient(transport=httpx.ASGITransport(app=gateway)) as client,
            ):
                if at_once:
                    return list(await asyncio.gather(*(client.send(r) for r in requests)))
                return [await client.send(request) for request in requests]

        return asyncio.run(run())

    def fleet(self, method: str = "get-run", body: bytes = b"x", **headers: str) -> httpx.Request:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.Request(
            "POST",
            f"https://gateway/v1/fleet/{method}",
            content=body,
            headers={"flwr-public-key": self.keys.header} | named,
        )

    def enrolment(self, made: invitation.Invitation, keys: NodeKeys) -> httpx.Request:
        request = invitation.enrol_request(made.token, keys.line, keys.signing)
        return httpx.Request("POST", "https://gateway/enrol", content=request.model_dump_json())

    def invite(self, name: str, *, seconds: int = 60) -> invitation.Invitation:
        return invite(self.home, load_config(self.home), name, life=timedelta(seconds=seconds))


@contextmanager
def serving(folder: Path) -> Iterator[tuple[ServerHome, Upstream]]:
    """A server's home, and a SuperLink of ours on a TLS port of its own."""
    port = free_port()
    home = make_home(folder / "server", superlink_port=port)
    files = TlsFiles(home.tls)
    upstream = Upstream()
    server = uvicorn.Server(
        uvicorn.Config(
            upstream,
            port=port,
            lifespan="off",
            ws="none",
            log_config=None,
            ssl_certfile=str(files.certificate),
            ssl_keyfile=str(files.key),
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield home, upstream
    server.should_exit = True
    thread.join(20)


def fresh(home: ServerHome, upstream: Upstream) -> Bench:
    """A bench with one node, "ana", and nothing left of the test before."""
    upstream.__init__()  # type: ignore[misc]
    home.nodes_db.unlink()
    nodes, keys = Nodes(home.nodes_db), node_keys()
    admit(nodes, "ana", keys)
    return Bench(home, upstream, nodes, keys, load_config(home).superlink_port)


def admit(nodes: Nodes, name: str, keys: NodeKeys) -> None:
    nodes.invite_for(name, token_sha256=name.ljust(64, "0"), seconds=60)
    signing = keys.signing.public_hex
    nodes.claim(name.ljust(64, "0"), supernode_key=keys.header, signing_key=signing)
    nodes.activate(name, pseudonym=pseudonym(signing), flower_node_id="1")
