"""Which tor a node uses, and how a foreign one is told from other programs."""

from __future__ import annotations

import shutil
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.errors import ConfigError, TorError
from federation.processes import free_port
from federation.tor import foreign
from federation.tor.foreign import ForeignTor, LentKey, Place, choose, find, is_tor
from federation.tor.keys import new_client_key
from federation.tor.settings import TorSettings
from federation.tor.socks import SocksAddress
from tests.fake_control import OK, FakeControl, silent_port

HOST = "a" * 56 + ".onion"
TOR_PAGE = b"HTTP/1.0 501 Tor is not an HTTP Proxy\r\n\r\n<html>"
OPEN = "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250 OK\r\n"
NO_PROGRAM = "/nowhere/tor"


@contextmanager
def answering(page: bytes) -> Iterator[str]:
    """The address of a port that answers whatever is sent with `page`."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(100)
            self.request.sendall(page)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[tuple[Place, FakeControl]]:
    """A system's tor with a control port that lets everybody in."""
    with answering(TOR_PAGE) as socks, FakeControl(tmp_path / "system") as control:
        control.answers["PROTOCOLINFO"] = OPEN
        listeners = f'250-net/listeners/socks="unix:/run/x" "{socks}"\r\n{OK}'
        control.answers["GETINFO net/listeners/socks"] = listeners
        yield Place(socks, (control.address,)), control


def chosen(place: Place | None, tmp_path: Path, **settings: object) -> ForeignTor | None:
    """What a node that needs a key chooses."""
    places = (place,) if place else ()
    made = TorSettings.model_validate(settings)
    return choose(made, tmp_path / "tor", needs_key=True, places=places)


def test_a_tor_is_told_from_any_other_program() -> None:
    def asked(address: str) -> bool:
        return is_tor(SocksAddress.parse(address))

    with answering(TOR_PAGE) as tor, answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as other:
        assert asked(tor)
        assert not asked(other)
    with answering(b"\x05\x00") as proxy:
        assert not asked(proxy)
    assert not asked(f"127.0.0.1:{free_port()}")


def test_a_port_that_says_nothing_is_no_tor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "PROBE_S", 0.2)
    with silent_port() as address:
        assert not is_tor(SocksAddress.parse(address))


def test_the_first_place_with_a_tor_is_taken(system: tuple[Place, FakeControl]) -> None:
    nothing = Place(f"127.0.0.1:{free_port()}", system[0].controls)
    found = find((nothing, system[0]))
    assert found == ForeignTor(SocksAddress.parse(system[0].socks), system[1].address)
    assert find((nothing,)) is None


def test_the_control_port_of_another_tor_is_not_used(system: tuple[Place, FakeControl]) -> None:
    other = f'250-net/listeners/socks="127.0.0.1:9"\r\n{OK}'
    system[1].answers["GETINFO net/listeners/socks"] = other
    found = find((system[0],))
    assert found is not None
    assert found.control == ""


def test_auto_takes_a_system_tor_that_takes_our_key(
    system: tuple[Place, FakeControl], tmp_path: Path
) -> None:
    found = chosen(system[0], tmp_path)
    assert found is not None
    assert found.control == system[1].address


def test_auto_prefers_its_own_program_to_a_tor_that_takes_no_key(
    system: tuple[Place, FakeControl], tmp_path: Path
) -> None:
    closed = Place(system[0].socks)
    program = shutil.which("sh") or ""
    assert chosen(closed, tmp_path, program=program) is None
    without_key = choose(
        TorSettings(program=program), tmp_path / "tor", needs_key=False, places=(closed,)
    )
    assert without_key is not None


def test_auto_without_a_program_takes_the_system_tor_as_it_is(
    system: tuple[Place, FakeControl], tmp_path: Path
) -> None:
    found = chosen(Place(system[0].socks), tmp_path, program=NO_PROGRAM)
    assert found == ForeignTor(SocksAddress.parse(system[0].socks))


def test_auto_without_any_tor_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TorError, match=NO_PROGRAM):
        chosen(None, tmp_path, program=NO_PROGRAM)


