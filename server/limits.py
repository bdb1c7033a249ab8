"""How much one node may ask of the gateway: requests a minute, bytes a day."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from server.traffic import Traffic

logger = logging.getLogger(__name__)

# A package of 10 MB is 40 to 80 requests; a SuperNode that waits makes one every few seconds.
REQUESTS_PER_MINUTE = 1200.0
REQUESTS_AT_ONCE = 600


class RateLimit:
    """A token bucket."""

    def __init__(
        self, *, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_minute / 60.0
        self._burst = float(burst)
        self._clock = clock
        self._left, self._at = self._burst, clock()

    def allows(self) -> bool:
        """Take one token if there is one."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class RateLimits:
    """A bucket for each key; ask only for keys of known nodes, or memory has no bound."""

    def __init__(
        self, *, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_minute, self._burst, self._clock = per_minute, burst, clock
        self._buckets: dict[str, RateLimit] = {}

    def allows(self, key: str) -> bool:
        """Take one token of `key` if there is one."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = RateLimit(
                per_minute=self._per_minute, burst=self._burst, clock=self._clock
            )
        return bucket.allows()


class Allowance:
    """What an admitted node, named by its `flwr-public-key`, may still do.

    Args:
        traffic: counts the bytes of the day.
        max_daily_bytes: of bodies, both ways, on one day (UTC).
        clock: monotonic seconds.
    """

    def __init__(
        self,
        traffic: Traffic,
        *,
        max_daily_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._traffic = traffic
        self._max_daily_bytes = max_daily_bytes
        self._rates = RateLimits(
            per_minute=REQUESTS_PER_MINUTE, burst=REQUESTS_AT_ONCE, clock=clock
        )

    def permits(self, key: str) -> bool:
        """Whether one more request may pass; it counts as made."""
        if not self._rates.allows(key):
            return False
        if self._traffic.today(key) < self._max_daily_bytes:
            return True
        logger.warning("a node has moved all the bytes of its day")
        return False
