"""What stands before every route: Host, Origin, login, content type, size, and the page's rules.

Any page that the user visits can send requests to this machine, and any name can be made to point
to it. So a request must name this server in `Host`, come from its own page or from a program, and
carry the cookie or the token, before anything of it is read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag.chat.web.login import Login, TooManyTriesError
from rag.chat.web.problems import refused

logger = logging.getLogger(__name__)

MAX_JSON = 32 * 1024
MAX_OPENAI = 256 * 1024  # other clients send the whole conversation each time
MAX_UPLOAD = 10_000_000
FORM_ROOM = 8 * 1024  # the form around an upload
BODY_S = 30.0
WHO = "conscienceai.who"  # key of the scope: "cookie", "token" or ""
UPLOADS = "/api/documents"
OPEN = ("/", "/api/health", "/favicon.ico")
READING = ("GET", "HEAD")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class RefusedError(Exception):
    """A request that goes no further."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}


@dataclass(frozen=True)
class Guard:
    """The ASGI application around the application.

    Attributes:
        app: what is guarded.
        login: token and cookies.
        hosts: values of `Host` that are this server.
        cookie: the cookie's name.
    """

    app: ASGIApp
    login: Login
    hosts: Collection[str]
    cookie: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event of ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        guarded = _with_headers(send, request.url.path)
        try:
            self._require_ours(request)
            scope[WHO] = self._who(request)
            _require_login(request, scope[WHO])
            limit = _require_body(request)
        except RefusedError as no:
            headers = {"Connection": "close", **no.headers}  # its body stays unread
            answer = refused(request.url.path, no.status, no.detail, headers)
            await answer(scope, receive, guarded)
            return
        try:
            await self.app(scope, _limited(receive, limit), guarded)
        except Exception:  # already answered with 500; uvicorn would break the connection off
            logger.exception("a request to %s failed", request.url.path)

    def _require_ours(self, request: Request) -> None:
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            raise RefusedError(403, "this server has another name")
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site")
        is_hidden = origin == "null" and site == "same-origin"  # as of an onion's page
        if origin not in (None, f"http://{hosts[0].lower()}") and not is_hidden:
            raise RefusedError(403, "the request comes from another page")
        is_page = request.method in READING and request.url.path == "/"
        if site not in (None, "same-origin", "none") and not is_page:
            raise RefusedError(403, "the request comes from another page")

    def _who(self, request: Request) -> str:
        if self._has_cookie(request):
            return "cookie"
        kind, _space, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return ""
        try:
            return "token" if self.login.is_token(given.strip()) else ""
        except TooManyTriesError:
            raise RefusedError(429, "too many wrong tokens", {"Retry-After": "60"}) from None

    def _has_cookie(self, request: Request) -> bool:
        values = cookie_values(request, self.cookie)
        if not any(self.login.is_cookie(value) for value in values):
            return False
        if request.method in READING:
            return True
        named = request.headers.get("origin") is not None
        if not named and request.headers.get("sec-fetch-site") != "same-origin":
            raise RefusedError(403, "the request does not say which page it comes from")
        return True


def cookie_values(request: Request, name: str) -> list[str]:
    """What the cookie headers give for `name`."""
    found = []
    for header in request.headers.getlist("cookie"):
        try:
            parsed = SimpleCookie(header)
        except CookieError:
            continue
        if name in parsed:
            found.append(parsed[name].value)
    return found


def _require_login(request: Request, who: str) -> None:
    path = request.url.path
    is_open = request.method in READING and (path in OPEN or path.startswith("/static/"))
    if not (who or is_open or (path == "/api/login" and request.method == "POST")):
        headers = {"WWW-Authenticate": "Bearer"} if path.startswith("/v1") else {}
        raise RefusedError(401, "open the link that was printed at the start", headers)


def _require_body(request: Request) -> int:
    """How many bytes its body may have."""
    limit = MAX_OPENAI if request.url.path.startswith("/v1") else MAX_JSON
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method in ("POST", "PUT", "PATCH"):
        is_upload = request.url.path == UPLOADS
        if kind != ("multipart/form-data" if is_upload else "application/json"):
            raise RefusedError(415, "the content type must be application/json")
        limit = MAX_UPLOAD + FORM_ROOM if is_upload else limit
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length) > limit:
        raise RefusedError(413, f"a body has at most {limit} bytes")
    return limit


def _limited(receive: Receive, limit: int) -> Receive:
    """`receive` that gives up on a body that is longer than it may be, or does not come."""
    loop = asyncio.get_running_loop()
    until, size, is_whole = loop.time() + BODY_S, 0, False

    async def limited() -> Message:
        nonlocal size, is_whole
        if is_whole:
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            headers = {"Connection": "close"}
            raise HTTPException(408, "the body does not come", headers=headers) from None
        size += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        if size > limit:
            headers = {"Connection": "close"}
            raise HTTPException(413, f"a body has at most {limit} bytes", headers=headers)
        return message

    return limited


def _with_headers(send: Send, path: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault(
                "Cache-Control", "no-cache" if path[:8] == "/static/" else "no-store"
            )
        await send(message)

    return sending
