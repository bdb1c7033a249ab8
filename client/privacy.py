"""`flower-client privacy`: what left this machine, to whom, and what it can reveal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from client.asked import Host, by_host
from client.asked import read as read_asked
from client.config import (
    Federation,
    NodeConfig,
    NodeHome,
    goes_through_tor,
    load_federation,
    server_address,
)
from client.outbox import open_outbox
from client.sent import Sent, read
from federation.language import _

SHOWN_KEY = 16


@dataclass(frozen=True)
class Day:
    """What left on one day (UTC).

    Attributes:
        sent_bytes: all that was said to the server, packages included, before TLS and Tor.
        package_bytes: of packages, with their padding.
    """

    day: str
    requests: int
    sent_bytes: int
    packages: int
    package_bytes: int


@dataclass(frozen=True)
class Package:
    """One hand-over of one package; the server may ask for it again.

    Attributes:
        size_bytes: without padding.
        state: what became of it, "" if the outbox no longer knows.
    """

    at: str
    sha256: str
    size_bytes: int
    wire_bytes: int
    state: str


@dataclass(frozen=True)
class Account:
    """The whole answer: figures, and sentences in the owner's language."""

    to: str
    way: str
    days: tuple[Day, ...]
    packages: tuple[Package, ...]
    feeds: tuple[Host, ...]
    counted: str
    reveals: tuple[str, ...]
    stays: str

    def to_json(self) -> dict[str, Any]:
        """Plain dict of the fields."""
        return asdict(self)


def account(home: NodeHome, config: NodeConfig) -> Account:
    """Add up the ledger of the node at `home`.

    A node that belongs to no federation has told nobody but the servers of its feeds.

    Raises:
        ConfigError: this node has not joined, and no feed was asked for.
    """
    feeds, entries = by_host(read_asked(home.asked)), read(home.sent)
    if home.federation.exists() or not feeds:
        federation = load_federation(home)
        through_tor = goes_through_tor(config, server_address(config, federation.address))
        to, told = _recipient(federation), reveals(through_tor=through_tor)
    else:
        through_tor, to, told = bool(config.use_tor), _("no federation yet"), ()
    return Account(
        to=to,
        way=_way(through_tor=through_tor) if told else "",
        days=by_day(entries),
        packages=_packages(entries, _states(home, config)),
        feeds=feeds,
        counted=_(
            "Bytes are those of requests before encryption; TLS and Tor add a few per cent. The "
            "node's connection writes them down every quarter of an hour and when it ends. Checks "
            "of the connection, some hundred bytes each, are not counted."
        ),
        reveals=(*told, *_of_feeds(feeds)),
        stays=_(
            "Never sent to the server: texts, questions and answers, memory, feeds, settings, "
            "names of people, files or machines, and what this machine is made of."
        ),
    )


def by_day(entries: Sequence[Sent]) -> tuple[Day, ...]:
    """Sums for each day on which anything left, oldest first.

    A package is part of what the node's connection sent, and is not added to it again.
    """
    days = []
    for day in sorted({entry.at[:10] for entry in entries}):
        found = [entry for entry in entries if entry.at[:10] == day]
        said = [entry for entry in found if entry.kind != "package"]
        packages = [entry for entry in found if entry.kind == "package"]
        days.append(
            Day(
                day,
                requests=sum(entry.count for entry in said),
                sent_bytes=sum(entry.wire_bytes for entry in said),
                packages=len(packages),
                package_bytes=sum(entry.wire_bytes for entry in packages),
            )
        )
    return tuple(days)


def reveals(*, through_tor: bool) -> tuple[str, ...]:
    """What all this can tell, and to whom; nothing is promised that does not hold."""
    if through_tor:
        network = _(
            "Tor hides your address from the operator, and the operator's from you. It does not "
            "hide from your provider that you use Tor, nor the connection from somebody who "
            "watches both of its ends."
        )
    else:
        network = _("Without Tor the operator sees the address of your internet connection.")
    return (
        _(
            "A package is what an adapter learnt from your texts. Texts have been reconstructed "
            "almost word for word from such changes (arXiv:2601.17533): do not train on anything "
            "that the operator must never read. No noise is added; there is no formal guarantee."
        ),
        _(
            "With it go the number of examples, tokens and steps, the held-out loss before and "
            "after, the version it started from, and this node's signature; after a round, the "
            "held-out loss of the new version."
        ),
        _(
            "The operator sees which node (a key, no name unless the invitation bore yours) is "
            "online when, what it sent, and how long it took. Every published version names the "
            "pseudonyms of the nodes in it and their examples to all volunteers."
        ),
        network,
        _(
            "Packages are padded to sizes of few steps and a start waits for a random moment: "
            "somebody who watches the line learns less from one. The operator learns the same."
        ),
    )


def _of_feeds(hosts: Sequence[Host]) -> tuple[str, ...]:
    """What the servers of feeds can tell, if any was asked."""
    straight = sum(host.requests - host.through_tor for host in hosts)
    if straight:
        sentence = _(
            "{count} requests for feeds did not go through Tor: each feed's server saw the address "
            "of your internet connection, and whoever looks names up for you saw which servers."
        )
        return (sentence.format(count=straight),)
    if hosts:
        return (_("The servers of feeds saw an exit of Tor, not your address."),)
    return ()


def _recipient(federation: Federation) -> str:
    return _("the federation joined on {day}, whose operator signs with key {key}…").format(
        day=federation.joined_at[:10], key=federation.operator_key[:SHOWN_KEY]
    )


def _way(*, through_tor: bool) -> str:
    return _("through Tor, to an onion service") if through_tor else _("over TLS, without Tor")


def _states(home: NodeHome, config: NodeConfig) -> dict[str, str]:
    if not home.outbox.is_dir():
        return {}
    with open_outbox(home, config) as outbox:
        return {entry.sha256: entry.state for entry in outbox.entries()}


def _packages(entries: Sequence[Sent], states: Mapping[str, str]) -> tuple[Package, ...]:
    return tuple(
        Package(e.at, e.sha256, e.size_bytes, e.wire_bytes, states.get(e.sha256, ""))
        for e in entries
        if e.kind == "package"
    )
