"""`flower-client run`: the node's processes, watched.

tor                only where the node goes through Tor and no other tor serves it.
(forwarder)        a thread: 127.0.0.1:p → tor → the server's onion service.
flower-supernode   talks to the server over TLS with this node's key, behind Tor through the
                   forwarder; its local API listens on a free port of 127.0.0.1 and gives tasks only
                   to an executor with our secret.
flower-superexec   starts a ClientApp for each message, through our own commands (`client.shim`).

A server that is down is waited for, however long: to the SuperNode it is a dropped connection, and
nothing is started anew. What no waiting mends ends the node with a sentence: a key that the onion
or the server does not take, a clock that is off. The SuperNode itself ends with status 0 when it is
refused, and says nothing of a wrong clock, so the judge tells these apart. Flower's own
"[code: 2004]" is no sign of a refused key: for a minute after a crash it means "still online".
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client import clock, jitter, keys, link
from client.board import Board, Seen, running_state, state_of
from client.commands import shim_argv, write_commands
from client.config import (
    Federation,
    NodeConfig,
    NodeHome,
    goes_through_tor,
    load_federation,
    server_address,
)
from client.shim import FLOWER_NODE, NOT_ADMITTED
from federation import durable
from federation.errors import ClockError, ConscienceError, NetworkError, RevokedError, TorError
from federation.flower_env import flower_environment
from federation.language import _
from federation.processes import Child, Stop, Supervisor, free_port, is_listening
from federation.tor.way import Way

logger = logging.getLogger(__name__)

SUPERNODE, SUPEREXEC = "flower-supernode", "flower-superexec"
PROBE_TIMEOUT_S = 5.0
STALE_PROBES = 4
FINAL_AFTER = 2  # dials in a row; a foreign tor that lost our key is lent it again after the first


@dataclass(frozen=True)
class Node:
    """What the Flower processes need to know.

    Attributes:
        way: to the gateway.
        port: of the SuperNode's local API.
    """

    home: NodeHome
    federation: Federation
    way: Way
    supernode_key: Path
    port: int


def run(home: NodeHome, config: NodeConfig, say: Callable[[str], None]) -> None:
    """Keep this node connected until SIGTERM or SIGINT.

    Args:
        home: a home that has joined.
        config: its settings.
        say: told one sentence whenever something changes.

    Raises:
        ConscienceError: another `run` holds this home.
        ConfigError: Tor is needed and forbidden, or its settings cannot be.
        TorError: Tor does not start, or the onion service refuses this node's key.
        RevokedError: the server does not admit this node's key (any more).
        ClockError: the clocks differ too much.
        ProcessError: a Flower process could not be started.
    """
    load_federation(home)
    busy = _("This node is already running{pid}.").format(pid=_pid_note(home))
    with durable.locked(home.run_lock, timeout_s=1.0, busy=busy):
        jitter.wait(config.start_jitter_s, say)
        try:
            while _run_until_moved(home, config, say):
                say(_("The server has a new address; connecting to it."))
        finally:
            home.running.unlink(missing_ok=True)
            home.superexec_secret.unlink(missing_ok=True)


def prepare(home: NodeHome, federation: Federation, way: Way) -> Node:
    """Write what the processes read: commands and a fresh executor secret; pick a port."""
    node_keys = keys.load_or_create(home.keys)
    write_commands(home.bin)
    durable.make_folder(home.flwr)
    durable.write_text(home.superexec_secret, secrets.token_hex(32))
    return Node(home, federation, way, node_keys.supernode_private, free_port())


def children(node: Node, inherited: Mapping[str, str]) -> list[Child]:
    """SuperNode and executor, in starting order."""
    home = node.home
    path = os.pathsep.join([str(home.bin), inherited.get("PATH", os.defpath)])
    environment = flower_environment(
        inherited,
        home.flwr,
        extra={
            "CONSCIENCE_HOME": str(home.root),
            FLOWER_NODE: node.federation.flower_node_id,
            "PATH": path,
        },
    )
    secret = ["--superexec-auth-secret-file", str(home.superexec_secret)]
    local = f"127.0.0.1:{node.port}"
    supernode = [
        *shim_argv(SUPERNODE),
        *("--superlink", node.way.dial),
        *("--root-certificates", str(home.ca)),
        *("--auth-supernode-private-key", str(node.supernode_key)),
        *("--isolation", "process"),
        *secret,
        *("--host", "127.0.0.1"),
        *("--port", str(node.port)),
    ]
    # `--insecure` is the way from the executor to the SuperNode on this machine.
    superexec = [*shim_argv(SUPEREXEC), "--insecure", "--runtime-api-address", local, *secret]
    return [
        Child(
            SUPERNODE,
            supernode,
            environment,
            home.logs / "supernode.log",
            ready=lambda: is_listening(node.port),
            judge=lambda _child, tail: judge(tail, lambda: _seconds_ahead(node)),
            alive=Probe(node).is_alive,
            cwd=home.root,
        ),
        Child(SUPEREXEC, superexec, environment, home.logs / "superexec.log", cwd=home.root),
    ]


def judge(tail: str, seconds_ahead: Callable[[], float | None]) -> Stop | None:
    """Whether a SuperNode that ended should stay down.

    Args:
        tail: what it printed last.
        seconds_ahead: measures the clock; None if the server does not answer.
    """
    # The clock first: a request with a wrong time is refused as one with a wrong key is.
    try:
        clock.require_clock(seconds_ahead())
    except ClockError as err:
        return Stop(err.message, ClockError, err.hint)
    if NOT_ADMITTED not in tail:
        return None
    return Stop(
        _("The server does not admit this node: its key is unknown there or was banned."),
        RevokedError,
        _("Ask the operator. A banned key stays banned: a new invitation needs a new folder."),
    )


class Probe:
    """Liveness of a SuperNode: its local API answers, and it is not waiting in vain."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._stale = 0

    def is_alive(self) -> bool:
        """False if it should be started anew."""
        if not is_listening(self._node.port):
            return False
        if running_state(self._node.home).get("state") != "waiting" or not _is_up(self._node):
            self._stale = 0
            return True
        self._stale += 1
        if self._stale < STALE_PROBES:
            return True
        logger.warning("the server answers, but the SuperNode does not find it again")
        self._stale = 0
        return False


