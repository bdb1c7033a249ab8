"""Refusals as the wire shows them: problem+json, and OpenAI's form below `/v1`; no internals."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from federation.errors import ConscienceError, FormatError, ModelError, UsageError
from federation.redaction import redact

logger = logging.getLogger(__name__)

TITLES = {
    400: "Bad request", 401: "Login needed", 403: "Refused", 404: "Not found",
    405: "Method not allowed", 408: "Too slow", 409: "Conflict", 413: "Too large",
    415: "Wrong content type", 422: "Wrong value", 429: "Too many requests",
    500: "Internal error", 503: "Not available",
}  # fmt: skip
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
TOO_SOON_S = "5"


def refused(
    path: str, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The response to a request for `path` that is refused with `status`."""
    if path.startswith("/v1"):
        kind = "server_error" if status >= 500 else "invalid_request_error"
        error = {
            "message": detail,
            "type": OPENAI_TYPES.get(status, kind),
            "param": None,
            "code": None,
        }
        return JSONResponse({"error": error}, status, headers)
    title = TITLES.get(status, "Error")
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(content, status, headers, media_type="application/problem+json")


async def on_http(request: Request, error: Exception) -> Response:
    """What a handler or the router refused."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it alone
    return refused(request.url.path, error.status_code, error.detail, error.headers)


async def on_ours(request: Request, error: Exception) -> Response:
    """What a part below refused, with its sentence."""
    assert isinstance(error, ConscienceError)  # noqa: S101 - registered for it alone
    text = redact(" ".join(filter(None, (error.message, error.hint))))
    status = 422 if isinstance(error, UsageError | FormatError) else 503
    if status == 503 and not isinstance(error, ModelError):
        logger.warning("a request to %s failed: %s", request.url.path, text)
    return refused(request.url.path, status, text)


async def on_anything(request: Request, _error: Exception) -> Response:
    """A fault of ours: its traceback is for the log alone."""
    return refused(request.url.path, 500, "something went wrong; the log says what")
