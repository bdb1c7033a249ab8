"""A SOCKS5 client that understands tor's own replies and says in a sentence what they mean."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass
from typing import NamedTuple, Self

from federation.errors import TorError
from federation.language import _

LEGS = ("tor", "socks", "bootstrap", "descriptor", "key", "tls", "gateway", "node", "clock")
FINAL = (0xF4, 0xF5, 0xF6)  # no further try can end otherwise
GREETING_S = 10.0  # tor answers this at once, whatever the network does
LIMIT_BYTES = 32 * 1024
_UNIX = "unix:"


@dataclass(frozen=True)
class SocksAddress:
    """Where a tor's SOCKS port listens.

    Attributes:
        path: of a unix socket; host and port count only without it.
        is_extended: it is known to have ExtendedErrors, so a plain code means one thing only.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    is_extended: bool = False

    @classmethod
    def parse(cls, text: str, *, is_extended: bool = False) -> Self:
        """Read "127.0.0.1:9050", "[::1]:9050" or "unix:/path".

        Raises:
            ValueError: neither.
        """
        if text.startswith(_UNIX + "/"):
            return cls(path=text.removeprefix(_UNIX), is_extended=is_extended)
        host, _colon, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"not a SOCKS address: {text!r}")
        return cls(host.strip("[]"), int(port), is_extended=is_extended)

    def __str__(self) -> str:
        if self.path:
            return _UNIX + self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class SocksError(TorError):
    """A connection through tor that did not come about.

    Attributes:
        code: of tor's reply; None if it gave none: nothing listens, closed, silence.
        leg: the part of the way that failed, one of `LEGS`.
    """

    def __init__(self, reason: Reason, code: int | None = None, *, extended: bool = False) -> None:
        super().__init__(reason.sentence, hint=reason.hint)
        self.code = code
        self.extended = extended
        self.leg = reason.leg

    @property
    def is_final(self) -> bool:
        """Whether trying again is in vain."""
        return self.code in FINAL


class Reason(NamedTuple):
    """Why it failed, for a person; no sentence holds the server's address."""

    leg: str
    sentence: str
    hint: str


async def dial(
    socks: SocksAddress, host: str, port: int, *, purpose: str = "", timeout_s: float = 25.0
) -> tuple[StreamReader, StreamWriter]:
    """Connect to `host:port` through tor, which alone looks the name up.

    Args:
        socks: tor's SOCKS port.
        host: an onion, or a name for an exit to resolve.
        port: of that host.
        purpose: what it is for; tor keeps different purposes on different circuits.
        timeout_s: how long tor may take once it has been asked.

    Raises:
        SocksError: it could not be reached.
    """
    reader, writer = await _open(socks)
    try:
        await _greet(reader, writer, purpose, socks)
        await _ask(reader, writer, (host, port), timeout_s, socks)
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer


def failure(code: int | None, *, extended: bool = False, address: str = "") -> SocksError:
    """The error for a code of tor's reply.

    Args:
        code: None if nothing listens at `address`.
        extended: the port has ExtendedErrors.
        address: the SOCKS port's, for people.
    """
    if code is None:
        return SocksError(_nothing_listens(address))
    extended = extended or code >= 0xF0
    reason = _reasons(extended=extended).get(code)
    return SocksError(reason or _unknown(code), code, extended=extended)


async def _open(socks: SocksAddress) -> tuple[StreamReader, StreamWriter]:
    try:
        if socks.path:
            return await asyncio.open_unix_connection(socks.path, limit=LIMIT_BYTES)
        return await asyncio.open_connection(socks.host, socks.port, limit=LIMIT_BYTES)
    except (ConnectionRefusedError, FileNotFoundError) as err:
        raise failure(None, address=str(socks)) from err
    except OSError as err:
        raise SocksError(_not_reached(str(socks), err)) from err


async def _greet(
    reader: StreamReader, writer: StreamWriter, purpose: str, socks: SocksAddress
) -> None:
    name = purpose.encode()  # tor checks no names; it isolates the circuits of different ones
    try:
        async with asyncio.timeout(GREETING_S):
            writer.write(b"\x05\x01\x02" if name else b"\x05\x01\x00")
            is_tor = await reader.readexactly(2) == (b"\x05\x02" if name else b"\x05\x00")
            if is_tor and name:
                writer.write(bytes([1, len(name)]) + name + b"\x01-")
                is_tor = await reader.readexactly(2) == b"\x01\x00"
    except (OSError, EOFError) as err:
        raise SocksError(_no_socks(str(socks))) from err
    if not is_tor:
        raise SocksError(_no_socks(str(socks)))


