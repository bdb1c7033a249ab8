"""The gateway's route for measuring the way to it: bytes sent, or counted and thrown away.

For admitted nodes, who sign the request (`federation.probe`). One at a time and a few a minute for
each node; the bytes count as any others.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from federation import probe
from server.fleet import GRACE_S, SLOWEST_BYTES_PER_S, PatientResponse, refused
from server.limits import Allowance, RateLimits
from server.nodes import Node, Nodes
from server.traffic import Traffic

PROBES_PER_MINUTE = 12.0
PROBES_AT_ONCE = 30  # one measurement
MOST_RUNNING = 4  # of all nodes together
_BLOCK = os.urandom(64 * 1024)


class Probe:
    """Answers `GET` and `POST /probe/<size>`.

    Args:
        nodes: the node book.
        traffic: counts bytes per node.
        allowance: what a node may do in all.
        clock: Unix seconds.
    """

    def __init__(
        self,
        nodes: Nodes,
        traffic: Traffic,
        allowance: Allowance,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._nodes = nodes
        self._traffic = traffic
        self._allowance = allowance
        self._clock = clock
        self._rates = RateLimits(per_minute=PROBES_PER_MINUTE, burst=PROBES_AT_ONCE)
        self._running: set[str] = set()

    async def answer(self, request: Request, size: int) -> Response:
        """Answer a probe of `size` bytes whose method is GET or POST."""
        node = self._asker(request, size)
        if node is None:
            return refused(401)
        key = node.supernode_key
        if key in self._running or len(self._running) >= MOST_RUNNING:
            return refused(503)
        if not (self._rates.allows(key) and self._allowance.permits(key)):
            return refused(503)
        if request.method == "GET":
            return _Download(self._sent(key, size), size, key, self._running)
        self._running.add(key)
        try:
            return await self._count(request, key, size)
        finally:
            self._running.discard(key)

    def _asker(self, request: Request, size: int) -> Node | None:
        node = self._nodes.by_pseudonym(request.headers.get(probe.NODE_HEADER, ""))
        if node is None or node.status != "active":
            return None
        proven = probe.holds(
            request.headers,
            request.method,
            size,
            public_key=node.signing_key,
            now=self._clock(),
        )
        return node if proven else None

    async def _sent(self, key: str, size: int) -> AsyncIterator[bytes]:
        for start in range(0, size, len(_BLOCK)):
            chunk = _BLOCK[: size - start]
            self._traffic.add(key, down=len(chunk))
            yield chunk

    async def _count(self, request: Request, key: str, size: int) -> Response:
        if request.headers.get("content-length") != str(size):
            return refused(404)
        received = 0
        try:
            async with asyncio.timeout(GRACE_S + size / SLOWEST_BYTES_PER_S):
                async for chunk in request.stream():
                    received += len(chunk)
                    self._traffic.add(key, up=len(chunk))
        except (TimeoutError, ClientDisconnect):
            return refused(503)
        return JSONResponse({"bytes": received})


class _Download(PatientResponse):
    """A body of known size; its node is named in `running` as long as it is sent."""

    def __init__(self, body: AsyncIterator[bytes], size: int, key: str, running: set[str]) -> None:
        super().__init__(
            body,
            headers={"content-length": str(size)},
            media_type="application/octet-stream",
        )
        self._key = key
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._running.add(self._key)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._running.discard(self._key)
