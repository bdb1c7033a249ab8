"""Passing one Fleet request on to the SuperLink: what a SuperNode needs and nothing else.

Bodies are streamed both ways, so a request costs a few buffers whatever its size. A SuperNode
retries 502, 503 and 504 and nothing else: 401 ends it, and 413, 429 or 500 leave it alive but idle.
So everything that may pass is answered with 503, a body over the cap too.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from server.limits import Allowance
from server.nodes import Nodes
from server.repeats import MOST_BYTES, Digest, Repeats
from server.traffic import Traffic

logger = logging.getLogger(__name__)

METHODS = (
    "register-node",
    "activate-node",
    "deactivate-node",
    "unregister-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
PATHS = {f"/v1/fleet/{method}".encode("ascii") for method in METHODS}
ACTIVATE = b"/v1/fleet/activate-node"
PULL, CONFIRM = "/v1/fleet/pull-messages", "/v1/fleet/confirm-message-received"
PUSHES = ("/v1/fleet/push-messages", "/v1/fleet/push-object")
KEY_HEADER = "flwr-public-key"
MAX_BODY_BYTES = 8 * 2**20
MAX_DIGITS = 12
GRACE_S = 20.0
SLOWEST_BYTES_PER_S = 1024
REPLY_STALL_S = 60.0
_PASSED_UP = ("content-type", "accept", "x-flwr-client")
_PASSED_DOWN = ("content-type", "content-length")


class SlowClientError(Exception):
    """A request body came slower than any real link."""


class Forwarder:
    """Passes Fleet requests to the SuperLink on loopback.

    Args:
        port: the SuperLink's.
        ca_certificate: the authority its certificate comes from.
        nodes: the node book; only active nodes are passed.
        traffic: counts bytes per node.
        allowance: what one node may do in all.
        grace_s: a body may take this long, plus one second a KiB.
    """

    def __init__(
        self,
        port: int,
        ca_certificate: Path,
        nodes: Nodes,
        traffic: Traffic,
        allowance: Allowance,
        *,
        grace_s: float = GRACE_S,
    ) -> None:
        self._nodes = nodes
        self._traffic = traffic
        self._allowance = allowance
        self._repeats = Repeats()
        self._grace_s = grace_s
        self._url = f"https://127.0.0.1:{port}"
        self._client = httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=str(ca_certificate)),
            timeout=httpx.Timeout(60.0, connect=5.0, pool=10.0),
            limits=httpx.Limits(max_connections=128, max_keepalive_connections=32),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections to the SuperLink."""
        await self._client.aclose()

    async def is_up(self) -> bool:
        """Whether the SuperLink answers."""
        try:
            answer = await self._client.get(f"{self._url}/health", timeout=5.0)
        except httpx.HTTPError:
            return False
        return answer.status_code < 500

    async def forward(self, request: Request) -> Response:
        """Answer one request whose raw path is in `PATHS` and whose method is POST."""
        path: bytes = request.scope["raw_path"]
        key = request.headers.get(KEY_HEADER, "")
        if self._nodes.status_of(key) != "active":
            return _turned_away(path)
        if not self._allowance.permits(key):
            return refused(503)
        length = _content_length(request)
        if length is None:
            return refused(404)
        if length > MAX_BODY_BYTES:
            logger.warning("%s: body of %d bytes is over the cap", path.decode("ascii"), length)
            return refused(503)
        return await self._pass_on(request, path.decode("ascii"), key, length)

    async def _pass_on(self, request: Request, path: str, key: str, length: int) -> Response:
        body = Digest()
        upstream = self._client.build_request(
            "POST",
            f"{self._url}{path}",
            headers=_headers_up(request, length),
            content=self._body(request, key, length, body if path in PUSHES else None),
        )
        try:
            answer = await self._client.send(upstream, stream=True)
            if (known := await self._repeated(answer, path, key, body)) is not None:
                return known
        except (httpx.HTTPError, SlowClientError, ClientDisconnect) as err:
            logger.info("%s: no answer (%s)", path, type(err).__name__)
            return refused(503)
        if answer.status_code >= 500:
            logger.warning("%s: the SuperLink answered %d", path, answer.status_code)
            await answer.aclose()
            return refused(503)
        if answer.status_code == 200 and path == CONFIRM:
            self._repeats.confirmed(key)
        return PatientResponse(
            self._reply(answer, key),
            status_code=answer.status_code,
            headers={n: answer.headers[n] for n in _PASSED_DOWN if n in answer.headers},
            background=BackgroundTask(answer.aclose),
        )

    async def _repeated(
        self, answer: httpx.Response, path: str, key: str, body: Digest
    ) -> Response | None:
        """The answer to one who may have asked before; None where nothing is to be repeated."""
        if answer.status_code != 200 or path not in (PULL, *PUSHES):
            return None
        length = answer.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MOST_BYTES:
            return None
        content = await answer.aread()
        if path == PULL:
            content = self._repeats.pulled(key, content)
        else:
            content = self._repeats.pushed(key, body, content)
        self._traffic.add(key, down=len(content))
        kind = answer.headers.get("content-type")
        return Response(content, headers={"content-type": kind} if kind else None)

    async def _body(
        self, request: Request, key: str, length: int, digest: Digest | None
    ) -> AsyncIterator[bytes]:
        started, received = time.monotonic(), 0
        stream = request.stream()
        while received < length:
            allowed = started + self._grace_s + received / SLOWEST_BYTES_PER_S - time.monotonic()
            try:
                async with asyncio.timeout(max(allowed, 0.0)):
                    chunk = await anext(stream)
            except TimeoutError as err:
                raise SlowClientError from err
            except StopAsyncIteration:
                return
            received += len(chunk)
            self._traffic.add(key, up=len(chunk))
            if digest is not None:
                digest.add(chunk)
            yield chunk

    async def _reply(self, answer: httpx.Response, key: str) -> AsyncIterator[bytes]:
        async for chunk in answer.aiter_raw():
            self._traffic.add(key, down=len(chunk))
            yield chunk


class PatientResponse(StreamingResponse):
    """A streamed answer that gives up on a reader who stopped reading."""

    async def stream_response(self, send: Callable[..., Awaitable[None]]) -> None:
        """Send all, waiting at most `REPLY_STALL_S` for the reader each time."""

        async def bounded(message: object) -> None:
            async with asyncio.timeout(REPLY_STALL_S):
                await send(message)

        await super().stream_response(bounded)


def refused(status: int) -> Response:
    """An empty answer that also ends the connection: the rest of the body is not wanted."""
    return Response(status_code=status, headers={"connection": "close"})


def _turned_away(path: bytes) -> Response:
    """Answer of an unknown or banned key.

    401 makes a live SuperNode end itself. At its next start it asks to be activated and has to
    learn why it may not: that answer is the SuperLink's own for a key that it does not know.
    """
    if path == ACTIVATE:
        content = {"code": 2004, "detail": "Failed to activate SuperNode."}
        return JSONResponse(content, status_code=412, headers={"connection": "close"})
    return refused(401)


def _content_length(request: Request) -> int | None:
    text = request.headers.get("content-length", "")
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        return None
    return None if "transfer-encoding" in request.headers else int(text)


def _headers_up(request: Request, length: int) -> dict[str, str]:
    passed = {
        name: value
        for name, value in request.headers.items()
        if name in _PASSED_UP or name.startswith("flwr-")
    }
    return passed | {"content-length": str(length), "accept-encoding": "identity"}
