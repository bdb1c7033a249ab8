"""The only door from outside: twelve Fleet methods, enrolment, health, probes; 404 to all else.

    python -m server.gateway --home DIR

Whoever reaches the SuperLink itself can run code on it, so this stands before it and compares the
raw path byte for byte. Nothing is logged of headers and bodies: a captured header of a SuperNode is
good for five minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from federation import redaction
from federation.adapter.signing import SigningKey
from federation.invitation import ENROL_PATH, HEALTH_PATH
from federation.probe import size_of
from server.ca import TlsFiles
from server.config import ServerHome, find_home, load_config
from server.connections import WatchfulProtocol
from server.control import SuperLink
from server.enrol import Enrolment
from server.fleet import PATHS, Forwarder, refused
from server.limits import Allowance, RateLimit
from server.nodes import Nodes
from server.probe import Probe
from server.registry import Registry
from server.traffic import FLUSH_S, Traffic

logger = logging.getLogger(__name__)

ATTEMPTS_PER_MINUTE = 30.0
ATTEMPTS_AT_ONCE = 20
KEEP_ALIVE_S = 75
MOST_CONNECTIONS = 512


class Gateway:
    """The ASGI application; `lifespan` flushes traffic and closes connections at the end."""

    def __init__(
        self, forwarder: Forwarder, enrolment: Enrolment, probe: Probe, traffic: Traffic
    ) -> None:
        self._forwarder = forwarder
        self._enrolment = enrolment
        self._probe = probe
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event of ASGI."""
        if scope["type"] == "lifespan":
            await _serve_lifespan(self._running(), receive, send)
        elif scope["type"] == "http":
            answer = await self._answer(Request(scope, receive))
            await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path: bytes = request.scope["raw_path"]
        plain = not request.scope["query_string"]
        if plain and request.method == "POST" and path in PATHS:
            return await self._forwarder.forward(request)
        if plain and request.method == "POST" and path == ENROL_PATH.encode("ascii"):
            return await self._enrolment.answer(request)
        if plain and request.method == "GET" and path == HEALTH_PATH.encode("ascii"):
            return await self._health()
        size = size_of(path.decode("latin-1"))
        if plain and request.method in ("GET", "POST") and size is not None:
            return await self._probe.answer(request, size)
        return refused(404)

    async def _health(self) -> Response:
        is_up = await self._forwarder.is_up()
        content = {"status": "ok" if is_up else "superlink down"}
        return JSONResponse(content, status_code=200 if is_up else 503)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._flush_for_ever())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self._traffic.flush()
            await self._forwarder.close()

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self._traffic.flush()


def build(home: ServerHome) -> ASGIApp:
    """The gateway of the server at `home`."""
    config = load_config(home)
    files = TlsFiles(home.tls)
    nodes = Nodes(home.nodes_db)
    traffic = Traffic(nodes)
    allowance = Allowance(traffic, max_daily_bytes=config.max_daily_mb * 10**6)
    public_key = SigningKey.load(home.signing_key).public_hex
    return Gateway(
        Forwarder(config.superlink_port, files.ca_certificate, nodes, traffic, allowance),
        Enrolment(
            nodes,
            SuperLink(home),
            Registry(home.registry, None, public_key),
            limit=RateLimit(per_minute=ATTEMPTS_PER_MINUTE, burst=ATTEMPTS_AT_ONCE),
        ),
        Probe(nodes, traffic, allowance),
        traffic,
    )


def serve(home: ServerHome) -> None:
    """Serve until SIGTERM or SIGINT."""
    config = load_config(home)
    files = TlsFiles(home.tls)
    files.require()
    uvicorn.run(
        build(home),
        host=config.gateway_host,
        port=config.gateway_port,
        http=WatchfulProtocol,
        ws="none",
        ssl_certfile=str(files.certificate),
        ssl_keyfile=str(files.key),
        access_log=False,
        server_header=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
        limit_concurrency=MOST_CONNECTIONS,
        proxy_headers=False,
    )


def main() -> None:
    """Run the gateway as a process of its own."""
    parser = argparse.ArgumentParser(prog="server.gateway", description="Run the gateway.")
    parser.add_argument("--home", type=Path, default=None)
    arguments = parser.parse_args()
    redaction.install()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # httpx names every request it makes; that is noise here.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    serve(find_home(arguments.home))


async def _serve_lifespan(
    running: contextlib.AbstractAsyncContextManager[None], receive: Receive, send: Send
) -> None:
    await receive()
    async with running:
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


if __name__ == "__main__":
    main()
