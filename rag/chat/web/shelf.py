"""What the node reads: feeds and documents, and the place of a quotation in its text."""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath, PureWindowsPath
from typing import Literal

from pydantic import Field
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from federation.errors import NetworkError, TorError
from federation.redaction import redact
from rag.chat.web.bodies import Body, read
from rag.chat.web.guard import MAX_UPLOAD
from rag.chat.web.services import Services

LABEL_LENGTH = 120


class FeedRequest(Body):
    """What `POST /api/feeds` is given; `train` is false unless its owner says so."""

    url: str = Field(min_length=1, max_length=2000)
    name: str = Field(default="", max_length=200)
    topics: str = Field(default="", max_length=500)
    language: str = Field(default="", max_length=16)
    train: bool = False


class StarterRequest(Body):
    """What `POST /api/feeds/starter` is given."""

    language: Literal["es", "en"]


class TrialRequest(Body):
    """What `POST /api/feeds/test` is given."""

    url: str = Field(min_length=1, max_length=2000)


class Shelf:
    """Feeds, documents, passages.

    Args:
        services: whose they are.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._ingesting = asyncio.Lock()

    def routes(self) -> list[Route]:
        """Of this part."""
        return [
            Route("/api/feeds", self.feeds, methods=["GET", "POST", "DELETE"]),
            Route("/api/feeds/starter", self.starter, methods=["POST"]),
            Route("/api/feeds/test", self.test, methods=["POST"]),
            Route("/api/feeds/ingest", self.ingest, methods=["POST"]),
            Route("/api/documents", self.documents, methods=["GET", "POST"]),
            Route("/api/documents/{id}", self.document, methods=["GET", "DELETE"]),
            Route("/api/passage", self.passage),
        ]

    async def feeds(self, request: Request) -> Response:
        """List, add, or take out the one at `url`."""
        feeds = self._services.feeds
        if request.method == "POST":
            given = await read(request, FeedRequest)
            await asyncio.to_thread(feeds.add, given.model_dump())
        elif request.method == "DELETE":
            await asyncio.to_thread(feeds.remove, request.query_params.get("url", ""))
        rows = await asyncio.to_thread(feeds.rows)
        return JSONResponse(rows, 201 if request.method == "POST" else 200)

    async def starter(self, request: Request) -> Response:
        """Add the well-known feeds of a language."""
        given = await read(request, StarterRequest)
        await asyncio.to_thread(self._services.feeds.add_starter, given.language)
        return JSONResponse(await asyncio.to_thread(self._services.feeds.rows), 201)

    async def test(self, request: Request) -> Response:
        """Look at one feed; that it cannot be read is an answer too: 422 with the sentence."""
        given = await read(request, TrialRequest)
        if self._ingesting.locked():
            raise HTTPException(409, "feeds are being fetched already")
        async with self._ingesting:
            try:
                found = await asyncio.to_thread(self._services.feeds.test, given.url)
            except TorError:
                raise
            except NetworkError as err:
                raise HTTPException(422, redact(err.message)) from err
        return JSONResponse(dict(found))

    async def ingest(self, _request: Request) -> Response:
        """Fetch what is due; one at a time."""
        if self._ingesting.locked():
            raise HTTPException(409, "feeds are being fetched already")
        async with self._ingesting:
            return JSONResponse(await asyncio.to_thread(self._services.feeds.ingest))

    async def documents(self, request: Request) -> Response:
        """List, or take in one file of the form's field `file`."""
        documents = self._services.documents
        if request.method == "GET":
            return JSONResponse(await asyncio.to_thread(documents.rows))
        label, body = await _upload(request)
        if len(body) > MAX_UPLOAD:
            raise HTTPException(413, f"a document has at most {MAX_UPLOAD} bytes")
        return JSONResponse(await asyncio.to_thread(documents.add, label, body), 201)

    async def document(self, request: Request) -> Response:
        """Show or take out one."""
        documents, wanted = self._services.documents, request.path_params["id"]
        rows = await asyncio.to_thread(documents.rows)
        found = next((row for row in rows if row["id"] == wanted), None)
        if found is None:
            raise HTTPException(404, "there is no such document")
        if request.method == "DELETE":
            await asyncio.to_thread(documents.remove, wanted)
            return Response(status_code=204)
        return JSONResponse(found)

    async def passage(self, request: Request) -> Response:
        """What stands before and after a quotation."""
        query = request.query_params
        try:
            start, end = int(query.get("start", "")), int(query.get("end", ""))
        except ValueError:
            raise HTTPException(422, "'start' and 'end' are numbers") from None
        found = await asyncio.to_thread(
            self._services.answers.around, query.get("document_id", "")[:64], start, end
        )
        if found is None:
            raise HTTPException(404, "the text is no longer there")
        return JSONResponse(dict(found))


async def _upload(request: Request) -> tuple[str, bytes]:
    """Name and content of the form's file.

    Raises:
        HTTPException: 400, it is no form; 422, there is no file in it.
    """
    try:
        async with request.form(max_files=1, max_fields=4) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise HTTPException(422, "'file': it is missing")
            return label_of(file.filename or ""), await file.read(MAX_UPLOAD + 1)
    except FormParserError as err:
        raise HTTPException(400, "the form is damaged") from err


def label_of(filename: str) -> str:
    """The last part of a file's name, for people: whatever system it was named on."""
    last = PureWindowsPath(PurePosixPath(filename).name).name
    return "".join(letter for letter in last if letter.isprintable())[:LABEL_LENGTH]
