"""Tors of this machine that are not ours: how one is found, chosen, and lent our client key.

Something that listens on 9050 need not be a tor; what is sent to another SOCKS proxy would leave
this machine as it is. tor answers HTTP with a page of its own, so that is asked first. Its control
port is used only where it says that the SOCKS port is its own.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from federation.errors import ConfigError, TorError
from federation.language import _
from federation.tor.control import Control, open_control
from federation.tor.program import find_program, install_hint
from federation.tor.settings import SYSTEM_PORTS, TorSettings
from federation.tor.socks import SocksAddress

PROBE_S = 2.0
PROBE = b"GET / HTTP/1.0\r\n\r\n"
PAGE = b"Tor is not an HTTP Proxy"
ANSWER_S = 3.0
RENEW_S = 5.0
# A tor that has lost our key says so (F4) or, without ExtendedErrors, a general failure (01).
LOST = (0xF4, 0x01)


@dataclass(frozen=True)
class Place:
    """Where a tor may be found: its SOCKS port, and control ports that may be the same tor's."""

    socks: str
    controls: tuple[str, ...] = ()


SYSTEM = tuple(
    Place(f"127.0.0.1:{port}", (f"127.0.0.1:{port + 1}", "unix:/run/tor/control"))
    for port in SYSTEM_PORTS
)


@dataclass(frozen=True)
class ForeignTor:
    """A tor that runs already.

    Attributes:
        control: address of a control port that lets us in; "" means that it takes no key from us.
    """

    socks: SocksAddress
    control: str = ""


def choose(
    settings: TorSettings,
    folder: Path,
    *,
    needs_key: bool,
    places: Sequence[Place] = SYSTEM,
) -> ForeignTor | None:
    """Choose the tor of this node, by the settings' mode; None means a tor of our own.

    Args:
        settings: of the node.
        folder: where its own tor lives.
        needs_key: whether the tor must be given our client key.
        places: where a system's tor is looked for.

    Raises:
        ConfigError: bridges or further torrc lines, which only a tor of our own can heed, with
            a mode that asks for another; mode address without an address.
        TorError: no tor is there.
    """
    if settings.mode == "own":
        return None
    is_ours_alone = bool(settings.bridges or settings.torrc)
    if settings.mode == "auto":
        if is_ours_alone or _is_running(folder):
            return None
        return _best(find(places), settings, needs_key=needs_key)
    if is_ours_alone:
        raise ConfigError(
            _("tor.bridges and tor.torrc are heeded by a Tor of our own alone."),
            hint=_("Set tor.mode to own, or remove them."),
        )
    if settings.mode == "address":
        return _named(settings)
    if (found := find(places)) is None:
        ports = ", ".join(place.socks for place in places)
        raise TorError(
            _("No Tor is running at {ports}.").format(ports=ports),
            hint=install_hint(sys.platform),
        )
    return found


def find(places: Sequence[Place] = SYSTEM) -> ForeignTor | None:
    """Find a tor that runs at one of `places`, with its control port if that lets us in."""
    for place in places:
        socks = SocksAddress.parse(place.socks)
        if is_tor(socks):
            fitting = (control for control in place.controls if _fits(control, socks))
            return ForeignTor(socks, next(fitting, ""))
    return None


def is_tor(socks: SocksAddress) -> bool:
    """Whether what listens there is a tor's SOCKS port, and no other program's."""
    try:
        with socket.create_connection((socks.host, socks.port), timeout=PROBE_S) as probe:
            probe.sendall(PROBE)
            return PAGE in probe.recv(1024)
    except OSError:
        return False


class LentKey:
    """Our client key in a foreign tor, in its memory only, for the length of a block.

    Raises:
        TorError: on entering: the tor does not take it.
    """

    def __init__(self, tor: ForeignTor, host: str, private: str) -> None:
        self._tor, self._host, self._private = tor, host, private
        self._was_there = False
        self._renewed_at = 0.0

    def __enter__(self) -> Self:
        with Control.at(self._tor.control, answer_s=ANSWER_S) as control:
            self._was_there = control.has_client_key(self._host)
            if not self._was_there:
                control.add_client_key(self._host, self._private)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._was_there:
            with (
                suppress(TorError),  # it may have ended
                Control.at(self._tor.control, answer_s=ANSWER_S) as control,
            ):
                control.remove_client_key(self._host)

    def renew(self, code: int | None) -> None:
        """Lend it again, in the background, if `code` of a dial says that tor may have lost it.

        A restart loses it, and so does "new identity" in Tor Browser.
        """
        now = time.monotonic()
        if code in LOST and now > self._renewed_at + RENEW_S:
            self._renewed_at = now
            threading.Thread(target=self._lend, name="lend-key", daemon=True).start()

    def _lend(self) -> None:
        with (
            suppress(TorError),  # the dial's own error says what is wrong
            Control.at(self._tor.control, answer_s=ANSWER_S) as control,
        ):
            control.add_client_key(self._host, self._private)


def _best(found: ForeignTor | None, settings: TorSettings, *, needs_key: bool) -> ForeignTor | None:
    """A foreign tor that takes our key; else our own; else the foreign one as it is."""
    if found is not None and (found.control or not needs_key):
        return found
    try:
        find_program(settings.program)
    except TorError:
        if found is None:
            raise
        return found
    return None


def _named(settings: TorSettings) -> ForeignTor:
    if not settings.socks:
        raise ConfigError(
            _("tor.mode is address, but tor.socks names none."),
            hint=_("Set it to the SOCKS port of your Tor, for example 127.0.0.1:9050."),
        )
    socks = SocksAddress.parse(settings.socks)
    if settings.control and not _fits(settings.control, socks):
        raise TorError(
            _("The control port at {control} is not that Tor's, or does not let us in.").format(
                control=settings.control
            ),
            hint=_("Correct tor.control in the settings, or leave it empty."),
        )
    return ForeignTor(socks, settings.control)


def _fits(control: str, socks: SocksAddress) -> bool:
    """Whether a control port lets us in and belongs to the tor at `socks`."""
    try:
        with Control.at(control, answer_s=ANSWER_S) as opened:
            return str(socks) in opened.socks()
    except TorError:
        return False


def _is_running(folder: Path) -> bool:
    try:
        open_control(folder, answer_s=ANSWER_S).close()
    except TorError:
        return False
    return True
