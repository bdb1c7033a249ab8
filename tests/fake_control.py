"""A control port that answers as a test says; it checks the cookie as tor does."""

from __future__ import annotations

import hmac
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

SERVER = b"Tor safe cookie authentication server-to-controller hash"
CLIENT = b"Tor safe cookie authentication controller-to-server hash"
OK = "250 OK\r\n"


class FakeControl:
    """Listens on a free port of 127.0.0.1; a context manager.

    Args:
        folder: gets `control_port` and `control_auth_cookie`, as a tor of ours leaves them.
        answers: command (its beginning) -> reply; without one the reply is `OK`, with an empty
            one there is none.
        cookie: the one it knows; another than the file's makes it an impostor.
    """

    def __init__(
        self, folder: Path, answers: Mapping[str, str] | None = None, *, cookie: bytes = b""
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        written = os.urandom(32)
        self.cookie_file = folder / "control_auth_cookie"
        self.cookie_file.write_bytes(written)
        self.answers = dict(answers or {})
        self.asked: list[str] = []
        self._cookie = cookie or written
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        (folder / "control_port").write_text(f"PORT={self.address}\n", encoding="ascii")
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join()

    def say(self, text: str) -> None:
        """Send `text`, an event say, on every connection."""
        for connection in self._connections:
            connection.sendall(text.encode())

    def drop(self) -> None:
        """Close every connection."""
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _peer = self._listener.accept()
                self._connections.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        expected = ""
        with connection, connection.makefile("rb") as lines, suppress(OSError):
            for raw in lines:
                command = raw.decode().strip()
                self.asked.append(command)
                if command.startswith("AUTHCHALLENGE"):
                    expected, reply = self._challenge(command)
                elif command.startswith("AUTHENTICATE ") and command[13:].lower() != expected:
                    reply = "515 Authentication failed\r\n"
                else:
                    reply = self._reply(command)
                connection.sendall(reply.encode())

    def _challenge(self, command: str) -> tuple[str, str]:
        """What the client must answer, and what it is told."""
        theirs, ours = bytes.fromhex(command.split()[2]), os.urandom(32)
        message = self._cookie + theirs + ours
        shown = hmac.digest(SERVER, message, "sha256").hex()
        reply = f"250 AUTHCHALLENGE SERVERHASH={shown} SERVERNONCE={ours.hex()}\r\n"
        return hmac.digest(CLIENT, message, "sha256").hex(), reply

    def _reply(self, command: str) -> str:
        found = (text for start, text in self.answers.items() if command.startswith(start))
        return next(found, OK)


@contextmanager
def silent_port() -> Iterator[str]:
    """The address of a port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
