"""Sits between a node and the gateway and writes down, in the clear, all that the node sends."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

PIECE = 65_536


class Listener:
    """A TLS relay on loopback, with the server's own certificate.

    Args:
        gateway_port: where to pass everything on to.
        certificate: PEM file of the certificate chain; `key` its private key.
    """

    def __init__(self, gateway_port: int, certificate: Path, key: Path) -> None:
        self._gateway_port = gateway_port
        self._inner = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._inner.load_cert_chain(certificate, key)
        self._outer = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._outer.check_hostname = False
        self._outer.verify_mode = ssl.CERT_NONE
        self.sent = bytearray()
        self.lost: list[str] = []
        self._losing: list[bytes] = []
        self.port = 0
        self._ready = threading.Event()
        self._done: asyncio.Event | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        if not self._ready.wait(10):
            raise TimeoutError("the listener did not start")
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._done is not None:
            self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(20)

    def lose_answers_to(self, *methods: str) -> None:
        """Cut the connection instead of giving the next answer to each of these Fleet methods."""
        self._losing += [f"POST /v1/fleet/{method} ".encode() for method in methods]

    async def _serve(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0, ssl=self._inner)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._done.wait()
        server.close()
        for task in list(self._relays):
            task.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _relay(self, node: asyncio.StreamReader, to_node: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._relays.add(task)
            task.add_done_callback(self._relays.discard)
        gateway, to_gateway = await asyncio.open_connection(
            "127.0.0.1", self._gateway_port, ssl=self._outer
        )
        asked: list[bytes] = []

        def note(piece: bytes) -> None:
            self.sent.extend(piece)
            asked.extend(line for line in self._losing if piece.startswith(line))

        def cut(_piece: bytes) -> None:
            for line in asked:
                if line in self._losing:
                    self._losing.remove(line)
                    self.lost.append(line.split()[1].decode().rpartition("/")[2])
                    raise ConnectionAbortedError

        ways = (
            asyncio.create_task(_pass_on(node, to_gateway, note)),
            asyncio.create_task(_pass_on(gateway, to_node, cut)),
        )
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for writer in (to_gateway, to_node):
                writer.transport.abort()
            await asyncio.gather(*ways, return_exceptions=True)


async def _pass_on(
    source: asyncio.StreamReader,
    target: asyncio.StreamWriter,
    note: Callable[[bytes], object],
) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while piece := await source.read(PIECE):
            note(piece)
            target.write(piece)
            await target.drain()