def _run_until_moved(home: NodeHome, config: NodeConfig, say: Callable[[str], None]) -> bool:
    """Run until a stop is asked for; True if the server has another address instead."""
    federation = load_federation(home)
    address = server_address(config, federation.address)
    shown = "" if goes_through_tor(config, address) else address
    board = Board(home, federation.node, shown, say)
    with link.open_watched_way(home, config, address, board.tor_says) as (way, tors):
        node = prepare(home, federation, way)
        if not tors:
            _check_clock(node, say)
        all_children = [*tors, *children(node, os.environ)]
        supervisor = Supervisor(all_children)
        names = [child.name for child in all_children]
        watcher = Watcher(node, config, supervisor, names, board)
        supervisor.run(each=watcher.look)
        return watcher.has_moved


class Watcher:
    """Looks at SuperNode and way a few times a second; shows, and ends what is beyond waiting.

    Attributes:
        has_moved: the server does not answer any more, and another address of it is known: it was
            asked to stop, so that the node may start anew.
    """

    def __init__(
        self,
        node: Node,
        config: NodeConfig,
        supervisor: Supervisor,
        names: Sequence[str],
        board: Board,
    ) -> None:
        self._node, self._config, self._board = node, config, board
        self._supervisor, self._names = supervisor, names
        self._checked_at = 0.0
        self.has_moved = False

    def look(self) -> None:
        """Look once.

        Raises:
            TorError: the onion service will never let this node in.
        """
        problem = link.problem_of(self._node.way)
        self._require_hope(problem)
        seen = Seen(
            state_of(self._supervisor.tail(SUPERNODE)),
            self._supervisor.restarts(SUPERNODE),
            problem.message if problem is not None else "",
        )
        pids = {name: self._supervisor.pid(name) for name in self._names}
        self._board.show(seen, pids)

    def _require_hope(self, problem: TorError | None) -> None:
        """After a dial that failed: is it in vain, or has the server gone elsewhere?"""
        forwarder = self._node.way.forwarder
        last = forwarder.last if forwarder is not None else None
        if problem is None or last is None or last.at == self._checked_at:
            return
        self._checked_at = last.at
        if self._knows_another_address() and not self._supervisor.stopping:
            self.has_moved = True
            self._supervisor.request_stop()
        elif last.is_final and last.failures >= FINAL_AFTER:
            raise problem

    def _knows_another_address(self) -> bool:
        before, now = self._node.federation, load_federation(self._node.home)
        return server_address(self._config, before.address) != server_address(
            self._config, now.address
        )


def _check_clock(node: Node, say: Callable[[str], None]) -> None:
    try:
        with link.connect(node.way, node.home.ca.read_text(encoding="utf-8")) as client:
            clock.require_clock(clock.seconds_ahead(client))
    except ClockError:
        raise
    except NetworkError as err:
        say(_("{problem} The node starts and keeps trying.").format(problem=err.message))


def _seconds_ahead(node: Node) -> float | None:
    if link.problem_of(node.way) is not None:
        return None
    try:
        certificate = node.home.ca.read_text(encoding="utf-8")
        with link.connect(node.way, certificate, timeout_s=PROBE_TIMEOUT_S) as client:
            return clock.seconds_ahead(client)
    except (ConscienceError, OSError):
        return None


def _is_up(node: Node) -> bool:
    if link.problem_of(node.way) is not None:
        return False
    try:
        certificate = node.home.ca.read_text(encoding="utf-8")
        with link.connect(node.way, certificate, timeout_s=PROBE_TIMEOUT_S) as client:
            return client.get(clock.HEALTH_PATH).status_code == 200
    except (ConscienceError, OSError):
        return False


def _pid_note(home: NodeHome) -> str:
    pid = running_state(home).get("pid")
    return f" (pid {pid})" if pid else ""
