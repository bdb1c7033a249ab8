"""The way to a server: what goes through Tor, and that nothing else is taken instead."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from federation.errors import ConfigError, TorError
from federation.processes import free_port
from federation.tor import way as way_module
from federation.tor.control import PORT_FILE
from federation.tor.foreign import Place
from federation.tor.keys import client_line, new_client_key
from federation.tor.settings import TorSettings
from federation.tor.way import Means, goes_through_tor, open_tor, open_way, split_address
from tests.fake_socks import FakeSocks, refused

ONION = "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid.onion"  # of Tor's specification


def means(tmp_path: Path, **settings: object) -> Means:
    """Of a node on whose machine no system tor is looked for."""
    nowhere = (Place(f"127.0.0.1:{free_port()}"),)
    return Means(TorSettings.model_validate(settings), tmp_path / "tor", places=nowhere)


def named(tmp_path: Path, port: int, client_key: str = "") -> Means:
    """Of a node that was told where a tor is."""
    settings = TorSettings(mode="address", socks=f"127.0.0.1:{port}")
    return Means(settings, tmp_path / "tor", client_key)


def test_an_onion_goes_through_tor_and_is_refused_where_tor_is_forbidden() -> None:
    assert goes_through_tor(ONION, use_tor=None)
    assert goes_through_tor(ONION.upper(), use_tor=True)
    with pytest.raises(ConfigError, match="use_tor: false") as forbidden:
        goes_through_tor(ONION, use_tor=False)
    assert ONION[:10] not in str(forbidden.value)


def test_an_onion_that_cannot_be_is_refused_without_repeating_it() -> None:
    wrong = "3" + ONION[1:]
    with pytest.raises(ConfigError, match="checksum") as invalid:
        goes_through_tor(wrong, use_tor=None)
    assert wrong[:10] not in invalid.value.message


def test_another_server_goes_straight_unless_it_is_to_go_through_tor() -> None:
    assert not goes_through_tor("server.example", use_tor=None)
    assert not goes_through_tor("127.0.0.1", use_tor=False)
    assert goes_through_tor("server.example", use_tor=True)
    assert goes_through_tor("9.9.9.9", use_tor=True)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST.", "::1", "192.168.1.5", "printer.local"]
)
def test_what_tor_cannot_reach_is_refused_at_once(host: str) -> None:
    with pytest.raises(ConfigError, match="Tor cannot reach"):
        goes_through_tor(host, use_tor=True)


@pytest.mark.parametrize("address", ["", "host", "host:", ":443", "host:0", "host:65536", "host:x"])
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        split_address(address)


def test_an_address_is_split_at_its_port() -> None:
    assert split_address("host:443") == ("host", 443)
    assert split_address("[2001:db8::1]:443") == ("2001:db8::1", 443)


def test_a_straight_way_is_the_address_itself(tmp_path: Path) -> None:
    said: list[str] = []
    address = "127.0.0.1:9443"
    with open_way(address, means(tmp_path), use_tor=None, purpose="join", say=said.append) as way:
        assert (way.dial, way.is_tor, way.forwarder) == (address, False, None)
    assert said == []


def test_a_name_is_looked_up_by_tor_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    real = socket.getaddrinfo

    def watched(host: object, *rest: object, **more: object) -> object:
        asked.append(host)
        return real(host, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    with (
        FakeSocks() as tor,
        open_way(
            "server.example:8443", named(tmp_path, tor.port), use_tor=True, purpose="p", say=print
        ) as way,
    ):
        visit(way.dial)
        assert way.is_tor
    assert (tor.asked[0].host, tor.asked[0].port) == ("server.example", 8443)
    assert tor.asked[0].user == "p"
    assert "server.example" not in asked


def test_a_foreign_tor_without_control_port_is_used_with_a_sentence_on_the_key(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    private = new_client_key().private
    with (
        FakeSocks() as tor,
        open_way(
            f"{ONION}:443",
            named(tmp_path, tor.port, private),
            use_tor=None,
            purpose="p",
            say=said.append,
        ) as way,
    ):
        visit(way.dial)
    path = tmp_path / "tor" / "auth" / "server.auth_private"
    assert path.read_text(encoding="utf-8") == client_line(ONION, private) + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(path) in said[0]
    assert "ClientOnionAuthDir" in said[0]
    assert private not in said[0]
    assert ONION[:10] not in said[0]


def test_the_last_failure_of_a_way_can_be_asked_for(tmp_path: Path) -> None:
    with (
        FakeSocks(reply=refused(0xF4)) as tor,
        open_way(
            f"{ONION}:443", named(tmp_path, tor.port), use_tor=None, purpose="p", say=print
        ) as way,
    ):
        visit(way.dial)
        assert way.forwarder is not None
        assert way.forwarder.last is not None
        assert way.forwarder.last.code == 0xF4


def test_without_a_tor_there_is_no_way(tmp_path: Path) -> None:
    for host, use_tor in ((ONION, None), ("server.example", True)):
        with (
            pytest.raises(TorError, match="nowhere"),
            open_way(
                f"{host}:443",
                means(tmp_path, program="/nowhere/tor"),
                use_tor=use_tor,
                purpose="p",
                say=print,
            ),
        ):
            pytest.fail("another way was taken")


def test_a_tor_of_ours_is_given_to_the_supervisor_with_the_key_in_place(tmp_path: Path) -> None:
    private = new_client_key().private
    program = tmp_path / "tor program"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o700)
    ours = Means(TorSettings(mode="own", program=str(program)), tmp_path / "tor", private)
    with open_tor(ONION, ours, print, is_supervised=True) as tor:
        assert tor.child is not None
        assert tor.child.argv[0] == str(program)
        assert not any(ONION[:56] in word or private in word for word in tor.child.argv)
        key = ours.folder / "auth" / "server.auth_private"
        assert key.read_text(encoding="utf-8") == client_line(ONION, private) + "\n"
        with pytest.raises(TorError, match="not running"):
            tor.socks()
    assert not (ours.folder / PORT_FILE).exists()


def test_no_key_is_shown_by_what_holds_it(tmp_path: Path) -> None:
    private = new_client_key().private
    assert private not in repr(Means(TorSettings(), tmp_path, private))


def test_the_places_of_a_system_tor_are_those_of_the_settings() -> None:
    assert [place.socks for place in way_module.SYSTEM] == ["127.0.0.1:9050", "127.0.0.1:9150"]


def visit(dial: str) -> None:
    """Connect, and wait until the other side ends it."""
    host, port = split_address(dial)
    with socket.create_connection((host, port), timeout=30.0) as near:
        try:
            near.recv(1)
        except ConnectionResetError:
            return
