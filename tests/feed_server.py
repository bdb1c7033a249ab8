"""A web server of this machine that answers as told, and remembers what it was asked."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

PIECE_BYTES = 500
Answer = tuple[int, Mapping[str, str], bytes]
Reply = Answer | Callable[[Mapping[str, str]], Answer]


def ok(body: bytes, **headers: str) -> Answer:
    """200 with a body; header names with _ for -."""
    return 200, {name.replace("_", "-"): value for name, value in headers.items()}, body


def with_etag(body: bytes, etag: str = '"one"') -> Callable[[Mapping[str, str]], Answer]:
    """200, and 304 to who knows the ETag."""

    def reply(asked: Mapping[str, str]) -> Answer:
        if asked.get("if-none-match") == etag:
            return 304, {}, b""
        return ok(body, etag=etag)

    return reply


@dataclass
class FeedServer:
    """Serves `pages` by path.

    Attributes:
        pages: path -> answer; others are 404.
        slow: path -> seconds between two pieces of the body.
        silent: paths that get no answer until the end.
        asked: (path, headers) of each request, in order.
        most_at_once: requests that were open at the same time.
        trust: to speak TLS with.
    """

    pages: dict[str, Reply] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    most_at_once: int = 0
    trust: ssl.SSLContext | None = None

    def __enter__(self) -> Self:
        self._end = threading.Event()
        self._open = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if self.trust is not None:
            self._server.socket = self.trust.wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *_: None  # a client that leaves is no news
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def url(self, path: str) -> str:
        """Address of a page."""
        return f"http://127.0.0.1:{self.port}{path}"

    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [path for path, _headers in self.asked]

    def _answer(self, path: str, headers: dict[str, str]) -> Answer:
        reply = self.pages.get(path, (404, {}, b"nothing here"))
        return reply(headers) if callable(reply) else reply

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler has self
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                with server._lock:
                    server.asked.append((self.path, headers))
                    server._open += 1
                    server.most_at_once = max(server.most_at_once, server._open)
                try:
                    if self.path in server.silent:
                        server._end.wait(30)
                        return
                    self._send(*server._answer(self.path, headers))
                except OSError:
                    return
                finally:
                    with server._lock:
                        server._open -= 1

            def _send(self, code: int, headers: Mapping[str, str], body: bytes) -> None:
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                pause_s = server.slow.get(self.path, 0.0)
                if not pause_s:
                    self.wfile.write(body)
                    return
                for start in range(0, len(body), PIECE_BYTES):
                    if server._end.wait(pause_s):
                        return
                    self.wfile.write(body[start : start + PIECE_BYTES])

            def log_message(self, *_: Any) -> None:
                return

        return Handler
