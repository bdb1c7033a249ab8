"""SOCKS client and forwarder on a real Tor network: every code, and every part killed once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count

import pytest
from tor_network import PrivateTor, free_ports
from tor_process import Onion, TorProcess

from federation.tor.forwarder import Forwarder
from federation.tor.keys import new_client_key
from federation.tor.socks import SocksAddress, SocksError, dial
from tests.loopback import ask, connect, echo, read, serving

pytestmark = pytest.mark.tor
OPEN, SHUT, LOCKED = 80, 81, 82  # the onion's ports: an echo server; nobody
LIMIT_S = 90.0


@pytest.fixture(scope="module")
def echo_port() -> Iterator[int]:
    with serving(echo) as port:
        yield port


@pytest.fixture(scope="module")
def service(tor_network: PrivateTor) -> Iterator[TorProcess]:
    with tor_network.service("echo-service") as tor:
        yield tor


@pytest.fixture(scope="module")
def client(tor_network: PrivateTor) -> Iterator[TorProcess]:
    with tor_network.client("echo-client") as tor:
        yield tor


@pytest.fixture(scope="module")
def onion(service: TorProcess, echo_port: int) -> Onion:
    return service.publish({OPEN: echo_port, SHUT: free_ports(1)[0]})


@pytest.fixture(scope="module")
def locked(service: TorProcess, echo_port: int) -> Onion:
    """One that only the owner of a key may visit."""
    return service.publish({OPEN: echo_port}, client_keys=[new_client_key().public])


def code_of(
    tor: TorProcess, host: str, port: int = OPEN, *, is_extended: bool = True
) -> SocksError:
    """How a dial through `tor` fails."""
    socks = SocksAddress.parse(tor.socks, is_extended=is_extended)

    async def main() -> None:
        _reader, writer = await dial(socks, host, port, timeout_s=LIMIT_S)
        writer.close()
        await writer.wait_closed()

    with pytest.raises(SocksError) as caught:
        asyncio.run(main())
    return caught.value


def never_published() -> str:
    """The address of a key that nobody has."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    checksum = hashlib.sha3_256(b".onion checksum" + public + b"\x03").digest()[:2]
    return base64.b32encode(public + checksum + b"\x03").decode().lower() + ".onion"


def load_key(tor: TorProcess, host: str, private: bytes) -> None:
    """Give a running tor a key to an onion."""
    key = base64.b64encode(private).decode()
    tor.control.ask(f"ONION_CLIENT_AUTH_ADD {host.removesuffix('.onion')} x25519:{key}")


def forwarding(
    socks: SocksAddress | Callable[[], SocksAddress], onion: Onion, purpose: str
) -> Forwarder:
    return Forwarder(socks, onion.host, OPEN, purpose=purpose)


def await_answer(forwarder: Forwarder) -> float:
    """Ask again and again; seconds until an answer came, from the same forwarder."""
    begun = time.monotonic()
    while ask(forwarder) != b"hello":
        assert time.monotonic() - begun < LIMIT_S, forwarder.last
    return time.monotonic() - begun


def test_a_service_that_was_never_published_is_f0(client: TorProcess) -> None:
    error = code_of(client, never_published())
    assert (error.code, error.leg, error.is_final) == (0xF0, "descriptor", False)


def test_a_missing_key_is_f4_and_a_wrong_one_f5(client: TorProcess, locked: Onion) -> None:
    missing = code_of(client, locked.host)
    assert (missing.code, missing.leg, missing.is_final) == (0xF4, "key", True)
    load_key(client, locked.host, os.urandom(32))
    wrong = code_of(client, locked.host)
    assert (wrong.code, wrong.leg, wrong.is_final) == (0xF5, "key", True)


def test_a_mistyped_address_is_f6(client: TorProcess, onion: Onion) -> None:
    other = "a" if onion.host[3] != "a" else "b"
    error = code_of(client, onion.host[:3] + other + onion.host[4:])
    assert (error.code, error.leg, error.is_final) == (0xF6, "descriptor", True)


def test_a_closed_port_behind_the_service_is_01_of_the_gateway(
    client: TorProcess, onion: Onion
) -> None:
    error = code_of(client, onion.host, SHUT)
    assert (error.code, error.leg, error.is_final) == (0x01, "gateway", False)


def test_a_port_that_is_not_offered_is_05(client: TorProcess, onion: Onion) -> None:
    assert code_of(client, onion.host, LOCKED).code == 0x05


