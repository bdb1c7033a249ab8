"""Which part of the way to a server fails: one question after the other, up to the first no.

    tor         81  a tor program is there, or a tor that runs
    socks       82  it answers as a SOCKS proxy
    bootstrap   83  it has come into the Tor network
    descriptor  84  the server's onion service is published and can be reached
    key         85  our key opens it
    tls         86  what answers has the federation's certificate
    gateway     87  the server's program answers and is ready
    node        88  the server admits this node
    clock       89  its clock and ours agree

The first five are asked here; the others speak the server's language and are the caller's. Each
failure is one sentence, and the number is the exit code of who asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from federation.errors import ConscienceError, TorError
from federation.language import _
from federation.tor.foreign import choose
from federation.tor.program import find_program
from federation.tor.socks import LEGS, SocksError, dial
from federation.tor.way import Means, Say, Tor, Way, goes_through_tor, open_tor, split_address

FIRST_EXIT_CODE = 81
TOR_LEGS = LEGS[: LEGS.index("tls")]
State = Literal["ok", "failed", "unknown", "unused"]


@dataclass(frozen=True)
class Finding:
    """What is known of one leg.

    Attributes:
        leg: one of `LEGS`.
        state: unknown: not reached; unused: not on this way.
        sentence: what was found, or what is wrong.
        hint: what to do about it.
        is_final: trying again cannot end otherwise.
    """

    leg: str
    state: State
    sentence: str = ""
    hint: str = ""
    is_final: bool = False


@dataclass(frozen=True)
class Check:
    """A question of the caller's: answers with a detail, or raises ConscienceError."""

    leg: str
    ask: Callable[[Way], str]


def diagnose(
    address: str, means: Means, checks: Sequence[Check], *, use_tor: bool | None, say: Say
) -> Iterator[Finding]:
    """Look at every leg; yields one finding for each of `LEGS`, in order.

    Args:
        address: "host:port" of the server.
        means: what the node has for its way.
        checks: for the legs after Tor's, in order.
        use_tor: as `federation.tor.way.open_way`.
        say: told how far tor has come.

    Raises:
        ConfigError: the settings cannot be.
    """
    host, port = split_address(address)
    if not goes_through_tor(host, use_tor=use_tor):
        yield from (Finding(leg, "unused") for leg in TOR_LEGS)
        yield from _ask(checks, Way(address))
        return
    try:
        detail, is_own = _find(means, needs_key=bool(means.client_key))
    except TorError as err:
        yield from _ended("tor", "tor", err)
        return
    yield Finding("tor", "ok", detail)
    try:
        with open_tor(host, means, say) as tor:
            yield from _through(tor, host, port, checks)
    except TorError as err:  # entering failed: what is asked in the block raises nothing
        failed = "bootstrap" if is_own else "key"
        yield from _ended("socks", failed, err, before="unknown")


def exit_code(findings: Sequence[Finding]) -> int:
    """0, or the number of the first leg that failed."""
    failed = [finding.leg for finding in findings if finding.state == "failed"]
    return FIRST_EXIT_CODE + LEGS.index(failed[0]) if failed else 0


def _find(means: Means, *, needs_key: bool) -> tuple[str, bool]:
    """Which tor will be used, in words, and whether it is our own."""
    foreign = choose(means.settings, means.folder, needs_key=needs_key, places=means.places)
    if foreign is not None:
        return _("the Tor at {socks}").format(socks=foreign.socks), False
    return str(find_program(means.settings.program)), True


def _through(tor: Tor, host: str, port: int, checks: Sequence[Check]) -> Iterator[Finding]:
    try:
        asyncio.run(_dial_once(tor, host, port))
    except TorError as err:
        leg = err.leg if isinstance(err, SocksError) else "socks"
        yield from _ended("socks", "socks" if leg == "tor" else leg, err)
        return
    yield from (Finding(leg, "ok") for leg in TOR_LEGS[1:])
    with tor.forwarder(host, port, "check") as forwarder:
        yield from _ask(checks, Way(forwarder.address, True, tor.socks, forwarder))


async def _dial_once(tor: Tor, host: str, port: int) -> None:
    _reader, writer = await dial(tor.socks(), host, port, purpose="check")
    writer.close()
    await writer.wait_closed()


def _ask(checks: Sequence[Check], way: Way) -> Iterator[Finding]:
    for check in checks:
        try:
            detail = check.ask(way)
        except ConscienceError as err:
            yield from _ended(check.leg, check.leg, err)
            return
        yield Finding(check.leg, "ok", detail)


def _ended(
    start: str, failed: str, err: ConscienceError, *, before: State = "ok"
) -> Iterator[Finding]:
    """The findings from `start` on, where `failed` is the leg that `err` is about."""
    at = LEGS.index(failed)
    for place, leg in enumerate(LEGS):
        if place < LEGS.index(start):
            continue
        if place == at:
            is_final = isinstance(err, SocksError) and err.is_final
            yield Finding(leg, "failed", err.message, err.hint, is_final)
        else:
            yield Finding(leg, before if place < at and leg in TOR_LEGS else "unknown")
