"""A gateway of a few lines: real TLS on loopback, answers that a test chooses."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from server import ca

Answer = tuple[int, bytes]


@dataclass
class FakeGateway:
    """What it says, and what it was told.

    Attributes:
        enrol: body of `POST /enrol` -> status and body.
        ahead: its clock minus ours.
        asked: path of each request.
        statuses: path of a GET -> its status; 200 for all others.
        told: headers of the last request.
        heard: headers of each request, in lower case.
        leads_to: where every answer redirects, if it does.
    """

    address: str = ""
    ca_certificate: str = ""
    enrol: Callable[[bytes], Answer] = lambda _body: (503, b"")
    ahead: timedelta = timedelta()
    asked: list[str] = field(default_factory=list)
    heard: list[dict[str, str]] = field(default_factory=list)
    names_a_time: bool = True
    statuses: dict[str, int] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    leads_to: str = ""


@contextmanager
def serve_gateway(folder: Path) -> Iterator[FakeGateway]:
    """Serve until the block ends; the certificate is made by the real `server.ca`."""
    files = ca.create(folder, name="test", addresses=[], now=datetime.now(UTC))
    gateway = FakeGateway(ca_certificate=files.ca_certificate.read_text())
    server = _Server(("127.0.0.1", 0), _handler(gateway))
    trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trust.load_cert_chain(files.certificate, files.key)
    # The handshake belongs to the request's own thread: a silent client must not hold up others.
    server.socket = trust.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    gateway.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield gateway
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_args: object) -> None:
        """Say nothing of refused handshakes."""


def _handler(gateway: FakeGateway) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(gateway.statuses.get(self.path, 200), b"{}")

        def do_POST(self) -> None:
            self._answer(*gateway.enrol(self.rfile.read(int(self.headers["content-length"]))))

        def _answer(self, status: int, body: bytes) -> None:
            gateway.asked.append(self.path)
            gateway.told = {name.lower(): value for name, value in self.headers.items()}
            gateway.heard.append({name.lower(): text for name, text in self.headers.items()})
            self.send_response_only(307 if gateway.leads_to else status)
            if gateway.leads_to:
                self.send_header("Location", gateway.leads_to)
            if gateway.names_a_time:
                time = datetime.now(UTC) + gateway.ahead
                self.send_header("Date", format_datetime(time, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    return Handler
