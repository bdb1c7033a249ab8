"""`/api/chat`: a question, and its answer whole or as it comes (server-sent events)."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from federation.errors import ConscienceError
from federation.redaction import redact
from rag.answer.events import Done, Event, Question, SourcesFound, Token
from rag.answer.result import Answer
from rag.chat.session import Conversation
from rag.chat.web.bodies import Body, checked, read
from rag.chat.web.desk import Desk, FullError, Job, Make
from rag.chat.web.figures import Figures
from rag.chat.web.problems import TOO_SOON_S
from rag.chat.web.services import Services
from rag.chat.web.settings import Params

LOOK_S = 0.25
SILENCE_S = 10.0
EVENT_STREAM = "text/event-stream"


class ChatRequest(Body):
    """What `POST /api/chat` is given; `params` only within the bounds of the settings.

    Attributes:
        adapter: whether the model writes with the network's adapter or alone.
    """

    message: str = Field(min_length=1, max_length=8000)
    session_id: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    rag: bool = True
    stream: bool = False
    anyway: bool = False
    language: Literal["", "es", "en"] = ""
    adapter: Literal["network", "base"] = "network"
    params: dict[str, Any] = Field(default_factory=dict)


class Talk:
    """Asks, stops, counts.

    Args:
        services: what answers, and what remembers.
        desk: where answers are made.
        figures: where they are counted.
    """

    def __init__(self, services: Services, desk: Desk, figures: Figures) -> None:
        self._services, self._desk, self._figures = services, desk, figures

    def routes(self) -> list[Route]:
        """Of this part."""
        return [
            Route("/api/chat", self.ask, methods=["POST"]),
            Route("/api/chat/{message_id}", self.stop, methods=["DELETE"]),
        ]

    async def ask(self, request: Request) -> Response:
        """Answer."""
        asked = await read(request, ChatRequest)
        if not asked.message.strip():
            raise HTTPException(422, "'message': it is empty")
        if asked.session_id is not None:
            await asyncio.to_thread(self._require_session, asked.session_id)
        params = checked(Params, {**self._params(), **asked.params})
        message_id = secrets.token_hex(16)
        how = {"rag": asked.rag, "anyway": asked.anyway, "language": asked.language}
        question = params.question(asked.message, message_id=message_id, **how)
        job = self.place(message_id)
        with_adapter = asked.adapter == "network"
        make, session = self._maker(question, asked.session_id or "", adapter=with_adapter)
        if asked.stream:
            events = self._as_text(self.noted(job, make), job, session)
            headers = {"X-Message-Id": message_id}
            return StreamingResponse(events, media_type=EVENT_STREAM, headers=headers)
        answer = await whole(request, job, self.noted(job, make))
        return JSONResponse(answer.to_json())

    async def stop(self, request: Request) -> Response:
        """Stop an answer."""
        if not self._desk.stop(request.path_params["message_id"]):
            raise HTTPException(404, "no answer of that id is being made")
        return JSONResponse({"cancelled": True})

    def place(self, message_id: str) -> Job:
        """A place at the desk.

        Raises:
            HTTPException: 429, too many wait.
        """
        try:
            return self._desk.take(message_id)
        except FullError:
            self._figures.refused += 1
            headers = {"Retry-After": TOO_SOON_S}
            raise HTTPException(429, "too many questions wait", headers=headers) from None

    async def noted(self, job: Job, make: Make) -> AsyncIterator[Event]:
        """An answer's events, counted at its end."""
        async for event in self._desk.run(job, make):
            if isinstance(event, Done):
                self._figures.note(event.answer)
            yield event

    def _params(self) -> dict[str, Any]:
        return self._services.settings.current().params.model_dump()

    def _require_session(self, session: str) -> None:
        if all(entry.id != session for entry in self._services.memory.sessions()):
            raise HTTPException(404, "there is no such session")

    def _maker(
        self, question: Question, session: str, *, adapter: bool
    ) -> tuple[Make, Callable[[], str]]:
        """What makes the answer in a thread, and what then knows its session."""
        talks: list[Conversation] = []

        def make(is_stopped: Callable[[], bool]) -> Iterator[Event]:
            responder = self._services.answers.responder(adapter=adapter)
            talk = Conversation(responder, self._services.memory, session)
            talks.append(talk)
            return talk.ask(question, is_stopped)

        return make, lambda: talks[0].session if talks else session

    async def _as_text(
        self, events: AsyncIterator[Event], job: Job, session: Callable[[], str]
    ) -> AsyncIterator[str]:
        yield sse("start", {"message_id": job.message_id, "position": job.position})
        try:
            async for event in with_pauses(events):
                if event is None:
                    yield ": waiting\n\n"
                elif isinstance(event, SourcesFound):
                    sources = [asdict(source) for source in event.sources]
                    named = {"message_id": job.message_id, "session_id": session()}
                    yield sse("sources", {**named, "sources": sources})
                elif isinstance(event, Token):
                    yield sse("token", {"text": event.text})
                else:
                    yield sse("done", event.answer.to_json())
        except ConscienceError as err:
            yield sse("error", {"status": 503, "detail": redact(err.message)})
        except Exception:  # noqa: BLE001 - logged at the desk; the reader must hear of it
            yield sse("error", {"status": 500, "detail": "something went wrong"})


async def whole(request: Request, job: Job, events: AsyncIterator[Event]) -> Answer:
    """The finished answer; it is stopped if whoever asked goes away."""

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(LOOK_S)
        job.stop()

    watching = asyncio.create_task(watch())
    try:
        async for event in events:
            if isinstance(event, Done):
                return event.answer
    finally:
        watching.cancel()
    raise HTTPException(503, "the answer was stopped before it began")


async def with_pauses(events: AsyncIterator[Event]) -> AsyncIterator[Event | None]:
    """`events`, and None whenever nothing comes for a while: a reader who left is noticed then."""
    waiting: asyncio.Future[Event] | None = None
    iterator = events.__aiter__()
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(iterator))
            done, _pending = await asyncio.wait({waiting}, timeout=SILENCE_S)
            if not done:
                yield None
                continue
            event, waiting = await _result(waiting), None
            if event is None:
                return
            yield event
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


async def _result(waiting: asyncio.Future[Event]) -> Event | None:
    try:
        return await waiting
    except StopAsyncIteration:
        return None


def sse(name: str, content: Mapping[str, Any]) -> str:
    """One server-sent event; JSON has no line break of its own."""
    return f"event: {name}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n"
