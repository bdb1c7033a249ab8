"""The way to a server: straight, or through Tor and nothing else. It fails closed.

What goes through Tor is dialled at a forwarder on this machine; the server's name is looked up by
tor alone. Where tor cannot be had there is no way, and never another one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from federation.errors import ConfigError
from federation.language import _
from federation.processes import Child
from federation.tor.bootstrap import Bootstrap
from federation.tor.foreign import SYSTEM, ForeignTor, LentKey, Place, choose
from federation.tor.forwarder import Attempt, Forwarder
from federation.tor.keys import check_onion, is_onion
from federation.tor.process import (
    OwnSocks,
    OwnTor,
    client_child,
    held,
    write_client_key,
)
from federation.tor.settings import TorSettings
from federation.tor.socks import SocksAddress

Say = Callable[[str], None]


@dataclass(frozen=True)
class Means:
    """What a node has for its way.

    Attributes:
        folder: absolute; its own tor lives there.
        client_key: its private key to the server's onion, "" for none.
        places: where a system's tor is looked for.
    """

    settings: TorSettings
    folder: Path
    client_key: str = field(default="", repr=False)
    places: tuple[Place, ...] = SYSTEM


@dataclass(frozen=True)
class Way:
    """A way that is open.

    Attributes:
        dial: "host:port" to connect to: the forwarder's, or the server's itself.
        socks: tells where tor's SOCKS port is; None without Tor.
    """

    dial: str
    is_tor: bool = False
    socks: Callable[[], SocksAddress] | None = None
    forwarder: Forwarder | None = None


@dataclass(frozen=True)
class Tor:
    """A tor that is there for the length of a block.

    Attributes:
        socks: tells where its SOCKS port is.
        child: ours, to be run by a supervisor before anything that needs it; None if it runs.
        on_attempt: to be told of every dial.
    """

    socks: Callable[[], SocksAddress]
    child: Child | None = None
    on_attempt: Callable[[Attempt], None] | None = None

    def forwarder(self, host: str, port: int, purpose: str) -> Forwarder:
        """A way through it for one purpose."""
        return Forwarder(self.socks, host, port, purpose=purpose, on_attempt=self.on_attempt)


@contextmanager
def open_way(
    address: str, means: Means, *, use_tor: bool | None, purpose: str, say: Say
) -> Iterator[Way]:
    """The way to a server for the length of the block.

    Args:
        address: "host:port".
        means: what the node has.
        use_tor: True: through Tor whatever the host; False: an onion is refused; None: an onion
            through Tor.
        purpose: what for; other purposes use other circuits.
        say: told how far tor has come.

    Raises:
        ConfigError: `use_tor` and the address do not go together, or the address cannot be.
        TorError: Tor is needed and cannot be had.
    """
    host, port = split_address(address)
    if not goes_through_tor(host, use_tor=use_tor):
        yield Way(address)
        return
    with open_tor(host, means, say) as tor, tor.forwarder(host, port, purpose) as forwarder:
        yield Way(forwarder.address, True, tor.socks, forwarder)


@contextmanager
def open_tor(host: str, means: Means, say: Say, *, is_supervised: bool = False) -> Iterator[Tor]:
    """A tor that can reach `host`, for the length of the block.

    Args:
        host: the server's; an onion needs our client key.
        means: what the node has.
        say: told how far tor has come.
        is_supervised: whether the caller runs a tor of our own as a child, with its others.

    Raises:
        ConfigError: the settings cannot be.
        TorError: Tor cannot be had.
        ConscienceError: another command holds this folder's tor.
    """

    def progress(seen: Bootstrap) -> None:
        say(_("Tor is starting: {step}").format(step=seen))

    keys = {host: means.client_key} if means.client_key and is_onion(host) else {}
    foreign = choose(means.settings, means.folder, needs_key=bool(keys), places=means.places)
    if foreign is not None:
        with _lent(foreign, means, keys, say) as tor:
            yield tor
    elif is_supervised:
        with held(means.folder):
            child = client_child(means.folder, means.settings, keys, progress)
            yield Tor(OwnSocks(means.folder), child)
    else:
        with OwnTor(means.folder, means.settings, keys=keys, on_progress=progress) as own:
            yield Tor(own.socks)


def goes_through_tor(host: str, *, use_tor: bool | None) -> bool:
    """Whether connections to `host` go through Tor.

    Raises:
        ConfigError: they cannot, or must not.
    """
    if is_onion(host):
        try:
            check_onion(host)
        except ValueError as err:
            raise ConfigError(
                _("The server's address is not valid: {why}.").format(why=err),
                hint=_("Copy it again, or ask the operator for a new invitation."),
            ) from err
        if use_tor is False:
            raise ConfigError(
                _("The server is an onion service, and the settings forbid Tor (use_tor: false)."),
                hint=_("Remove use_tor from the settings."),
            )
        return True
    if use_tor and _is_near(host):
        raise ConfigError(
            _("Tor cannot reach {host}: it is this machine or its own network.").format(host=host),
            hint=_("Set use_tor to false for this server, or use its onion address."),
        )
    return bool(use_tor)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port" or "[v6]:port".

    Raises:
        ConfigError: it is neither.
    """
    host, _colon, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(_("The server's address is not of the form host:port."))
    return host, int(port)


@contextmanager
def _lent(foreign: ForeignTor, means: Means, keys: dict[str, str], say: Say) -> Iterator[Tor]:
    """A foreign tor with our key, or with a sentence on how to give it that."""
    if keys and foreign.control:
        ((host, private),) = keys.items()
        with LentKey(foreign, host, private) as lent:
            yield Tor(lambda: foreign.socks, on_attempt=lambda attempt: lent.renew(attempt.code))
        return
    for host, private in keys.items():
        path = write_client_key(means.folder, host, private)
        say(
            _(
                "The Tor at {socks} takes no key from us. Unless you have done so, copy {path} "
                "into the folder that its ClientOnionAuthDir names, and let it reload."
            ).format(socks=foreign.socks, path=path)
        )
    yield Tor(lambda: foreign.socks)


def _is_near(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host.lower().rstrip(".").rpartition(".")[2] in ("localhost", "local")
