"""Which addresses a feed may be fetched from: public ones on the web's ports, and no others.

A feed's address is the owner's, but a redirect is whoever's, and a name may lead into the house:
to the router, to another program of this machine, to a cloud's metadata. So a name is resolved
once, each of its addresses is judged, and the very address that was judged is connected to.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from federation.errors import NetworkError
from federation.language import _
from federation.tor.keys import is_onion

PORTS = {"http": 80, "https": 443}
LOCAL_ENDINGS = ("local", "localhost", "internal", "intranet", "lan", "home", "arpa", "test")
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class RefusedError(NetworkError):
    """An address that no feed is fetched from."""


@dataclass(frozen=True)
class Place:
    """Where a request goes.

    Attributes:
        scheme: http or https.
        host: as the URL has it, lower case; for Host and for the certificate.
        port: of the host.
    """

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """For the Host header."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return shown if PORTS[self.scheme] == self.port else f"{shown}:{self.port}"


@dataclass(frozen=True)
class DirectRoute:
    """Straight to a public address.

    Attributes:
        allow_loopback: for tests: this machine too, on any port.
        resolve: host, port -> addresses.
    """

    allow_loopback: bool = False
    resolve: Resolve | None = None
    is_tor: bool = False

    @asynccontextmanager
    async def open(self, place: Place) -> AsyncIterator[tuple[str, int]]:
        """The address and port to connect to for the length of the block.

        Raises:
            RefusedError: the place is not public.
            NetworkError: the name cannot be resolved.
        """
        if is_onion(place.host):
            raise RefusedError(_("an onion address is reached through Tor alone (use_tor)"))
        addresses = await (self.resolve or resolve)(place.host, place.port)
        is_near = self.allow_loopback and all(map(is_loopback, addresses))
        if not is_near:
            require_web_port(place)
            for address in addresses:
                if not is_public(address):
                    raise RefusedError(_("{host} is no public address").format(host=place.host))
        yield addresses[0], place.port


def place_of(url: str) -> Place:
    """Scheme, host and port of a URL.

    Raises:
        RefusedError: not http or https, without a host, or with a user name.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as err:
        raise RefusedError(_("this is no address")) from err
    if parts.scheme not in PORTS or not host or parts.username is not None:
        raise RefusedError(_("only http and https addresses are fetched"))
    try:
        host = host if ":" in host else host.encode("idna").decode("ascii")
    except UnicodeError as err:
        raise RefusedError(_("this is no address")) from err
    return Place(parts.scheme, host.lower(), port or PORTS[parts.scheme])


def require_web_port(place: Place) -> None:
    """Refuse ports that are not the web's."""
    if place.port not in PORTS.values():
        raise RefusedError(_("port {port} is not one of the web's").format(port=place.port))


def require_public_name(host: str) -> None:
    """Judge a name that is not resolved here, because a proxy will: no address, nothing local.

    Raises:
        RefusedError: it may be this machine or its network.
    """
    if is_onion(host):
        return
    parts = host.split(".")
    is_number = ":" in host or parts[-1].isdecimal() or parts[-1].startswith("0x")
    if is_number or len(parts) < 2 or parts[-1] in LOCAL_ENDINGS:
        raise RefusedError(_("{host} is no public name").format(host=host))


def is_public(address: str) -> bool:
    """Whether an address is on the internet, whatever it is wrapped in."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or _nat64(parsed)
        if parsed.teredo is not None or (inner is not None and not is_public(str(inner))):
            return False
        if parsed.ipv4_mapped is not None:
            return is_public(str(parsed.ipv4_mapped))
    return parsed.is_global and not parsed.is_multicast


def is_loopback(address: str) -> bool:
    """Whether an address is this machine."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


async def resolve(host: str, port: int) -> list[str]:
    """Ask the system, once.

    Raises:
        NetworkError: there is no such name, or nobody to ask.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as err:
        raise NetworkError(_("the name {host} is not known").format(host=host)) from err
    addresses = dict.fromkeys(str(each[4][0]) for each in found)
    return sorted(addresses, key=lambda address: ":" in address)  # IPv4 first: it always works


def _nat64(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address in ipaddress.IPv6Network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
