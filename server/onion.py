"""The onion service of this server: prepared for its tor, changed while it runs, proven closed.

`up` prepares; `invite`, `ban` and `onion rotate` are processes of their own: they write key files
and tell the running tor over its control port. A removed key works on in open circuits and with a
remembered descriptor, so a revocation ends tor; its supervisor starts it again, and everybody else
is back within seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from federation import durable
from federation.errors import ConfigError, ConscienceError, TorError
from federation.tor.control import Control, open_control
from federation.tor.program import find_program, has_pow
from federation.tor.torrc import Service, service_torrc
from server.config import ServerConfig, ServerHome
from server.nodes import Nodes
from server.onion_clients import PORT, TRIAL, OnionClients, Shard
from server.onion_state import OnionState, read_state, write_state
from server.onion_tor import lets_strangers_in, publish

logger = logging.getLogger(__name__)

CONTROL_S = 10.0
RETURN_S = 40.0
PAUSE_S = 0.1
REACHED = ("127.0.0.1", "localhost", "0.0.0.0")  # noqa: S104 (comparison only)


class OpenServiceError(TorError):
    """A visitor without a key was let in; the service has been taken down."""


class Onion:
    """The onion service of the server at `home`.

    Args:
        home: where everything lies.
        config: its settings; `onion` is on.
        now: Unix seconds.
    """

    def __init__(
        self, home: ServerHome, config: ServerConfig, *, now: Callable[[], float] = time.time
    ) -> None:
        self.folder = home.onion
        self.clients = OnionClients(home.onion, config.onion_clients)
        self._home = home
        self._config = config
        self._now = now

    def prepare(self) -> str:
        """Make what is missing, drop what is over, check the rest; returns tor's torrc.

        Raises:
            ConfigError: a folder that would open the service to everybody, or wrong settings.
            TorError: there is no tor program.
        """
        self._require_settings()
        with self.clients.lock():
            self.clients.settle()
            self._sweep()
            for node in Nodes(self._home.nodes_db).all():
                if node.status == "banned":  # by a command that did not get this far
                    self.clients.remove(node.name)
            self.clients.require_closed()
            return self._torrc(self.clients.shards())

    def problem(self) -> str:
        """Why tor must not be started now; "" if it may be."""
        try:
            self.clients.require_closed()
        except ConscienceError as err:
            return err.message
        return ""

    def grant(self, name: str) -> tuple[str, str]:
        """Let the volunteer `name` in; returns "host:port" and the private key.

        A key that this volunteer had before is void. With the server down it is good from its next
        start on.

        Raises:
            ConfigError: a folder is not as it should be.
            TorError: the change was not published; nothing is granted.
        """
        with self.clients.lock():
            self.clients.settle()
            changed = self._sweep()
            shard, private = self.clients.grant(name)
            try:
                self._apply([*changed, shard])
            except TorError:
                self.clients.remove(name)
                raise
            return f"{shard.host}:{PORT}", private

    def revoke(self, name: str) -> None:
        """Put the volunteer `name` out, and cut every connection of theirs.

        Raises:
            ConfigError: a folder is not as it should be.
            TorError: the service did not come back.
        """
        with self.clients.lock():
            if not self.clients.remove(name):
                return
            self._sweep()
            self.clients.require_closed()
            control = self.control()
            if control is None:
                return
            with control:
                self._write_torrc(self.clients.shards())
                ended = int(control.info("process/pid"))
                control.halt()
        self._await_return(ended)

    def rotate(self, *, grace_s: float) -> None:
        """Move to new addresses; the old ones work on for `grace_s`.

        Raises:
            ConfigError: a folder is not as it should be.
            TorError: the new addresses were not published; the old ones stay alone.
        """
        with self.clients.lock():
            self.clients.settle()
            self.clients.require_closed()
            moved = self.clients.rotate(retires_at=self._now() + grace_s)
            try:
                self._apply([new for _old, new in moved])
            except TorError:
                self.clients.take_back(moved)
                with suppress(TorError):
                    self._apply([])
                raise
            if self.clients.drop_retired(self._now()):
                self._apply([])

    def sweep(self) -> None:
        """Take the keys of expired invitations away, and give up addresses whose time is over.

        Raises:
            ConscienceError: another command is at it, or as `grant`.
        """
        with self.clients.lock(timeout_s=0.0):
            before = self.clients.shards()
            changed = self._sweep()
            if changed or self.clients.shards() != before:
                self._apply(changed)

    def control(self) -> Control | None:
        """A connection to the tor of the running server; None if the server is down.

        Raises:
            TorError: the server is up, but its tor does not answer.
        """
        if not read_state(self.folder).is_up:
            return None
        return open_control(self.folder, CONTROL_S)

    def prove_closed(self, control: Control) -> None:
        """Try every address without a key; one that lets us in is taken down.

        Raises:
            OpenServiceError: one did.
            TorError: it could not be tried.
        """
        shards = self.clients.shards()
        is_open = [s for s in shards if lets_strangers_in(control, s.host)]
        if not is_open:
            return
        logger.error("the onion service was open to everybody and is taken down")
        self._write_torrc([shard for shard in shards if shard not in is_open])
        control.reload()
        names = ", ".join(shard.folder.name for shard in is_open)
        err = OpenServiceError(
            f"the onion service ({names}) let a visitor without a key in; it was taken down",
            hint=f"Look at the key files in {is_open[0].path('')}, then start the server again.",
        )
        self._note_degraded(err.message)
        raise err

    def _note_degraded(self, reason: str) -> None:
        before = read_state(self.folder)
        if before.is_up:
            state = OnionState("degraded", reason=reason, server=before.server, tor=before.tor)
            write_state(self.folder, state)

    def _require_settings(self) -> None:
        if self._config.tor.mode not in ("auto", "own"):
            raise ConfigError(
                "the server publishes its onion service with a tor of its own",
                hint='Set tor.mode to "own" in server_config.json.',
            )
        if self._config.gateway_host not in REACHED:
            raise ConfigError(
                f"tor reaches the gateway at 127.0.0.1, not at {self._config.gateway_host}",
                hint='Set gateway_host to "127.0.0.1" in server_config.json.',
            )

    def _apply(self, changed: Sequence[Shard]) -> None:
        """Bring what was written before the running tor, if there is one."""
        self.clients.require_closed()
        control = self.control()
        if control is None:
            return
        with control:
            self._write_torrc(self.clients.shards())
            if not control.bootstrap().is_ready:
                control.reload()  # `up` publishes and tries it once tor has come so far
                return
            publish(control, changed, self.folder)
            self.prove_closed(control)

    def _sweep(self) -> list[Shard]:
        """Remove what is over from the files; the addresses that lost a key."""
        now = self._now()
        changed: list[Shard] = []
        for node in Nodes(self._home.nodes_db).all():
            if node.status == "invited" and node.expires_at <= now:
                changed += self.clients.remove(node.name)
        self.clients.drop_retired(now)
        for shard in self.clients.shards():
            if shard.path(TRIAL).exists():
                shard.path(TRIAL).unlink()
                changed.append(shard)
        return [shard for shard in dict.fromkeys(changed) if shard.folder.exists()]

    def _torrc(self, shards: Iterable[Shard]) -> str:
        target = f"127.0.0.1:{self._config.gateway_port}"
        services = [Service(shard.folder, target, PORT) for shard in shards]
        program = find_program(self._config.tor.program)
        return service_torrc(self.folder, self._config.tor, services, has_pow=has_pow(program))

    def _write_torrc(self, shards: Iterable[Shard]) -> None:
        durable.write_text(self.folder / "torrc", self._torrc(shards))

    def _await_return(self, ended: int) -> None:
        deadline = time.monotonic() + RETURN_S
        while time.monotonic() < deadline:
            state = read_state(self.folder)
            if not state.is_up or (state.tor not in (0, ended) and state.state == "reachable"):
                return
            time.sleep(PAUSE_S)
        raise TorError(
            f"the onion service has not come back after {RETURN_S:.0f} s ({state})",
            hint="See: flower-server onion status",
        )
