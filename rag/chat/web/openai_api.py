"""`/v1`: models, chat completions, embeddings, for programs that speak OpenAI's API."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rag.answer.events import Done, Event, Question, Token
from rag.answer.respond import Responder
from rag.answer.result import Answer
from rag.chat.web.bodies import Body, M, explain, read_json
from rag.chat.web.desk import Job, Make
from rag.chat.web.model_names import Way, listed, name_of, way_of
from rag.chat.web.openai_forms import Completion, Cut, Shape, extra_of
from rag.chat.web.problems import refused
from rag.chat.web.services import Services
from rag.chat.web.settings import Params
from rag.chat.web.talk import EVENT_STREAM, Talk, whole, with_pauses

MOST_TEXTS = 256


class EmbeddingRequest(Body):
    """`POST /v1/embeddings`."""

    model: str = Field(max_length=400)
    input: str | list[str] = Field(max_length=MOST_TEXTS * 1000)
    encoding_format: Literal["float", "base64"] = "float"
    user: str = ""


@dataclass(frozen=True)
class _Told:
    """The outer form of a stream; which model wrote is sure only at its end."""

    shape: Shape
    way: Way

    def sure(self, answer: Answer) -> Shape:
        return replace(self.shape, model=name_of(answer.model, self.way))


class OpenAi:
    """The three routes.

    Args:
        services: what answers.
        talk: whose desk and figures are used.
    """

    def __init__(self, services: Services, talk: Talk) -> None:
        self._services, self._talk = services, talk

    def routes(self) -> list[Route]:
        """Of this part."""
        return [
            Route("/v1/models", self.models),
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
            Route("/v1/embeddings", self.embed, methods=["POST"]),
        ]

    async def models(self, _request: Request) -> Response:
        """The model, with and without its adapter, with and without retrieval."""
        responder = await asyncio.to_thread(self._services.answers.responder)
        rows = [
            {"id": name, "object": "model", "created": 0, "owned_by": "conscienceai"}
            for name in listed(responder.model)
        ]
        return JSONResponse({"object": "list", "data": rows})

    async def complete(self, request: Request) -> Response:
        """Answer the last message."""
        asked = await _read(request, Completion)
        asked.require_possible()
        answers = self._services.answers
        newest = await asyncio.to_thread(answers.responder)
        way = way_of(asked.model, newest.model)
        if way is None:
            raise HTTPException(404, f"there is no model '{asked.model[:80]}'")
        responder = await asyncio.to_thread(answers.responder, adapter=way.adapter)
        question = self._question(asked, rag=way.rag)
        job = self._talk.place(question.message_id)
        events = self._talk.noted(job, _maker(responder, question))
        shape = Shape.new(question.message_id, name_of(responder.model, way))
        if asked.stream:
            pieces = _stream(events, asked, _Told(shape, way), job)
            return StreamingResponse(pieces, media_type=EVENT_STREAM)
        answer = await whole(request, job, events)
        cut = Cut(asked.stops())
        text = cut.add(answer.answer) + cut.rest()
        limit = question.sampling.max_new_tokens if question.sampling else 0
        reason = _reason(answer.usage.answer_tokens, limit, is_cut=cut.is_over)
        named = replace(shape, model=name_of(answer.model, way))
        return JSONResponse(named.whole(text, reason, answer))

    async def embed(self, request: Request) -> Response:
        """Vectors of texts."""
        asked = await _read(request, EmbeddingRequest)
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        if not texts or len(texts) > MOST_TEXTS or not all(texts):
            raise HTTPException(400, f"'input': 1 to {MOST_TEXTS} texts, none of them empty")
        name, vectors = await asyncio.to_thread(self._services.answers.embed, texts)
        as_bytes = asked.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": n, "embedding": _packed(v) if as_bytes else v}
            for n, v in enumerate(vectors)
        ]
        words = sum(len(text.split()) for text in texts)
        usage = {"prompt_tokens": words, "total_tokens": words}
        return JSONResponse({"object": "list", "data": data, "model": name, "usage": usage})

    def _question(self, asked: Completion, *, rag: bool) -> Question:
        text, before = asked.question()
        held = self._services.settings.current().params
        params = Params(**{**held.model_dump(), **asked.params(held.max_new_tokens)})
        return params.question(
            text,
            turns=before,
            rag=rag,
            seed=abs(asked.seed or 0) % 2**32,
            message_id=secrets.token_hex(16),
        )


def _maker(responder: Responder, question: Question) -> Make:
    def make(is_stopped: Callable[[], bool]) -> Iterator[Event]:
        return responder.events(question, is_stopped)

    return make


async def _stream(
    events: AsyncIterator[Event], asked: Completion, told: _Told, job: Job
) -> AsyncIterator[str]:
    cut, shape = Cut(asked.stops()), told.shape
    yield _data(shape.chunk({"role": "assistant", "content": ""}))
    try:
        async for event in with_pauses(events):
            if event is None:
                yield ": waiting\n\n"
            elif isinstance(event, Token):
                if text := cut.add(event.text):
                    yield _data(shape.chunk({"content": text}))
                if cut.is_over:
                    job.stop()
            elif isinstance(event, Done):
                shape = told.sure(event.answer)
                if text := cut.rest():
                    yield _data(shape.chunk({"content": text}))
                limit = asked.max_completion_tokens or asked.max_tokens or 0
                written = event.answer.usage.answer_tokens
                reason = _reason(written, limit, is_cut=cut.is_over)
                yield _data({**shape.chunk({}, reason), **extra_of(event.answer)})
                if asked.stream_options is not None and asked.stream_options.include_usage:
                    yield _data(shape.usage(event.answer))
    except Exception:  # noqa: BLE001 - logged at the desk; the reader must hear of it
        error = refused("/v1", 500, "something went wrong").body
        yield f"data: {bytes(error).decode()}\n\n"
    yield "data: [DONE]\n\n"


def _reason(tokens: int, limit: int, *, is_cut: bool) -> str:
    return "length" if limit and tokens >= limit and not is_cut else "stop"


async def _read(request: Request, kind: type[M]) -> M:
    """As `bodies.read`, with OpenAI's 400 for a wrong field."""
    try:
        return kind.model_validate(await read_json(request))
    except ValidationError as err:
        raise HTTPException(400, explain(err, kind)) from err


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def _data(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
