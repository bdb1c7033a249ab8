"""Which descriptors of an onion service have reached the directories, from tor's HS_DESC events.

A service publishes two descriptors, each on several directories. A client may ask any of them, so
the first success says little: all that was begun must have ended.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from queue import Empty, SimpleQueue

from federation.errors import TorError

UPLOAD_S = 30.0
QUIET_S = 0.3  # so long without an event means that no further upload was begun


class Uploads:
    """Counts the uploads of one service.

    Args:
        service: its address without ".onion".
        events: texts of HS_DESC events, of whichever service.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        service: str,
        events: SimpleQueue[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._events = events
        self._clock = clock
        self._pending: Counter[str] = Counter()
        self._begun = self._arrived = 0

    def wait(self, timeout_s: float = UPLOAD_S) -> int:
        """Wait until every upload that was begun has ended; returns how many succeeded.

        Raises:
            TorError: none did.
        """
        deadline = self._clock() + timeout_s
        while (left := deadline - self._clock()) > 0:
            is_settled = self._begun and not self._pending.total()
            try:
                self._note(self._events.get(timeout=min(left, QUIET_S) if is_settled else left))
            except Empty:
                break
        if not self._arrived:
            raise TorError(
                f"the onion service's descriptor reached no directory within {timeout_s:g} s "
                f"({self._begun} uploads were begun)",
                hint="Tor's log says more; more than 300 client keys are a known cause.",
            )
        return self._arrived

    def _note(self, event: str) -> None:
        # HS_DESC UPLOAD <service> UNKNOWN $<directory>~<name> …; UPLOADED may lack the service
        _kind, action, service, _auth, directory, *_rest = [*event.split(), *[""] * 5]
        if service not in (self._service, "UNKNOWN"):
            return
        if action == "UPLOAD":
            self._pending[directory] += 1
            self._begun += 1
        elif action in ("UPLOADED", "FAILED") and self._pending[directory]:
            self._pending[directory] -= 1
            self._arrived += action == "UPLOADED"
