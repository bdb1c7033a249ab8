"""Whether this machine's clock agrees with the server's.

Flower signs each request with the time, and a server refuses what is dated more than 5 s in its
future or 305 s in its past. A SuperNode that is refused for that simply ends, without a word why.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from federation.errors import ClockError
from federation.language import _

HEALTH_PATH = "/health"
MAX_AHEAD_S = 5.0
MAX_BEHIND_S = 300.0


def utc_now() -> datetime:
    """The time, with a zone."""
    return datetime.now(UTC)


def seconds_ahead(client: httpx.Client, now: Callable[[], datetime] = utc_now) -> float | None:
    """How far our clock is ahead of the server's (negative: behind).

    The server's `Date` has whole seconds, so differences below one second are reported as 0.

    Returns:
        Seconds, or None if the server names no time.

    Raises:
        httpx.TransportError: the server cannot be reached.
    """
    before = now()
    response = client.get(HEALTH_PATH)
    after = now()
    try:
        theirs = parsedate_to_datetime(response.headers["date"])
    except (KeyError, ValueError, TypeError):
        return None
    if theirs.tzinfo is None:
        return None
    # Their clock showed something within [theirs, theirs + 1 s) at an instant between the two.
    least = (before - theirs).total_seconds() - 1.0
    most = (after - theirs).total_seconds()
    if least <= 0.0 <= most:
        return 0.0
    return least if least > 0 else most


def require_clock(ahead_s: float | None) -> None:
    """Refuse a difference that Flower would refuse.

    Raises:
        ClockError: names the difference.
    """
    if ahead_s is None or -MAX_BEHIND_S <= ahead_s <= MAX_AHEAD_S:
        return
    sentence = (
        _("This machine's clock is {seconds} s ahead of the server's.")
        if ahead_s > 0
        else _("This machine's clock is {seconds} s behind the server's.")
    )
    raise ClockError(
        sentence.format(seconds=round(abs(ahead_s))),
        hint=_("Set the clock (timedatectl set-ntp true), then try again."),
    )
