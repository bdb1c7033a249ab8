"""The SOCKS client: tor's codes become sentences, whatever listens there."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from federation.errors import TorError
from federation.language import CHOICE
from federation.tor.socks import LEGS, SocksAddress, SocksError, dial, failure
from tests.fake_socks import GRANTED, FakeSocks, refused

ONION = "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid.onion"
# code -> the leg that failed, and words of the sentence in English and in Spanish
EXTENDED = {
    0x01: ("gateway", "program does not answer", "programa del servidor no responde"),
    0x02: ("socks", "own rules", "propias reglas"),
    0x03: ("bootstrap", "no connection to its network", "no tiene conexión con su red"),
    0x04: ("descriptor", "not online", "no está en línea"),
    0x05: ("gateway", "does not offer", "no ofrece"),
    0x06: ("descriptor", "could not reach", "no pudo llegar"),
    0x07: ("socks", "not known here: 07", "no se conoce aquí: 07"),
    0xF0: ("descriptor", "not online", "no está en línea"),
    0xF1: ("descriptor", "damaged", "dañada"),
    0xF2: ("descriptor", "went offline a moment ago", "hace un momento"),
    0xF3: ("descriptor", "slow or the server is overloaded", "lenta o el servidor"),
    0xF4: ("key", "is not loaded", "no está cargada"),
    0xF5: ("key", "does not accept your invitation", "ya no acepta tu invitación"),
    0xF6: ("descriptor", "address is not valid", "no es válida"),
    0xF7: ("descriptor", "slow or the server is overloaded", "lenta o el servidor"),
}
PLAIN = {
    0x01: ("key", "or Tor lacks a valid invitation key", "o a Tor le falta"),
    0x04: ("descriptor", "or the Tor network is slow", "o la red Tor va lenta"),
}


def reach(
    address: str, *, is_extended: bool = True, purpose: str = "", timeout_s: float = 5
) -> bytes:
    """Dial the onion and read until the end, as the only thing an event loop does."""

    async def main() -> bytes:
        socks = SocksAddress.parse(address, is_extended=is_extended)
        reader, writer = await dial(socks, ONION, 443, purpose=purpose, timeout_s=timeout_s)
        received = await reader.read()
        writer.close()
        await writer.wait_closed()
        return received

    return asyncio.run(main())


def refusal(address: str, *, is_extended: bool = True, timeout_s: float = 5) -> SocksError:
    """How dialling fails; nothing may be left open."""
    with pytest.raises(SocksError) as caught:
        reach(address, is_extended=is_extended, timeout_s=timeout_s)
    gc.collect()  # an unclosed socket is a warning, and warnings are errors
    assert caught.value.leg in LEGS
    assert ONION[:16] not in f"{caught.value.message} {caught.value.hint}"
    return caught.value


@pytest.mark.parametrize("code", EXTENDED)
def test_each_code_of_an_extended_port_has_its_leg_and_sentence(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    leg, english, spanish = EXTENDED[code]
    with FakeSocks(refused(code)) as socks:
        error = refusal(socks.address)
        assert (error.code, error.leg) == (code, leg)
        assert english in error.message
        monkeypatch.setenv(CHOICE, "es")
        assert spanish in refusal(socks.address).message


@pytest.mark.parametrize("code", PLAIN)
def test_a_plain_code_of_a_foreign_tor_names_both_causes(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    leg, english, spanish = PLAIN[code]
    error = failure(code)
    assert (error.leg, error.extended, error.is_final) == (leg, False, False)
    assert english in error.message
    monkeypatch.setenv(CHOICE, "es")
    assert spanish in failure(code).message


def test_an_extended_code_is_taken_as_such_from_any_port() -> None:
    with FakeSocks(refused(0xF5)) as socks:
        error = refusal(socks.address, is_extended=False)
    assert error.extended
    assert error.leg == "key"


@pytest.mark.parametrize("code", EXTENDED)
def test_only_a_key_or_an_address_that_is_wrong_makes_trying_again_vain(code: int) -> None:
    assert failure(code).is_final is (code in {0xF4, 0xF5, 0xF6})


def test_no_tor_is_said_with_the_address_that_was_tried() -> None:
    with FakeSocks() as socks:
        address = socks.address
    error = refusal(address)
    assert (error.code, error.leg, error.exit_code) == (None, "tor", TorError.exit_code)
    assert address in error.message


def test_a_missing_unix_socket_is_no_tor(tmp_path: Path) -> None:
    assert refusal(f"unix:{tmp_path}/none").leg == "tor"


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x05", b"\x05\xff", b"\x04\x00"]
)
def test_another_program_on_the_port_is_not_taken_for_tor(greeting: bytes) -> None:
    with FakeSocks(greeting=greeting) as socks:
        error = refusal(socks.address)
    assert (error.code, error.leg) == (None, "socks")
    assert socks.address in error.message


@pytest.mark.parametrize("reply", [b"", b"\x05", b"\x05\x00\x00\x01\x7f", refused(0)[:9]])
def test_an_answer_that_breaks_off_is_a_closed_connection(reply: bytes) -> None:
    with FakeSocks(reply) as socks:
        error = refusal(socks.address)
    assert (error.code, error.leg) == (None, "socks")
    assert "closed" in error.message


def test_silence_ends_after_the_time_given() -> None:
    with FakeSocks(None) as socks:
        error = refusal(socks.address, timeout_s=0.2)
    assert (error.code, error.leg, error.is_final) == (None, "descriptor", False)
    assert "No answer" in error.message


@pytest.mark.parametrize(
    "granted", [GRANTED, b"\x05\x00\x00\x04" + bytes(18), b"\x05\x00\x00\x03\x04name\x00\x50"]
)
def test_what_follows_the_answer_belongs_to_the_caller(granted: bytes) -> None:
    with FakeSocks(granted + b"first bytes") as socks:
        assert reach(socks.address) == b"first bytes"


def test_tor_is_told_the_name_and_the_purpose() -> None:
    with FakeSocks() as socks:
        reach(socks.address, purpose="bench")
        reach(socks.address)
    named, plain = socks.asked
    assert (named.host, named.port, named.user, named.methods) == (ONION, 443, "bench", b"\x02")
    assert (plain.host, plain.user, plain.methods) == (ONION, "", b"\x00")


def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    with FakeSocks(GRANTED + b"x", path=str(tmp_path / "s")) as socks:
        assert reach(socks.address) == b"x"


@pytest.mark.parametrize(
    "text", ["127.0.0.1:9050", "[::1]:9150", "unix:/run/tor/socks", "localhost:1"]
)
def test_an_address_is_written_as_it_was_read(text: str) -> None:
    assert str(SocksAddress.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "9050", "127.0.0.1", "127.0.0.1:", "h:0", "h:65536", "unix:rel"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="SOCKS address"):
        SocksAddress.parse(text)
