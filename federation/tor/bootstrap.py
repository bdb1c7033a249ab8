"""How far a tor has come on its way into the network, and what to say when it comes no further."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from federation.errors import TorError
from federation.language import _

READY = 100
CLOCK_SKEW = "CLOCK_SKEW"
_FIELD = re.compile(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|(\S+))')


@dataclass(frozen=True)
class Bootstrap:
    """One look at it.

    Attributes:
        percent: 100 means ready for use.
        tag: tor's word for the step it is at.
        summary: its sentence for that, English.
        warning: what went wrong last at this step, "" for nothing.
        reason: tor's word for that, for example `CLOCK_SKEW`.
    """

    percent: int
    tag: str = ""
    summary: str = ""
    warning: str = ""
    reason: str = ""

    @property
    def is_ready(self) -> bool:
        """Whether tor can be used."""
        return self.percent >= READY

    def __str__(self) -> str:
        return f"{self.percent} % ({self.tag}): {self.summary}" if self.tag else f"{self.percent} %"


def read(phase: str) -> Bootstrap:
    """Read what GETINFO says about `status/bootstrap-phase`."""
    fields = {name: quoted or plain for name, quoted, plain in _FIELD.findall(phase)}
    names = ("TAG", "SUMMARY", "WARNING", "REASON")
    return Bootstrap(int(fields.get("PROGRESS", 0)), *(fields.get(name, "") for name in names))


def stuck(last: Bootstrap, waited_s: float) -> TorError:
    """The error for a tor that is not ready after `waited_s`; no address is in it."""
    if last.reason == CLOCK_SKEW:
        hint = _("Tor says that this machine's clock is wrong: set date, time and time zone.")
    elif last.percent < 10:
        hint = _(
            "Tor reaches nobody: is there a connection? Where Tor is blocked, put bridges into the "
            "settings (tor.bridges)."
        )
    else:
        hint = _("Try again; where Tor is hindered, bridges help (tor.bridges in the settings).")
    warning = f" ({last.warning})" if last.warning else ""
    return TorError(
        _("Tor was not ready after {seconds} s; it stands at {step}{warning}.").format(
            seconds=round(waited_s), step=last, warning=warning
        ),
        hint=hint,
    )


class Watch:
    """Follows one tor's bootstrap: tells progress, and says when it takes too long.

    Args:
        start_s: how long the first one may take; a restarted tor is its supervisor's to judge.
        on_progress: told whenever the step changes.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        start_s: float,
        on_progress: Callable[[Bootstrap], None] = lambda _seen: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start_s = start_s
        self._on_progress = on_progress
        self._clock = clock
        self._since: float | None = None
        self._last = Bootstrap(0)
        self._is_first = True
        self._clock_is_wrong = False

    def note(self, seen: Bootstrap | None) -> bool:
        """Whether tor is ready; `seen` is None while it does not answer.

        Raises:
            TorError: it is not, after `start_s`.
        """
        now = self._clock()
        if self._since is None:
            self._since, self._last = now, Bootstrap(0)
        if seen is not None:
            self._clock_is_wrong |= seen.reason == CLOCK_SKEW
            if seen != self._last:
                self._last = seen
                self._on_progress(seen)
            if seen.is_ready:
                self._since, self._is_first = None, False
                return True
        if self._is_first and now - self._since > self._start_s:
            reason = CLOCK_SKEW if self._clock_is_wrong else self._last.reason
            raise stuck(replace(self._last, reason=reason), now - self._since)
        return False
