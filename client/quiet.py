"""A SuperNode that says and fetches no more than the protocol needs. Nothing here imports Flower.

Flower's own would add to each request the name and version of its HTTP library, the encodings that
this machine can unpack and the port that it dials; microseconds of this machine's clock to what it
signs; and to each answer how long it took to compute, and the text of an exception. It would also
follow a redirect to any address, and so lead the node out of Tor. And for each round it would fetch
the bundle of code anew, twice as large as a small adapter, which the node has.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from federation.errors import BundleError

# Of every request of a node, whoever makes it.
HEADERS = {"host": "gateway", "user-agent": "conscienceai", "accept-encoding": "identity"}
_CLASS = re.compile(r"<class '[\w.]+'>|[\w ]+")


def quieten(
    connection: Any,  # noqa: ANN401
    signing: Any,  # noqa: ANN401
    note: Callable[[int], None],
    held: Callable[[str], Any],
) -> None:
    """Replace what `connection` talks with and the clock that `signing` reads.

    Args:
        connection: flwr's module `supernode.fleet_http_connection`, or a stand-in.
        signing: flwr's module `supernode.node_auth_http_interceptor`, or a stand-in.
        note: told the bytes of each request.
        held: flwr's answer with the bundle of this hash if the node has that, or None.

    Raises:
        BundleError: this version of flwr has other parts.
    """
    client, now = (_part(connection, "FleetHttpClient"), _part(signing, "now"))
    for name in ("_send", "PushMessages", "GetFab"):
        _part(client, name)
    connection.FleetHttpClient = _quiet(client, note, held)
    signing.now = lambda: now().replace(microsecond=0)


def anonymous(make_error: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap flwr's `Error`: of an exception only the class is told; its text may name a folder."""

    def error(*, code: int, reason: str | None = None) -> Any:  # noqa: ANN401 - flwr's Error
        kind = _CLASS.match(reason or "")
        return make_error(code=code, reason=kind[0] if kind else None)

    return error


def size_of(request: Any) -> int:  # noqa: ANN401 - httpx's Request
    """Bytes of a request as HTTP/1.1 writes it, before TLS."""
    headers = sum(len(name) + len(value) + 4 for name, value in request.headers.raw)
    body = int(request.headers.get("content-length", 0))
    return len(request.method) + len(request.url.raw_path) + 13 + headers + body


def _quiet(
    client: Any,  # noqa: ANN401 - flwr's class
    note: Callable[[int], None],
    held: Callable[[str], Any],
) -> type:
    class QuietClient(client):  # type: ignore[misc]  # flwr's class is given
        def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as flwr's
            super().__init__(*args, **kwargs)
            self._client.follow_redirects = False

        def _send(self, context: Any, **options: Any) -> Any:  # noqa: ANN401 - as flwr's
            context.request.headers.update(HEADERS)
            try:
                return super()._send(context, **options)
            finally:
                note(size_of(context.request))

        def PushMessages(self, request: Any) -> Any:  # noqa: ANN401, N802 - as flwr's
            request.ClearField("clientapp_runtime_list")
            return super().PushMessages(request)

        def GetFab(self, request: Any) -> Any:  # noqa: ANN401, N802 - as flwr's
            own = held(request.hash_str)
            return super().GetFab(request) if own is None else own

    return QuietClient


def _part(whole: Any, name: str) -> Any:  # noqa: ANN401 - any part of flwr
    if not hasattr(whole, name):
        raise BundleError(f"this version of Flower has no {name}: it would say too much")
    return getattr(whole, name)
