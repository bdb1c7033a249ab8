"""The torrc of a client and of a service, as text; bridge lines are checked before tor sees them.

tor drops a bridge line that it cannot parse with no more than a line in its log, so whatever is
wrong with one is an error here. Paths and bridge lines are written quoted: nothing in them can
start a comment or another option.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from federation.errors import ConfigError
from federation.language import _
from federation.tor.settings import TorSettings

LOOPBACK = "127.0.0.1"
KNOWN_TRANSPORTS = ("obfs4", "snowflake", "webtunnel", "meek_lite")
LINKS = "transports"  # a program whose path holds a space, which tor cannot run, is linked here
_TRANSPORT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{40}")
_ARGUMENT = re.compile(r"[A-Za-z0-9_-]+=\S+")
_PLAIN_PATH = re.compile(r"[^\s#]+")
_OBFS4 = {"cert": re.compile(r"[A-Za-z0-9+/]{70}"), "iat-mode": re.compile(r"[012]")}


@dataclass(frozen=True)
class Service:
    """One onion service.

    Attributes:
        folder: its HiddenServiceDir: key, host name, `authorized_clients/`.
        target: "127.0.0.1:port" that its visitors reach.
        port: the one that visitors name.
    """

    folder: Path
    target: str
    port: int = 443


def client_torrc(folder: Path, settings: TorSettings) -> str:
    """Return the torrc of a volunteer's tor that lives in `folder` (absolute).

    Raises:
        ConfigError: a bridge line, a transport or the file of further lines is wrong.
    """
    lines = [*_common(folder), f"ClientOnionAuthDir {quoted(folder / 'auth')}"]
    return _text([*lines, *_reach(settings)])


def service_torrc(
    folder: Path, settings: TorSettings, services: Sequence[Service], *, has_pow: bool = True
) -> str:
    """Return the torrc of a server's tor that lives in `folder` (absolute).

    Args:
        folder: where tor keeps its data.
        settings: of the server.
        services: the onion services it publishes.
        has_pow: whether this tor was built with proof of work; one that was not refuses the line.

    Raises:
        ConfigError: as `client_torrc`.
    """
    lines = _common(folder)
    for service in services:
        lines += [
            f"HiddenServiceDir {quoted(service.folder)}",
            f"HiddenServicePort {service.port} {service.target}",
            "HiddenServiceEnableIntroDoSDefense 1",
        ]
        if has_pow:
            lines.append("HiddenServicePoWDefensesEnabled 1")
    return _text([*lines, *_reach(settings)])


def check_bridge(line: str, transports: Mapping[str, str]) -> str:
    """Check a bridge line, with or without a leading "Bridge", and return it without.

    Args:
        line: "IP:port [fingerprint]" or "transport IP:port [fingerprint] [key=value …]".
        transports: name -> path of the program of a pluggable transport.

    Raises:
        ConfigError: names the line and what is wrong with it.
    """
    text = line.strip()
    words = text.split()
    if words and words[0].lower() == "bridge":
        del words[0]
    wrong = _wrong_in(text, words) or _wrong_transport(words, transports)
    if wrong:
        raise ConfigError(
            _("This bridge line cannot be used: {line}\n{wrong}").format(line=text, wrong=wrong),
            hint=_("Copy the whole line again, as the bridge page or the mail shows it."),
        )
    return " ".join(words)


def quoted(value: Path | str) -> str:
    """Quote a value for a torrc."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def needs_link(program: str) -> bool:
    """Whether a transport's program can only be run through a link in `LINKS`."""
    return not _PLAIN_PATH.fullmatch(program)


def used_transports(settings: TorSettings) -> dict[str, str]:
    """Return name -> program of the transports that the bridges need.

    Raises:
        ConfigError: as `check_bridge`.
    """
    bridges = [check_bridge(line, settings.transports) for line in settings.bridges]
    names = sorted({_transport_of(bridge) for bridge in bridges} - {""})
    return {name: settings.transports[name] for name in names}