async def _ask(
    reader: StreamReader,
    writer: StreamWriter,
    target: tuple[str, int],
    timeout_s: float,
    socks: SocksAddress,
) -> None:
    host, port = target[0].encode("ascii"), target[1].to_bytes(2, "big")
    try:
        async with asyncio.timeout(timeout_s):
            writer.write(bytes([5, 1, 0, 3, len(host)]) + host + port)
            _version, code, _reserved, kind = await reader.readexactly(4)
            if code == 0:  # the address that follows says nothing
                length = (await reader.readexactly(1))[0] if kind == 3 else 16 if kind == 4 else 4
                await reader.readexactly(length + 2)
    except TimeoutError as err:
        raise SocksError(_silence(timeout_s)) from err
    except (OSError, EOFError) as err:
        raise SocksError(_closed()) from err
    if code:
        raise failure(code, extended=socks.is_extended)


def _reasons(*, extended: bool) -> dict[int, Reason]:
    later = _("Try again in a few minutes; if it stays so, tell the operator.")
    slow = _("The Tor network is slow or the server is overloaded.")
    offline = _("The server is not online at this address.")
    known = {
        0x01: Reason("gateway", _("Tor works, but the server's program does not answer."), later),
        0x02: Reason("socks", _("This Tor refuses the connection by its own rules."), ""),
        0x03: Reason("bootstrap", _("Tor has no connection to its network."), later),
        0x04: Reason("descriptor", offline, later),
        0x05: Reason("gateway", _("The server does not offer this service at the moment."), later),
        0x06: Reason("descriptor", _("Tor could not reach this address."), later),
        0xF0: Reason("descriptor", offline, later),
        0xF1: Reason(
            "descriptor",
            _("Tor got a damaged answer about the server."),
            _("Try again; if it stays so, update Tor and check this machine's clock."),
        ),
        0xF2: Reason("descriptor", _("The server went offline a moment ago."), later),
        0xF3: Reason("descriptor", slow, later),
        0xF4: Reason(
            "key", _("Your invitation key is not loaded."), _("Import the invitation again.")
        ),
        0xF5: Reason(
            "key",
            _("The server does not accept your invitation any more."),
            _("Ask the operator for a new one."),
        ),
        0xF6: Reason(
            "descriptor",
            _("The server's address is not valid."),
            _("Look for a missing or mistyped character."),
        ),
        0xF7: Reason("descriptor", slow, later),
    }
    return known if extended else known | _plain(later)


def _plain(later: str) -> dict[int, Reason]:
    """What a port without ExtendedErrors may mean by its two codes for an onion."""
    return {
        0x01: Reason(
            "key",
            _("The server's program does not answer, or Tor lacks a valid invitation key for it."),
            _("Check that this Tor has the key of your invitation, or use a Tor of our own."),
        ),
        0x04: Reason(
            "descriptor",
            _("The server is not online at this address, or the Tor network is slow."),
            later,
        ),
    }


def _nothing_listens(address: str) -> Reason:
    sentence = _("Tor is not running at {address}.").format(address=address)
    return Reason("tor", sentence, _("Start it, or set another SOCKS address."))


def _not_reached(address: str, err: OSError) -> Reason:
    sentence = _("Tor at {address} cannot be reached ({why}).").format(
        address=address, why=err.strerror or type(err).__name__
    )
    return Reason("tor", sentence, _("Start it, or set another SOCKS address."))


def _no_socks(address: str) -> Reason:
    sentence = _("What listens at {address} does not answer as Tor does.").format(address=address)
    return Reason("socks", sentence, _("Set the address of Tor's SOCKS port."))


def _closed() -> Reason:
    sentence = _("Tor closed the connection without an answer.")
    return Reason("socks", sentence, _("It may be starting again: try again in a moment."))


def _silence(seconds: float) -> Reason:
    sentence = _("No answer from the server for {seconds:.0f} s.").format(seconds=seconds)
    return Reason("descriptor", sentence, _("The network may be slow: try again in a moment."))


def _unknown(code: int) -> Reason:
    sentence = _("Tor gave an answer that is not known here: {code:02X}.").format(code=code)
    return Reason("socks", sentence, _("Update Tor and this program."))
