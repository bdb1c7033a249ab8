"""The forwarder, with a SOCKS port that answers as told."""

from __future__ import annotations

import os
import random
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from federation.errors import TorError
from federation.tor.forwarder import PATIENCE, Attempt, Forwarder, Patience
from federation.tor.socks import SocksAddress
from tests.fake_socks import GRANTED, HOST, FakeSocks, refused
from tests.loopback import ask, connect, echo, read, serving

ONION = "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid.onion"
SHORT = Patience(dial_s=2.0, answer_s=0.2, first_pause_s=0.01, longest_pause_s=0.04)
HASTY = SHORT._replace(dial_s=0.2)


def forwarding(
    socks: FakeSocks | Callable[[], SocksAddress], patience: Patience = SHORT, **more: object
) -> Forwarder:
    """A forwarder to the onion through `socks`."""
    address = socks if callable(socks) else SocksAddress.parse(socks.address, is_extended=True)
    return Forwarder(address, ONION, 443, purpose="test", patience=patience, **more)


def test_bytes_go_both_ways_unchanged() -> None:
    sent = random.randbytes(4 << 20)
    with (
        serving(echo) as port,
        FakeSocks(target=port) as socks,
        forwarding(socks) as forwarder,
        connect(forwarder) as client,
    ):
        threading.Thread(target=client.sendall, args=(sent,), daemon=True).start()
        received = read(client, len(sent))
    assert received == sent
    assert (socks.asked[0].host, socks.asked[0].port, socks.asked[0].user) == (ONION, 443, "test")
    assert forwarder.last is not None
    assert forwarder.last.ok


def test_a_server_that_comes_back_in_time_costs_a_wait_and_no_connection() -> None:
    attempts: list[Attempt] = []
    replies = [refused(0xF0), refused(0xF2), refused(0x01), GRANTED]
    with (
        serving(echo) as port,
        FakeSocks(lambda number: replies[number - 1], target=port) as socks,
        forwarding(socks, on_attempt=attempts.append) as forwarder,
    ):
        assert ask(forwarder) == b"hello"
    assert [each.code for each in attempts] == [0xF0, 0xF2, 0x01, None]
    assert [each.failures for each in attempts] == [1, 2, 3, 0]
    assert [each.leg for each in attempts] == ["descriptor", "descriptor", "gateway", ""]
    assert attempts[-1] == forwarder.last


@pytest.mark.parametrize("code", [0xF0, 0xF4])
def test_a_tls_client_sees_a_server_that_is_down_as_a_reset(code: int) -> None:
    # An orderly end would be an SSLError to it, after which Flower does not try again.
    with FakeSocks(refused(code)) as socks, forwarding(socks, HASTY) as forwarder:
        context = ssl.create_default_context()
        with pytest.raises(ConnectionResetError), connect(forwarder) as client:
            context.wrap_socket(client, server_hostname="localhost")


@pytest.mark.parametrize("code", [0xF4, 0xF5, 0xF6])
def test_a_refusal_that_is_final_is_not_asked_for_twice(code: int) -> None:
    with FakeSocks(refused(code)) as socks, forwarding(socks) as forwarder:
        assert ask(forwarder) == b""
    assert len(socks.asked) == 1
    assert forwarder.last is not None
    assert (forwarder.last.is_final, forwarder.last.code) == (True, code)
    assert forwarder.last.sentence.endswith(".")


def test_a_server_that_says_nothing_is_given_up() -> None:
    def hear(client: socket.socket) -> None:
        while client.recv(1024):
            pass

    with (
        serving(hear) as port,
        FakeSocks(target=port) as socks,
        forwarding(socks, HASTY) as forwarder,
    ):
        assert ask(forwarder) == b""


def test_a_tor_that_says_nothing_is_given_up() -> None:
    with FakeSocks(None) as socks, forwarding(socks, HASTY) as forwarder:
        assert ask(forwarder) == b""
    assert forwarder.last is not None
    assert "No answer" in forwarder.last.sentence


def test_a_restarted_tor_is_found_on_its_new_port() -> None:
    with serving(echo) as port, FakeSocks(target=port) as first, FakeSocks(target=port) as second:
        running = [first]
        with forwarding(lambda: SocksAddress.parse(running[0].address)) as forwarder:
            with connect(forwarder) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                first.drop()
                assert client.recv(1) == b""
            running[0] = second
            assert ask(forwarder) == b"hello"
    assert len(second.asked) == 1


