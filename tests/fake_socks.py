"""A SOCKS port without a tor: answers as told, and can connect to servers of this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
Reply = bytes | None  # None: say nothing until the other side leaves
GRANTED = b"\x05\x00\x00\x01" + bytes(6)


def refused(code: int) -> bytes:
    """Tor's answer to a connection that did not come about."""
    return bytes([5, code, 0, 1]) + bytes(6)


@dataclass
class Asked:
    """What one client said."""

    methods: bytes = b""
    user: str = ""
    host: str = ""
    port: int = 0


@dataclass
class FakeSocks:
    """Listens on a free port, a thread for each connection.

    Attributes:
        reply: answer to the request, or a function of its number (from 1) that gives it.
        greeting: answer to the first bytes; "" follows the protocol.
        target: port of this machine that a granted connection leads to; 0 ends it.
        path: listen on a unix socket instead of a port.
        port: where it listens; 0 takes a free one.
        asked: what each client said, in order.
    """

    reply: Reply | Callable[[int], Reply] = GRANTED
    greeting: Reply = b""
    target: int = 0
    path: str = ""
    port: int = 0
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        if self.path:
            self._listener = socket.create_server(self.path, family=socket.AF_UNIX)
        else:
            self._listener = socket.create_server((HOST, self.port), backlog=512)
            self.port = int(self._listener.getsockname()[1])
        self._spawn(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shut(self._listener)
        self.drop()
        for thread in self._threads:
            thread.join(10)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"unix:{self.path}" if self.path else f"{HOST}:{self.port}"

    def drop(self) -> None:
        """End every connection, as a tor that dies does."""
        for each in list(self._open):
            self._shut(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                self._listener.close()
                return
            self._open.add(client)
            self._spawn(lambda client=client: self._serve(client))

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                self._talk(client)
            except (OSError, EOFError):
                pass
            finally:
                self._open.discard(client)

    def _talk(self, client: socket.socket) -> None:
        asked = Asked()
        asked.methods = _read(client, _read(client, 2)[1])
        if self.greeting != b"":
            self._say(client, self.greeting)
            return
        client.sendall(bytes([5, asked.methods[0]]))
        if asked.methods == b"\x02":
            asked.user = _read(client, _read(client, 2)[1]).decode()
            _read(client, _read(client, 1)[0])
            client.sendall(b"\x01\x00")
        asked.host = _read(client, _read(client, 5)[4]).decode()
        asked.port = int.from_bytes(_read(client, 2), "big")
        self.asked.append(asked)
        reply = self.reply(len(self.asked)) if callable(self.reply) else self.reply
        self._say(client, reply)
        if reply == GRANTED and self.target:
            self._relay(client)

    def _say(self, client: socket.socket, reply: Reply) -> None:
        if reply is None:
            client.recv(1)
        else:
            client.sendall(reply)

    def _relay(self, client: socket.socket) -> None:
        """As tor does: no half-open connections, the first end of either side ends both."""
        with socket.create_connection((HOST, self.target), timeout=10) as server:
            server.settimeout(None)
            self._open.add(server)
            back = self._spawn(lambda: self._pump(server, client))
            self._pump(client, server)
            back.join(10)
            self._open.discard(server)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        self._shut(source)
        self._shut(sink)

    def _spawn(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    @staticmethod
    def _shut(each: socket.socket) -> None:
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def _read(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        received = client.recv(count - len(data))
        if not received:
            raise EOFError
        data += received
    return data
