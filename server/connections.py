"""Connections that are opened and then left silent are closed."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

FIRST_REQUEST_S = 30.0


class WatchfulProtocol(H11Protocol):
    """uvicorn's strict HTTP/1.1, with a deadline for the first complete request head.

    uvicorn ends a silent connection only after its first answer, so without this a client could
    hold connections for ever by sending nothing, or headers a byte at a time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 (uvicorn's own arguments)
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(FIRST_REQUEST_S, self._close_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _close_if_silent(self) -> None:
        # None until the first request head is complete, whatever uvicorn's annotation says.
        cycle: object | None = self.cycle
        if cycle is None and not self.transport.is_closing():
            self.transport.close()