def _common(folder: Path) -> list[str]:
    return [
        f"DataDirectory {quoted(folder / 'data')}",
        f"SocksPort {LOOPBACK}:auto ExtendedErrors",
        f"ControlPort {LOOPBACK}:auto",
        f"ControlPortWriteToFile {quoted(folder / 'control_port')}",
        "CookieAuthentication 1",
        f"CookieAuthFile {quoted(folder / 'control_auth_cookie')}",
        "ClientOnly 1",
        "DormantCanceledByStartup 1",  # else one that fell asleep never reaches 100 %
        "SafeLogging 1",
        "Log notice stdout",
    ]


def _reach(settings: TorSettings) -> Iterator[str]:
    """How tor gets out, and the owner's own lines, which come last and win."""
    if settings.bridges:
        yield "UseBridges 1"
    for line in settings.bridges:
        yield f"Bridge {quoted(check_bridge(line, settings.transports))}"
    for name, program in used_transports(settings).items():
        # not quoted: tor splits this line at spaces, whatever stands around them
        path = f"{LINKS}/{name}" if needs_link(program) else program
        yield f"ClientTransportPlugin {name} exec {path}"
    if settings.torrc:
        if not Path(settings.torrc).is_absolute():
            raise ConfigError(
                _("The file of further torrc lines, '{path}', needs its whole path.").format(
                    path=settings.torrc
                )
            )
        yield f"%include {quoted(settings.torrc)}"


def _text(lines: Sequence[str]) -> str:
    return "\n".join(["# Written anew at every start.", *lines]) + "\n"


def _wrong_in(text: str, words: Sequence[str]) -> str:
    """What is wrong with the form of a bridge line, "" if nothing."""
    if not words:
        return _("It is empty.")
    if not (text.isascii() and text.isprintable()):
        return _("It holds a line break or a character that no bridge line has.")
    name = _transport_of(words[0])
    address, *rest = words[1:] or [""] if name else words
    if not _is_address(address):
        return _("'{word}' is not an IP address with a port.").format(word=address)
    if rest and "=" not in rest[0]:
        if not _FINGERPRINT.fullmatch(rest[0]):
            return _("'{word}' is not a fingerprint of 40 hexadecimal digits.").format(word=rest[0])
        del rest[0]
    for word in rest:
        if not name or not _ARGUMENT.fullmatch(word):
            return _("'{word}' does not belong there.").format(word=word)
    return _wrong_obfs4(rest) if name == "obfs4" else ""


def _wrong_obfs4(arguments: Sequence[str]) -> str:
    given = dict(word.split("=", 1) for word in arguments)
    for key, form in _OBFS4.items():
        if not form.fullmatch(given.get(key, "")):
            return _("Its '{key}=' is missing or cut short.").format(key=key)
    return ""


def _transport_of(bridge: str) -> str:
    """The transport that a line names, "" for none."""
    first = bridge.split()[0]
    return first if _TRANSPORT.fullmatch(first) else ""


def _wrong_transport(words: Sequence[str], transports: Mapping[str, str]) -> str:
    name = _transport_of(words[0])
    if not name or name in transports:
        if name and not Path(transports[name]).is_absolute():
            return _("The program of '{name}' needs its whole path.").format(name=name)
        return ""
    near = difflib.get_close_matches(name, KNOWN_TRANSPORTS, n=1)
    if near and near[0] != name:
        return _("There is no transport '{name}'; did you mean '{near}'?").format(
            name=name, near=near[0]
        )
    return _(
        "It needs the transport '{name}': install its program and put its path into the "
        "settings, under tor.transports."
    ).format(name=name)


def _is_address(word: str) -> bool:
    host, _colon, port = word.rpartition(":")
    try:
        if host.startswith("[") and host.endswith("]"):
            ipaddress.IPv6Address(host[1:-1])
        else:
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return port.isdecimal() and 0 < int(port) < 65536