def test_no_tor_at_all_is_told_as_such() -> None:
    def none() -> SocksAddress:
        raise TorError("Tor is starting again.")

    with forwarding(none, HASTY) as forwarder:
        assert ask(forwarder) == b""
    assert forwarder.last is not None
    assert (forwarder.last.leg, forwarder.last.sentence) == ("tor", "Tor is starting again.")


def test_a_long_outage_ends_without_any_restart() -> None:
    with FakeSocks() as socks:
        place = socks.port  # nobody listens there after this
    address = SocksAddress(HOST, place)
    with serving(echo) as port, forwarding(lambda: address, HASTY) as forwarder:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: ask(forwarder), range(100)))
        assert set(answers) == {b""}
        assert forwarder.last is not None
        assert forwarder.last.failures >= 100
        with FakeSocks(target=port, port=place):
            assert ask(forwarder) == b"hello"
        assert forwarder.last.failures == 0


def test_hundreds_of_connections_at_once_are_all_served() -> None:
    with (
        serving(echo) as port,
        FakeSocks(target=port) as socks,
        forwarding(socks, PATIENCE) as forwarder,
    ):
        clients = [connect(forwarder) for _ in range(300)]
        for number, client in enumerate(clients):
            client.sendall(b"%04d" % number)
        answers = [read(client, 4) for client in clients]
        for client in clients:
            client.close()
    assert answers == [b"%04d" % number for number in range(300)]


def test_a_side_that_does_not_read_holds_the_other_back() -> None:
    stuck = threading.Event()
    sent = 0

    def flood(client: socket.socket) -> None:
        nonlocal sent
        client.settimeout(1.0)
        try:
            while sent < 64 << 20:
                sent += client.send(bytes(65536))
        except TimeoutError:
            stuck.set()

    with (
        serving(flood) as port,
        FakeSocks(target=port) as socks,
        forwarding(socks) as forwarder,
        connect(forwarder) as client,
    ):
        client.recv(1)
        assert stuck.wait(30), f"{sent} bytes went into somebody's memory"


def test_who_has_said_all_still_gets_the_answer() -> None:
    asked = threading.Event()

    def answer(client: socket.socket) -> None:
        read(client, 8)
        asked.wait(10)
        client.sendall(b"answer")

    with (
        serving(answer) as port,
        FakeSocks(target=port) as socks,
        forwarding(socks) as forwarder,
        connect(forwarder) as client,
    ):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        asked.set()
        assert read(client, 6) == b"answer"


def test_a_server_that_has_heard_enough_is_read_to_its_last_word() -> None:
    def refuse(client: socket.socket) -> None:
        client.recv(10)
        client.sendall(b"too much" * 1000)

    with (
        serving(refuse) as port,
        FakeSocks(target=port) as socks,
        forwarding(socks) as forwarder,
        connect(forwarder) as client,
    ):
        client.sendall(bytes(20_000))
        assert read(client, 8000) == b"too much" * 1000


def test_open_connections_end_with_the_forwarder() -> None:
    with serving(echo) as port, FakeSocks(target=port) as socks:
        with forwarding(socks) as forwarder:
            client = connect(forwarder)
            client.sendall(b"x")
            client.recv(1)
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)


def test_connections_that_wait_for_the_server_end_with_the_forwarder() -> None:
    with FakeSocks(None) as socks, forwarding(socks, PATIENCE) as forwarder:
        clients = [connect(forwarder) for _ in range(100)]
    for client in clients:
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)


def test_pauses_double_up_to_the_longest_with_jitter() -> None:
    patience = Patience(first_pause_s=1.0, longest_pause_s=8.0)
    for failures, full in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 8.0), (10**6, 8.0)]:
        drawn = {patience.pause_s(failures) for _ in range(50)}
        assert full / 2 <= min(drawn) <= max(drawn) <= full
        assert len(drawn) > 1


def test_a_forwarder_of_its_own_process_hides_where_it_leads() -> None:
    with serving(echo) as port, FakeSocks(target=port) as socks:
        command = [sys.executable, "-m", "federation.tor.forwarder", socks.address]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ), text=True
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(f"{ONION}:443\n")
            child.stdin.flush()
            host, address = child.stdout.readline().strip().split(":")
            with socket.create_connection((host, int(address)), timeout=20) as client:
                client.sendall(b"hello")
                assert read(client, 5) == b"hello"
            child.stdin.close()
            assert child.wait(20) == 0
    assert socks.asked[0].host == ONION
