"""What was said: sessions, search in memory, forgetting, opinions."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rag.chat.export import to_markdown
from rag.chat.memory import Session
from rag.chat.web.bodies import Body, read
from rag.chat.web.services import Services

FOUND = 20


class OpinionRequest(Body):
    """What `POST /api/feedback` is given."""

    message_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    rating: Literal["up", "down"]
    reason: str = Field(default="", max_length=2000)


class Past:
    """Reads and forgets what was said.

    Args:
        services: whose memory and feedback it is.
    """

    def __init__(self, services: Services) -> None:
        self._memory, self._feedback = services.memory, services.feedback

    def routes(self) -> list[Route]:
        """Of this part."""
        return [
            Route("/api/sessions", self.sessions),
            Route("/api/sessions/{id}", self.session, methods=["GET", "DELETE"]),
            Route("/api/sessions/{id}/export.md", self.export),
            Route("/api/memory", self.memory, methods=["GET", "DELETE"]),
            Route("/api/feedback", self.opinion, methods=["POST"]),
        ]

    async def sessions(self, _request: Request) -> Response:
        """All of them, the latest first."""
        found = await asyncio.to_thread(self._memory.sessions)
        return JSONResponse([asdict(entry) for entry in found])

    async def session(self, request: Request) -> Response:
        """Show or forget one."""
        entry = await asyncio.to_thread(self._find, request.path_params["id"])
        if request.method == "DELETE":
            await asyncio.to_thread(self._forget, entry.id)
            return Response(status_code=204)
        return JSONResponse(await asyncio.to_thread(self._turns, entry))

    async def export(self, request: Request) -> Response:
        """One as Markdown."""
        entry = await asyncio.to_thread(self._find, request.path_params["id"])
        turns = await asyncio.to_thread(self._memory.turns, entry.id)
        language = "es" if request.query_params.get("language") == "es" else "en"
        name = f'attachment; filename="chat-{entry.id[:12]}.md"'
        return Response(
            to_markdown(entry, turns, language),
            media_type="text/markdown",
            headers={"Content-Disposition": name},
        )

    async def memory(self, request: Request) -> Response:
        """What is remembered, or was said about `q`; or forget everything."""
        if request.method == "DELETE":
            gone = await asyncio.to_thread(self._memory.forget_all)
            await asyncio.to_thread(self._feedback.forget)
            return JSONResponse({"forgotten": gone})
        text = request.query_params.get("q", "")[:1000]
        sessions = await asyncio.to_thread(self._memory.sessions)
        found = await asyncio.to_thread(self._memory.search, text, limit=FOUND) if text else []
        titles = {entry.id: entry.title for entry in sessions}
        rows = [
            {"session_id": t.session, "title": titles.get(t.session, ""), "ts": t.ts,
             "content": t.content}
            for t in found
        ]  # fmt: skip
        turns = sum(entry.turns for entry in sessions)
        return JSONResponse({"sessions": len(sessions), "turns": turns, "found": rows})

    async def opinion(self, request: Request) -> Response:
        """Keep what the user thinks of an answer."""
        given = await read(request, OpinionRequest)
        await asyncio.to_thread(
            self._feedback.add, given.message_id, given.rating, given.reason.strip()
        )
        return Response(status_code=204)

    def _forget(self, session: str) -> None:
        answers = {turn.message_id for turn in self._memory.turns(session)}
        self._memory.forget(session)
        self._feedback.forget(answers)

    def _find(self, session: str) -> Session:
        """Compared with the ids there are; nothing is looked up by a name from outside."""
        for entry in self._memory.sessions():
            if entry.id == session:
                return entry
        raise HTTPException(404, "there is no such session")

    def _turns(self, entry: Session) -> dict[str, Any]:
        turns = self._memory.turns(entry.id)
        opinions = self._feedback.of({turn.message_id for turn in turns})
        rows = []
        for turn in turns:
            opinion = opinions.get(turn.message_id) if turn.role == "assistant" else None
            rows.append({**asdict(turn), "rating": opinion.rating if opinion else ""})
        return {**asdict(entry), "turns": rows}
