"""Small servers of this machine, and a program that speaks through a forwarder."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from federation.tor.forwarder import Forwarder

HOST = "127.0.0.1"
LIMIT_S = 60.0  # more than a forwarder waits for a server


@contextmanager
def serving(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server of this machine that hands each connection to `handle`; its port."""
    listener = socket.create_server((HOST, 0), backlog=512)
    threads: list[threading.Thread] = []

    def each(client: socket.socket) -> None:
        with client:
            client.settimeout(LIMIT_S)
            handle(client)

    def accept() -> None:
        while True:
            try:
                client, _address = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=each, args=(client,), daemon=True))
            threads[-1].start()

    threads.append(threading.Thread(target=accept, daemon=True))
    threads[0].start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join(LIMIT_S)


def echo(client: socket.socket) -> None:
    """Send back what comes, until the end or a broken connection."""
    try:
        while data := client.recv(65536):
            client.sendall(data)
    except OSError:
        return


def read(client: socket.socket, count: int) -> bytes:
    """As many bytes, fewer at the end of the stream."""
    data = bytearray()
    while len(data) < count and (more := client.recv(count - len(data))):
        data += more
    return bytes(data)


def connect(forwarder: Forwarder) -> socket.socket:
    """A connection of a local program."""
    host, port = forwarder.address.split(":")
    return socket.create_connection((host, int(port)), timeout=LIMIT_S)


def ask(forwarder: Forwarder, question: bytes = b"hello") -> bytes:
    """Send, and read as many bytes back: fewer, if the connection broke."""
    try:
        with connect(forwarder) as client:
            client.sendall(question)
            return read(client, len(question))
    except ConnectionResetError:
        return b""
