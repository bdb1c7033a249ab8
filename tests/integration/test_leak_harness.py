"""The leak test's own test: in a namespace nothing gets out, and every attempt to is seen."""

from __future__ import annotations

import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from tests import netns, strace_log

PLANTED = """
import socket
def attempt(call):
    try:
        call()
    except OSError as err:
        print(type(err).__name__)
attempt(lambda: socket.create_connection(("192.0.2.1", 80), timeout=5))
attempt(lambda: socket.getaddrinfo("conscience.invalid", 443))
attempt(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.2", 123)))
"""
CLEAN = """
import socket
inner = socket.create_server(("127.0.0.1", 0))
socket.create_connection(inner.getsockname()).sendall(b"x")
outer = socket.socket(socket.AF_UNIX)
outer.connect({path!r})
print(outer.recv(10).decode())
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=5)
except OSError as err:
    print(type(err).__name__)
"""
pytestmark = [
    pytest.mark.security,
    pytest.mark.skipif(bool(netns.why_not()), reason=netns.why_not() or "-"),
    pytest.mark.skipif(not strace_log.is_installed(), reason="needs strace"),
]


def watched(code: str, prefix: Path) -> tuple[str, list[strace_log.Attempt]]:
    """Run `code` in a namespace of its own; what it printed, and whom it called."""
    with netns.Namespace() as inside:
        done = inside.run([*strace_log.wrap(prefix), sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 10  # strace runs beside the program and may end after it
    while not (found := strace_log.read(prefix)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return done.stdout, found


def test_h27_planted_leaks_fail_and_are_all_seen(tmp_path: Path) -> None:
    said, found = watched(PLANTED, tmp_path / "trace")
    assert said.split() == ["OSError", "gaierror", "OSError"]
    leaks = strace_log.leaks(found)
    assert {leak.address for leak in leaks} >= {"192.0.2.1", "192.0.2.2"}
    assert any(leak.port == strace_log.DNS for leak in leaks)


def test_h27_a_unix_socket_leads_out_and_the_outer_loopback_does_not(tmp_path: Path) -> None:
    path = str(tmp_path / "way.sock")
    with socket.socket(socket.AF_UNIX) as way, socket.create_server(("127.0.0.1", 0)) as outer:
        way.bind(path)
        way.listen()
        way.settimeout(30)
        code = CLEAN.format(path=path, port=outer.getsockname()[1])

        def answer() -> None:
            with way.accept()[0] as peer:
                peer.sendall(b"hello")

        thread = threading.Thread(target=answer)
        thread.start()
        said, found = watched(code, tmp_path / "trace")
        thread.join()
    assert said.split() == ["hello", "ConnectionRefusedError"]
    assert strace_log.leaks(found) == []
    assert len(found) == 3
