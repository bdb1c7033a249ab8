"""`up`'s eye on the onion service: how far its tor has come, and what became of it since.

A thread of its own with a control connection of its own, for as long as that tor lives; the tor
that a supervisor starts after it is followed anew. It attaches before tor is in the network, so
that no upload is missed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Self

from federation.errors import ConscienceError, TorError
from federation.tor.bootstrap import stuck
from federation.tor.control import Control, open_control
from server.onion import Onion, OpenServiceError
from server.onion_state import FILE, Name, OnionState, read_state, write_state
from server.onion_tor import UPLOAD_S, note_publication

logger = logging.getLogger(__name__)

ATTACH_S = 1.0
LOOK_S = 0.2
KEEP_S = 2.0
AGAIN_S = 30.0
SWEEP_S = 3600.0
JOIN_S = 5.0
NO_NETWORK = "Tor has no connection to its network"


class OnionWatch:
    """Writes the state of the onion service down for the length of a block.

    Args:
        onion: the service; its tor is started by somebody else.
        pid: of this server.
        start_s: after so long without Tor the state is no longer "starting".
        say: told each change in a line.
    """

    def __init__(
        self, onion: Onion, *, pid: int, start_s: float, say: Callable[[str], None]
    ) -> None:
        self._onion = onion
        self._start_s = start_s
        self._say = say
        self._state = OnionState("starting", server=pid)
        self._since = time.monotonic()
        self._stopped = threading.Event()
        # a daemon: it may be waiting for an upload when the server is told to stop
        self._thread = threading.Thread(target=self._run, name="onion watch", daemon=True)

    def __enter__(self) -> Self:
        write_state(self._onion.folder, self._state)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(JOIN_S)
        (self._onion.folder / FILE).unlink(missing_ok=True)

    @property
    def state(self) -> OnionState:
        """The present state."""
        return self._state

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_S):
            try:
                with open_control(self._onion.folder, ATTACH_S) as control:
                    self._follow(control)
            except ConscienceError as err:
                if not self._stopped.is_set():
                    self._lost(err)

    def _follow(self, control: Control) -> None:
        """Follow one tor until it ends or the watch does."""
        self._state = replace(self._state, tor=int(control.info("process/pid")))
        with ExitStack() as stack:
            hosts = [shard.host for shard in self._onion.clients.shards()]
            uploads = [stack.enter_context(control.uploads(host)) for host in hosts]
            if not self._joins_network(control):
                return
            try:
                for each in uploads:
                    each.wait(UPLOAD_S)
                self._set("published")
            except TorError as err:
                control.bootstrap()  # raises if it was tor that ended
                logger.warning("%s", err.message)
        note_publication(self._onion.folder)
        is_proven = self._prove(control)
        self._keep(control, is_proven=is_proven)

    def _joins_network(self, control: Control) -> bool:
        """Wait for it, showing progress; False if the watch ends first."""
        started = time.monotonic()
        while not self._stopped.is_set():
            seen = control.bootstrap()
            if seen.is_ready:
                return True
            if time.monotonic() - started > self._start_s:
                self._set("degraded", reason=stuck(seen, self._start_s).message)
            else:
                self._set("starting", percent=seen.percent, tag=seen.tag)
            self._stopped.wait(LOOK_S)
        return False

    def _prove(self, control: Control) -> bool:
        """Try the service as a stranger; whether that could be done."""
        try:
            self._onion.prove_closed(control)
        except OpenServiceError as err:
            self._set("degraded", reason=err.message)
        except TorError as err:
            control.bootstrap()
            self._set("degraded", reason=err.message)
            return False
        else:
            self._set("reachable")
        return True

    def _keep(self, control: Control, *, is_proven: bool) -> None:
        again, sweep = time.monotonic() + AGAIN_S, time.monotonic() + SWEEP_S
        while not self._stopped.wait(KEEP_S):
            self._look(control)
            now = time.monotonic()
            if not is_proven and now >= again:
                is_proven, again = self._prove(control), now + AGAIN_S
            if now >= sweep:
                self._sweep()
                sweep = now + SWEEP_S

    def _look(self, control: Control) -> None:
        is_live = control.info("network-liveness") == "up"
        found = read_state(self._onion.folder)  # another command may have taken it down
        if not is_live and found.state != "degraded":
            self._set("degraded", reason=NO_NETWORK)
        elif is_live and found.reason == NO_NETWORK:
            self._set("reachable")

    def _sweep(self) -> None:
        try:
            self._onion.sweep()
        except ConscienceError as err:
            logger.warning("keys that are over could not be removed: %s", err.message)

    def _lost(self, err: ConscienceError) -> None:
        """Tor does not answer (yet, or any more)."""
        if self._state.tor:
            self._since = time.monotonic()
            self._state = replace(self._state, tor=0)
        reason = self._onion.problem() or ("" if isinstance(err, TorError) else err.message)
        if reason:
            self._set("degraded", reason=reason)
        elif time.monotonic() - self._since > self._start_s:
            self._set("degraded", reason=f"{err.message} See tor.log.")
        else:
            self._set("starting")

    def _set(self, state: Name, *, percent: int = 0, tag: str = "", reason: str = "") -> None:
        wanted = replace(
            self._state, state=state, percent=percent, tag=tag, reason=reason, at=self._state.at
        )
        found = read_state(self._onion.folder)
        if wanted == replace(found, at=wanted.at):
            return
        self._state = replace(wanted, at=time.time())
        write_state(self._onion.folder, self._state)
        self._say(f"onion: {self._state}")