@pytest.mark.parametrize(
    "ours_alone", [{"bridges": ("192.0.2.1:443",)}, {"torrc": "/somewhere/torrc"}]
)
def test_bridges_are_never_ignored_by_taking_a_system_tor(
    system: tuple[Place, FakeControl], tmp_path: Path, ours_alone: dict[str, object]
) -> None:
    assert chosen(system[0], tmp_path, **ours_alone) is None
    for mode in ({"mode": "system"}, {"mode": "address", "socks": system[0].socks}):
        with pytest.raises(ConfigError, match=r"tor\.bridges"):
            chosen(system[0], tmp_path, **mode, **ours_alone)


def test_auto_keeps_to_the_nodes_own_tor_while_that_runs(
    system: tuple[Place, FakeControl], tmp_path: Path
) -> None:
    with FakeControl(tmp_path / "tor"):
        assert chosen(system[0], tmp_path) is None


def test_own_does_not_look_for_a_system_tor(
    system: tuple[Place, FakeControl], tmp_path: Path
) -> None:
    assert chosen(system[0], tmp_path, mode="own") is None
    assert system[1].asked == []


def test_system_never_starts_a_program(system: tuple[Place, FakeControl], tmp_path: Path) -> None:
    assert chosen(Place(system[0].socks), tmp_path, mode="system") is not None
    nothing = Place(f"127.0.0.1:{free_port()}")
    with pytest.raises(TorError, match=nothing.socks) as missing:
        chosen(nothing, tmp_path, mode="system")
    assert missing.value.hint


def test_address_takes_what_is_named_and_nothing_else(
    system: tuple[Place, FakeControl], tmp_path: Path
) -> None:
    place, control = system
    assert chosen(None, tmp_path, mode="address", socks="unix:/run/tor/socks") == ForeignTor(
        SocksAddress(path="/run/tor/socks")
    )
    named = chosen(None, tmp_path, mode="address", socks=place.socks, control=control.address)
    assert named == ForeignTor(SocksAddress.parse(place.socks), control.address)
    with pytest.raises(ConfigError, match=r"tor\.socks"):
        chosen(place, tmp_path, mode="address")
    with pytest.raises(TorError, match="control port"):
        chosen(place, tmp_path, mode="address", socks=place.socks, control="127.0.0.1:9")


def test_a_key_is_lent_for_the_length_of_the_block(system: tuple[Place, FakeControl]) -> None:
    place, control = system
    tor = ForeignTor(SocksAddress.parse(place.socks), control.address)
    with LentKey(tor, HOST, new_client_key().private):
        assert verbs(control)[-1] == "ONION_CLIENT_AUTH_ADD"
        assert not any("Permanent" in line for line in control.asked)
    assert verbs(control)[-1] == "ONION_CLIENT_AUTH_REMOVE"


def test_a_key_that_was_there_before_stays(system: tuple[Place, FakeControl]) -> None:
    place, control = system
    control.answers["ONION_CLIENT_AUTH_VIEW"] = f"250-CLIENT {HOST[:56]} x25519:A=\r\n{OK}"
    with LentKey(ForeignTor(SocksAddress.parse(place.socks), control.address), HOST, "unused"):
        pass
    assert verbs(control)[-1] == "ONION_CLIENT_AUTH_VIEW"


def test_a_key_that_the_tor_has_lost_is_lent_again(system: tuple[Place, FakeControl]) -> None:
    place, control = system
    tor = ForeignTor(SocksAddress.parse(place.socks), control.address)
    with LentKey(tor, HOST, new_client_key().private) as lent:
        lent.renew(0xF0)
        lent.renew(None)
        assert verbs(control).count("ONION_CLIENT_AUTH_ADD") == 1
        lent.renew(0xF4)
        lent.renew(0x01)  # too soon after the last time
        await_condition(lambda: verbs(control).count("ONION_CLIENT_AUTH_ADD") == 2)
    assert verbs(control).count("ONION_CLIENT_AUTH_ADD") == 2


def test_a_tor_that_has_ended_is_no_error_when_the_key_is_taken_back(
    tmp_path: Path,
) -> None:
    with FakeControl(tmp_path, {"PROTOCOLINFO": OPEN}) as control:
        lent = LentKey(ForeignTor(SocksAddress("127.0.0.1", 9), control.address), HOST, key())
        lent.__enter__()
    lent.__exit__()


def key() -> str:
    """A private key."""
    return new_client_key().private


def verbs(control: FakeControl) -> list[str]:
    """The commands it was asked, without their arguments."""
    return [line.split()[0] for line in control.asked]


def await_condition(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 30.0
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
