"""The application put together: routes, refusals, guard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any

from pydantic import Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from federation.errors import ConscienceError
from rag.chat.web.bodies import Body, read, read_json
from rag.chat.web.desk import Desk
from rag.chat.web.figures import Figures
from rag.chat.web.guard import WHO, Guard, cookie_values
from rag.chat.web.login import Login, TooManyTriesError
from rag.chat.web.openai_api import OpenAi
from rag.chat.web.past import Past
from rag.chat.web.problems import on_anything, on_http, on_ours
from rag.chat.web.services import Services
from rag.chat.web.shelf import Shelf
from rag.chat.web.talk import Talk

PAGE = files("rag.chat.web") / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript",
         ".svg": "image/svg+xml"}  # fmt: skip


class LoginRequest(Body):
    """What `POST /api/login` is given."""

    token: str = Field(max_length=200)


@dataclass
class Chat:
    """The server's own routes: page, login, settings, health.

    Attributes:
        services: what it serves.
        login: token and cookies.
        hosts: values of `Host` that are this server.
        cookie: the cookie's name.
        desk: where answers are made.
    """

    services: Services
    login: Login
    hosts: Collection[str]
    cookie: str = "conscienceai"
    desk: Desk = field(default_factory=Desk)
    figures: Figures = field(default_factory=Figures)

    def build(self) -> ASGIApp:
        """The ASGI application."""
        talk = Talk(self.services, self.desk, self.figures)
        app = Starlette(
            routes=[
                Route("/", self.page),
                Route("/favicon.ico", self.static),
                Route("/static/{name}", self.static),
                Route("/api/login", self.enter, methods=["POST"]),
                Route("/api/logout", self.leave, methods=["POST"]),
                Route("/api/health", self.health),
                Route("/api/settings", self.settings, methods=["GET", "PUT"]),
                Route("/api/settings/rollback", self.roll_back, methods=["POST"]),
                Route("/metrics", self.metrics),
                *talk.routes(),
                *Past(self.services).routes(),
                *Shelf(self.services).routes(),
                *OpenAi(self.services, talk).routes(),
            ],
            exception_handlers={
                HTTPException: on_http,
                ConscienceError: on_ours,
                Exception: on_anything,
            },
            lifespan=self._running,
        )
        app.router.redirect_slashes = False
        return Guard(app, self.login, frozenset(self.hosts), self.cookie)

    async def page(self, _request: Request) -> Response:
        """The page itself; it holds nothing of anybody's."""
        return _file("index.html")

    async def static(self, request: Request) -> Response:
        """A file of the page's, by its exact name."""
        return _file(request.path_params.get("name", "icon.svg"))

    async def enter(self, request: Request) -> Response:
        """Exchange the token for a cookie."""
        given = await read(request, LoginRequest)
        try:
            is_right = self.login.is_token(given.token)
        except TooManyTriesError:
            wait = {"Retry-After": "60"}
            raise HTTPException(429, "too many wrong tokens", headers=wait) from None
        if not is_right:
            raise HTTPException(401, "this is not the token")
        answer = Response(status_code=204)
        answer.set_cookie(
            self.cookie, self.login.new_cookie(), httponly=True, samesite="strict", path="/"
        )
        return answer

    async def leave(self, request: Request) -> Response:
        """End the cookie."""
        for value in cookie_values(request, self.cookie):
            self.login.end(value)
        answer = Response(status_code=204)
        answer.delete_cookie(self.cookie, httponly=True, samesite="strict", path="/")
        return answer

    async def health(self, request: Request) -> Response:
        """Whether it lives; to its owner, how it fares."""
        if not request.scope[WHO]:
            return JSONResponse({"live": True})
        return JSONResponse(await asyncio.to_thread(self._health, self.desk.queue))

    async def settings(self, request: Request) -> Response:
        """Show or change how answers are made."""
        if request.method == "PUT":
            changes = await read_json(request)
            await asyncio.to_thread(self.services.settings.put, changes)
        return JSONResponse(await asyncio.to_thread(self.services.settings.overview))

    async def roll_back(self, _request: Request) -> Response:
        """Go one change of the settings back."""
        await asyncio.to_thread(self.services.settings.roll_back)
        return JSONResponse(await asyncio.to_thread(self.services.settings.overview))

    async def metrics(self, _request: Request) -> Response:
        """Figures for Prometheus."""
        return Response(self.figures.as_text(self.desk.queue), media_type="text/plain")

    def _health(self, queue: dict[str, int]) -> dict[str, Any]:
        responder = self.services.answers.responder()
        knows = dict(self.services.answers.knows())
        model = responder.model
        return {
            "live": True,
            "ready": responder.search is not None or responder.writer is not None,
            "chat_available": self.figures.answers > 0,
            "model": {**asdict(model), **self.services.answers.model_state()},
            "style": responder.wish,
            "rag": knows,
            "memory": {"turns": sum(entry.turns for entry in self.services.memory.sessions())},
            "queue": queue,
            "node": self.services.state.now(),
            "version": self.services.version,
        }

    @asynccontextmanager
    async def _running(self, _app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(self.desk.close)


def _file(name: str) -> Response:
    kind = TYPES.get(name[name.rfind(".") :] if "." in name else "")
    known = {entry.name: entry for entry in PAGE.iterdir()}
    if kind is None or name not in known:
        raise HTTPException(404, "there is no such file")
    return Response(known[name].read_bytes(), media_type=kind)