def test_a_plain_port_says_less_and_its_sentence_says_so(
    tor_network: PrivateTor, onion: Onion, locked: Onion
) -> None:
    with tor_network.client("plain-client", socks_flags="") as plain:
        offline = code_of(plain, never_published(), is_extended=False)
        shut = code_of(plain, locked.host, is_extended=False)
        dead = code_of(plain, onion.host, SHUT, is_extended=False)
    assert (offline.code, offline.leg) == (0x04, "descriptor")
    assert (shut.code, dead.code) == (0x01, 0x01)
    assert "program does not answer, or Tor lacks" in shut.message


def test_megabytes_go_both_ways_at_a_fair_rate(client: TorProcess, onion: Onion) -> None:
    sent = random.randbytes(2 << 20)
    socks = SocksAddress.parse(client.socks, is_extended=True)
    with forwarding(socks, onion, "rate") as forwarder:
        await_answer(forwarder)
        begun = time.monotonic()
        received = ask(forwarder, sent)
        taken_s = time.monotonic() - begun
    assert received == sent
    assert taken_s < 30  # 5 MB/s each way on a quiet machine


def test_each_purpose_has_a_circuit_of_its_own(client: TorProcess, onion: Onion) -> None:
    socks = SocksAddress.parse(client.socks, is_extended=True)
    with forwarding(socks, onion, "one") as one, forwarding(socks, onion, "two") as two:
        for forwarder in (one, two):
            await_answer(forwarder)
        circuits = "\n".join(joined(client.control.info("circuit-status").splitlines()))
    assert {"one", "two"} <= set(re.findall(r'SOCKS_USERNAME="(\w+)"', circuits))


def test_a_service_whose_tor_was_killed_is_found_again(
    tor_network: PrivateTor, client: TorProcess, echo_port: int
) -> None:
    with tor_network.service("killed-service") as tor:
        killed = tor.publish({OPEN: echo_port})
        socks = SocksAddress.parse(client.socks, is_extended=True)
        with forwarding(socks, killed, "killed") as forwarder:
            await_answer(forwarder)
            tor.kill()
            assert ask(forwarder) == b""
            assert forwarder.last is not None
            assert not forwarder.last.ok
            tor.start().wait_bootstrapped()
            tor.publish({OPEN: echo_port}, key=killed.key)
            await_answer(forwarder)
            assert forwarder.last.failures == 0


def test_a_client_whose_tor_was_killed_finds_it_on_its_new_port(
    tor_network: PrivateTor, onion: Onion
) -> None:
    with tor_network.client("killed-client") as tor:
        place = [SocksAddress.parse(tor.socks, is_extended=True)]
        with forwarding(lambda: place[0], onion, "moved") as forwarder:
            await_answer(forwarder)
            with connect(forwarder) as open_:
                open_.sendall(b"x")
                assert read(open_, 1) == b"x"
                tor.kill()
                assert open_.recv(1) == b""
            tor.start().wait_bootstrapped()
            before, place[0] = place[0], SocksAddress.parse(tor.socks, is_extended=True)
            assert place[0] != before
            await_answer(forwarder)


def test_a_relay_that_was_killed_is_gone_round(tor_network_8: PrivateTor, echo_port: int) -> None:
    with tor_network_8.service("s") as service, tor_network_8.client("c") as client:
        onion = service.publish({OPEN: echo_port})
        socks = SocksAddress.parse(client.socks, is_extended=True)
        with ExitStack() as stack:
            hops: set[int] = set()
            tries = count()
            while not hops & set(tor_network_8.expendable):  # another purpose, another circuit
                forwarder = stack.enter_context(forwarding(socks, onion, f"try {next(tries)}"))
                await_answer(forwarder)
                open_ = stack.enter_context(connect(forwarder))
                open_.sendall(b"x")
                assert read(open_, 1) == b"x"
                hops = hops_to_service(client)
            relay = tor_network_8.authority((hops & set(tor_network_8.expendable)).pop())
            relay.kill()
            try:
                assert read(open_, 1) == b""
                await_answer(forwarder)
            finally:
                relay.start().wait_bootstrapped()


def hops_to_service(client: TorProcess) -> set[int]:
    """Numbers of the nodes of the circuit that the client's newest open stream goes through."""
    streams = [line.split() for line in client.control.info("stream-status").splitlines()]
    opened = {int(words[0]): words[2] for words in streams if words[1:2] == ["SUCCEEDED"]}
    circuit = opened[max(opened)]
    lines = [line.split() for line in client.control.info("circuit-status").splitlines()]
    path = next(words[2] for words in lines if words[0] == circuit)
    return {int(number) for number in re.findall(r"~authority(\d+)", path)}


def joined(circuits: list[str]) -> list[str]:
    """Those that lead to a service, of the lines of GETINFO circuit-status."""
    return [line for line in circuits if "HSCR_JOINED" in line]
