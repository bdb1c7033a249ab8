"""Who may ask: one token, printed as a link, exchanged for a cookie."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

MOST_COOKIES = 16
COOKIE_S = 7 * 86_400.0
WRONG_PER_MINUTE = 10
MINUTE_S = 60.0


class TooManyTriesError(Exception):
    """Too many wrong tokens in the last minute."""


@dataclass
class Login:
    """The token, and this start's cookies that it was exchanged for; these are in memory alone.

    Attributes:
        token: 256 random bits; another one each time, unless its owner keeps it.
        clock: seconds, never set back.
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    clock: Callable[[], float] = time.monotonic
    _cookies: dict[str, float] = field(default_factory=dict, repr=False)
    _wrong: list[float] = field(default_factory=list, repr=False)

    def is_token(self, given: str) -> bool:
        """Whether `given` is the token; compared in constant time.

        Raises:
            TooManyTriesError: there were too many that were not.
        """
        now = self.clock()
        self._wrong = [moment for moment in self._wrong if now - moment < MINUTE_S]
        if len(self._wrong) >= WRONG_PER_MINUTE:
            raise TooManyTriesError
        is_right = hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())
        if not is_right:
            self._wrong.append(now)
        return is_right

    def new_cookie(self) -> str:
        """A cookie's value; of too many, the oldest ends."""
        while len(self._cookies) >= MOST_COOKIES:
            del self._cookies[next(iter(self._cookies))]
        value = secrets.token_urlsafe(32)
        self._cookies[_digest(value)] = self.clock()
        return value

    def is_cookie(self, value: str) -> bool:
        """Whether this start gave that cookie out, and not too long ago.

        Values are looked up by their hash: how long that takes tells nothing of them.
        """
        made = self._cookies.get(_digest(value))
        return made is not None and self.clock() - made < COOKIE_S

    def end(self, value: str) -> None:
        """Forget a cookie."""
        self._cookies.pop(_digest(value), None)


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()
