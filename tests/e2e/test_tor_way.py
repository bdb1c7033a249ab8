"""The way to an onion that needs a key, by our own tor and by a foreign one; private network."""

from __future__ import annotations

import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tor_network import PrivateTor
from tor_process import TorProcess

from federation.processes import Supervisor
from federation.tor.control import open_control
from federation.tor.foreign import Place, find
from federation.tor.keys import ClientKey, new_client_key
from federation.tor.settings import TorSettings
from federation.tor.way import Means, open_tor, open_way, split_address

pytestmark = pytest.mark.tor
LIMIT_S = 60.0
KEY = new_client_key()


@pytest.fixture(scope="module")
def onion(tor_network: PrivateTor) -> Iterator[str]:
    """An onion that lets in who has `KEY`, and says "hello"."""

    class Hello(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"hello")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Hello) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        service = tor_network.service("wayservice")
        port = server.server_address[1]
        yield service.publish({443: port}, client_keys=[KEY.public]).host
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def system_tor(tor_network: PrivateTor) -> TorProcess:
    """A tor that is not ours, as systems have it: without ExtendedErrors."""
    return tor_network.client("waysystem", socks_flags="")


@pytest.fixture
def place(system_tor: TorProcess) -> Place:
    """Where that tor is looked for."""
    control = system_tor.control.info("net/listeners/control").strip('"')
    return Place(system_tor.socks, ("127.0.0.1:9", control))


def means(tmp_path: Path, settings: TorSettings, places: tuple[Place, ...] = ()) -> Means:
    """Of a node with the key."""
    return Means(settings, tmp_path / "tor", KEY.private, places)


def own(network: PrivateTor) -> TorSettings:
    """Of a node with a tor of its own in the private network."""
    return TorSettings(torrc=str(network.torrc_file), start_s=LIMIT_S)


def hello(dial: str, timeout_s: float = LIMIT_S) -> bytes:
    """What is said at the end of a way, tried as Flower tries: again after a dropped connection."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection(split_address(dial), timeout=timeout_s) as near:
                if said := near.recv(5):
                    return said
        except ConnectionResetError:
            pass
        assert time.monotonic() < deadline, "the way never opened"
        time.sleep(0.2)


def test_a_real_tor_is_found_with_its_control_port(place: Place) -> None:
    found = find((place,))
    assert found is not None
    assert (str(found.socks), found.control) == (place.socks, place.controls[1])


def test_a_control_port_of_another_tor_is_not_taken_for_the_same(
    place: Place, tor_network: PrivateTor
) -> None:
    other = tor_network.authority(0).control.info("net/listeners/control").strip('"')
    found = find((Place(place.socks, (other,)),))
    assert found is not None
    assert found.control == ""


def test_our_own_tor_is_started_for_the_way_and_told_of(
    tmp_path: Path, tor_network: PrivateTor, onion: str
) -> None:
    said: list[str] = []
    with open_way(
        f"{onion}:443",
        means(tmp_path, own(tor_network)),
        use_tor=None,
        purpose="join",
        say=said.append,
    ) as way:
        assert hello(way.dial) == b"hello"
        assert way.forwarder is not None
        assert way.forwarder.last is not None
        assert way.forwarder.last.ok
    assert "100 % (done)" in said[-1]
    assert not any(onion[:10] in line for line in said)


def test_a_system_tor_is_lent_the_key_for_the_way_and_keeps_nothing(
    tmp_path: Path, place: Place, system_tor: TorProcess, onion: str
) -> None:
    with (
        open_way(
            f"{onion}:443",
            means(tmp_path, TorSettings(), (place,)),
            use_tor=None,
            purpose="join",
            say=print,
        ) as way,
        open_control(system_tor.folder) as control,
    ):
        assert hello(way.dial) == b"hello"
        assert control.has_client_key(onion)
    with open_control(system_tor.folder) as control:
        assert not control.has_client_key(onion)
    assert not (tmp_path / "tor").exists()


def test_a_system_tor_that_loses_the_key_gets_it_again(
    tmp_path: Path, place: Place, system_tor: TorProcess, onion: str
) -> None:
    with (
        open_way(
            f"{onion}:443",
            means(tmp_path, TorSettings(mode="system"), (place,)),
            use_tor=None,
            purpose="rounds",
            say=print,
        ) as way,
        open_control(system_tor.folder) as control,
    ):
        assert hello(way.dial) == b"hello"
        control.newnym()
        control.remove_client_key(onion)
        assert hello(way.dial) == b"hello"


def test_a_supervised_tor_is_killed_and_the_way_through_it_opens_again(
    tmp_path: Path, tor_network: PrivateTor, onion: str
) -> None:
    with open_tor(onion, means(tmp_path, own(tor_network)), print, is_supervised=True) as tor:
        assert tor.child is not None
        supervisor = Supervisor([tor.child])
        stop = threading.Event()
        try:
            supervisor.start()
            with tor.forwarder(onion, 443, "rounds") as forwarder:
                assert hello(forwarder.address) == b"hello"
                os.kill(supervisor.pid("tor") or 0, 9)
                watching = threading.Thread(target=watch, args=(supervisor, stop))
                watching.start()
                assert hello(forwarder.address) == b"hello"
                stop.set()
                watching.join()
            assert supervisor.restarts("tor") == 1
        finally:
            stop.set()
            supervisor.stop()


def watch(supervisor: Supervisor, stop: threading.Event) -> None:
    """What the main thread of a node does."""
    while not stop.wait(0.1):
        supervisor.tick()


def test_the_key_of_somebody_else_is_a_final_no(
    tmp_path: Path, tor_network: PrivateTor, onion: str
) -> None:
    other: ClientKey = new_client_key()
    stranger = Means(own(tor_network), tmp_path / "tor", other.private)
    with open_way(f"{onion}:443", stranger, use_tor=None, purpose="p", say=print) as way:
        with (
            pytest.raises(ConnectionResetError),
            socket.create_connection(split_address(way.dial), timeout=LIMIT_S) as near,
        ):
            near.recv(1)
        assert way.forwarder is not None
        assert way.forwarder.last is not None
        assert way.forwarder.last.is_final
        assert way.forwarder.last.leg == "key"
