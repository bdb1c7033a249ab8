"""HTTPS to the gateway, trusting the invitation's certificate authority and nothing else.

No proxy variables, no system certificates, no redirects. Where the node goes through Tor, what is
dialled is our own forwarder on this machine and never the server: no name is looked up, and a Tor
that does not work is an error. Joining, checks and the run's probes use this; everything else a
node says goes through Flower's SuperNode, by the same kind of way.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx

from client.config import NodeConfig, NodeHome, goes_through_tor
from client.keys import onion_key
from client.quiet import HEADERS, size_of
from client.sent import Meter
from federation.errors import InvitationError, NetworkError, TorError
from federation.language import _
from federation.processes import Child
from federation.tor import way as tor_way
from federation.tor.socks import failure
from federation.tor.way import Means, Way

TIMEOUT_S = 20.0
TOR_TIMEOUT_S = 60.0  # the forwarder alone tries for 25
Say = Callable[[str], None]


def open_way(
    home: NodeHome, config: NodeConfig, address: str, *, purpose: str, say: Say
) -> AbstractContextManager[Way]:
    """The way to the server for the length of a block, through Tor where it has to be.

    Args:
        home: the node's home; its own tor lives there.
        config: its settings.
        address: "host:port" of the gateway.
        purpose: what for; other purposes use other circuits.
        say: told how far tor has come.

    Raises:
        ConfigError: an onion address, and the settings forbid Tor.
        TorError: Tor is needed and does not work.
    """
    return tor_way.open_way(
        address, means(home, config), use_tor=config.use_tor, purpose=purpose, say=say
    )


@contextmanager
def open_watched_way(
    home: NodeHome, config: NodeConfig, address: str, say: Say
) -> Iterator[tuple[Way, list[Child]]]:
    """`open_way` for a node that stays, and the tor that it has to run itself, if it has to."""
    if not goes_through_tor(config, address):
        yield Way(address), []
        return
    host, port = tor_way.split_address(address)
    with (
        tor_way.open_tor(host, means(home, config), say, is_supervised=True) as tor,
        tor.forwarder(host, port, "rounds") as forwarder,
    ):
        children = [tor.child] if tor.child is not None else []
        yield Way(forwarder.address, True, tor.socks, forwarder), children


@contextmanager
def reach(
    home: NodeHome,
    config: NodeConfig,
    address: str,
    ca_certificate: str,
    *,
    purpose: str,
    say: Say = lambda _line: None,
) -> Iterator[httpx.Client]:
    """`open_way`, and `connect` over it."""
    with (
        open_way(home, config, address, purpose=purpose, say=say) as way,
        connect(way, ca_certificate, ledger=home.sent) as client,
    ):
        yield client


@contextmanager
def connect(
    way: Way, ca_certificate: str, *, ledger: Path | None = None, timeout_s: float | None = None
) -> Iterator[httpx.Client]:
    """A client for the gateway at the end of `way`.

    Args:
        way: an open way.
        ca_certificate: PEM text, the only trust.
        ledger: what is sent is noted there at the end (`client.sent`).
        timeout_s: of each step of a request; None: as long as such a way may take.

    Raises:
        NetworkError: raised in the block when the server cannot be reached or has another
            certificate; TorError with the reason where it is Tor's.
        InvitationError: the certificate cannot be read.
    """
    try:
        trust = ssl.create_default_context(cadata=ca_certificate)
    except (ssl.SSLError, ValueError) as err:
        raise InvitationError(_("The certificate in the invitation cannot be read.")) from err
    patience = timeout_s or (TOR_TIMEOUT_S if way.is_tor else TIMEOUT_S)
    try:
        with (
            _counting(ledger) as hooks,
            httpx.Client(
                base_url=f"https://{way.dial}",
                verify=trust,
                trust_env=False,
                timeout=patience,
                headers=HEADERS,
                event_hooks=hooks,
            ) as client,
        ):
            yield client
    except httpx.TransportError as err:
        raise _unreachable(way, err) from err


@contextmanager
def _counting(ledger: Path | None) -> Iterator[dict[str, list[Callable[..., object]]]]:
    if ledger is None:
        yield {}
        return
    meter = Meter(ledger)
    try:
        yield {"request": [lambda request: meter.add(size_of(request))]}
    finally:
        meter.flush()


def _unreachable(way: Way, err: httpx.TransportError) -> NetworkError:
    name = _("The server") if way.is_tor else way.dial
    if "CERTIFICATE_VERIFY_FAILED" in str(err):
        return NetworkError(
            _("{address} shows a certificate that is not this federation's.").format(address=name),
            hint=_("Somebody may be in between, or the server was set up anew: ask the operator."),
        )
    if (closed := problem_of(way)) is not None:
        return closed
    sentence = (
        _("The connection through Tor ended before the server had answered ({why}).")
        if way.is_tor
        else _("The server at {address} could not be reached ({why}).")
    )
    return NetworkError(
        sentence.format(address=name, why=str(err) or type(err).__name__),
        hint=_("Check your connection and try again; the server may be down."),
    )


def problem_of(way: Way) -> TorError | None:
    """Why the last dial through Tor failed; None if it did not, or there was none."""
    last = way.forwarder.last if way.forwarder is not None else None
    if last is None or last.ok:
        return None
    hint = "" if last.code is None else failure(last.code, extended=True).hint
    return TorError(last.sentence, hint=hint)


def means(home: NodeHome, config: NodeConfig) -> Means:
    """What this node has for a way through Tor."""
    return Means(config.tor, home.tor, onion_key(home.onion_key))
