"""A circuit that leads nowhere, though nothing says so, is left for another one."""

from __future__ import annotations

import socket
import time

import pytest

from federation.tor.forwarder import Forwarder, Patience
from federation.tor.socks import SocksAddress
from tests.fake_socks import GRANTED, FakeSocks
from tests.loopback import ask, connect, echo, serving

ONION = "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid.onion"
PATIENCE = Patience(
    dial_s=5.0,
    answer_s=0.5,
    silence_s=0.2,
    stall_s=0.3,
    first_pause_s=0.01,
    longest_pause_s=0.04,
)


def forwarding(socks: FakeSocks, patience: Patience = PATIENCE) -> Forwarder:
    address = SocksAddress.parse(socks.address, is_extended=True)
    return Forwarder(address, ONION, 443, purpose="rounds", patience=patience)


def test_a_dial_without_an_answer_is_followed_by_one_over_other_circuits() -> None:
    with (
        serving(echo) as port,
        FakeSocks(lambda number: None if number == 1 else GRANTED, target=port) as socks,
        forwarding(socks) as forwarder,
    ):
        assert ask(forwarder) == b"hello"
        assert ask(forwarder) == b"hello"
    assert [asked.user for asked in socks.asked] == ["rounds", "rounds 2", "rounds 2"]


def test_new_circuits_get_all_the_time_that_is_left() -> None:
    """A slow network needs longer for them than a circuit that is there takes to answer."""
    with (
        FakeSocks(None) as socks,
        forwarding(socks, PATIENCE._replace(dial_s=1.2)) as forwarder,
    ):
        begun = time.monotonic()
        assert ask(forwarder) == b""
        assert time.monotonic() - begun > 1.0
    assert [asked.user for asked in socks.asked] == ["rounds", "rounds 2"]


def test_a_connection_that_stops_answering_is_broken_off_and_the_next_goes_elsewhere() -> None:
    def answer_once(client: socket.socket) -> None:
        client.sendall(client.recv(64))
        while client.recv(64):
            pass

    with (
        serving(answer_once) as port,
        FakeSocks(target=port) as socks,
        forwarding(socks) as forwarder,
    ):
        with connect(forwarder) as client:
            client.sendall(b"hello")
            assert client.recv(64) == b"hello"
            client.sendall(b"and?")
            begun = time.monotonic()
            with pytest.raises(ConnectionResetError):
                client.recv(64)
            assert time.monotonic() - begun < 30.0
        assert ask(forwarder) == b"hello"
    assert [asked.user for asked in socks.asked] == ["rounds", "rounds 2"]


def test_a_connection_with_nothing_to_say_is_left_alone() -> None:
    with (
        serving(echo) as port,
        FakeSocks(target=port) as socks,
        forwarding(socks) as forwarder,
        connect(forwarder) as client,
    ):
        for _each in range(2):
            client.sendall(b"hello")
            assert client.recv(64) == b"hello"
            time.sleep(3 * PATIENCE.stall_s)
    assert len(socks.asked) == 1


def test_what_is_much_may_take_long_to_travel() -> None:
    """Tor takes in at once what then goes over a slow link."""

    def take_slowly(client: socket.socket) -> None:
        client.sendall(client.recv(5))
        count = 0
        while count < 64 * 1024:
            count += len(client.recv(65536))
        time.sleep(5 * PATIENCE.stall_s)
        client.sendall(b"all of it")

    with (
        serving(take_slowly) as port,
        FakeSocks(target=port) as socks,
        forwarding(socks) as forwarder,
        connect(forwarder) as client,
    ):
        client.sendall(b"hello")
        assert client.recv(64) == b"hello"
        client.sendall(bytes(64 * 1024))
        assert client.recv(64) == b"all of it"
