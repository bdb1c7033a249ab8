"""`flower-client run`: the node's Flower processes, watched.

flower-supernode   talks to the server over TLS with this node's key; its local API listens on a
                   free port of 127.0.0.1 and gives tasks only to an executor with our secret.
flower-superexec   starts a ClientApp for each message, through our own commands (`client.shim`).

A SuperNode ends with status 0 when the server refuses it, and says nothing of a wrong clock: the
judge tells a key that is not admitted and a clock apart from what is worth another try. Flower's
own "[code: 2004]" is no sign of a refused key: for a minute after a crash it means "still online".
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from client import clock, keys, link
from client.commands import shim_argv, write_commands
from client.config import Federation, NodeConfig, NodeHome, load_federation, server_address
from client.shim import FLOWER_NODE, NOT_ADMITTED
from federation import durable
from federation.errors import ClockError, ConscienceError, NetworkError, RevokedError
from federation.flower_env import flower_environment
from federation.language import _
from federation.processes import Child, Stop, Supervisor, free_port, is_listening

logger = logging.getLogger(__name__)

SUPERNODE, SUPEREXEC = "flower-supernode", "flower-superexec"
# What flwr's SuperNode logs, and what it means; the last one in the log holds.
SIGNS = {
    "SuperNode ID:": "connected",
    "Connection successful after": "connected",
    "Connection attempt failed, retrying": "waiting",
}
PROBE_TIMEOUT_S = 5.0
STALE_PROBES = 4


@dataclass(frozen=True)
class Node:
    """What the Flower processes need to know.

    Attributes:
        address: "host:port" of the gateway.
        port: of the SuperNode's local API.
    """

    home: NodeHome
    federation: Federation
    address: str
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
        RevokedError: the server does not admit this node's key (any more).
        ClockError: the clocks differ too much.
        ProcessError: a Flower process could not be started.
    """
    federation = load_federation(home)
    busy = _("This node is already running{pid}.").format(pid=_pid_note(home))
    with durable.locked(home.run_lock, timeout_s=1.0, busy=busy):
        node = prepare(home, config, federation)
        _check_clock(node, say)
        supervisor = Supervisor(children(node, os.environ))
        board = _Board(node, supervisor, say)
        try:
            supervisor.run(each=board.look)
        finally:
            home.running.unlink(missing_ok=True)
            home.superexec_secret.unlink(missing_ok=True)


def prepare(home: NodeHome, config: NodeConfig, federation: Federation) -> Node:
    """Write what the processes read: commands and a fresh executor secret; pick a port."""
    node_keys = keys.load_or_create(home.keys)
    write_commands(home.bin)
    durable.make_folder(home.flwr)
    durable.write_text(home.superexec_secret, secrets.token_hex(32))
    address = server_address(config, federation.address)
    return Node(home, federation, address, node_keys.supernode_private, free_port())


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
        *("--superlink", node.address),
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


def state_of(tail: str) -> str:
    """What a SuperNode's log says: "starting", "connected" or "waiting" (for the server)."""
    found = {sign: tail.rfind(sign) for sign in SIGNS}
    last = max(found, key=lambda sign: found[sign])
    return SIGNS[last] if found[last] >= 0 else "starting"


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


def running_state(home: NodeHome) -> dict[str, object]:
    """What the running node wrote about itself; empty if none runs."""
    try:
        content = json.loads(home.running.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and _is_process(content.get("pid")) else {}


class _Board:
    """Watches the SuperNode's log, tells the owner, and writes `running.json`."""

    def __init__(self, node: Node, supervisor: Supervisor, say: Callable[[str], None]) -> None:
        self._node = node
        self._supervisor = supervisor
        self._say = say
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._shown: tuple[str, int] = ("", -1)

    def look(self) -> None:
        restarts = self._supervisor.restarts(SUPERNODE)
        state = state_of(self._supervisor.tail(SUPERNODE))
        if (state, restarts) == self._shown:
            return
        before, self._shown = self._shown[0], (state, restarts)
        content = {
            "pid": os.getpid(),
            "state": state,
            "address": self._node.address,
            "started_at": self._started,
            "restarts": restarts,
            "children": {name: self._supervisor.pid(name) for name in (SUPERNODE, SUPEREXEC)},
        }
        durable.write_text(self._node.home.running, json.dumps(content) + "\n")
        if state != before:
            self._say(self._sentence(state))

    def _sentence(self, state: str) -> str:
        sentences = {
            "starting": _("Connecting to {address} …"),
            "connected": _("Connected to {address} as node {node}."),
            "waiting": _("{address} does not answer; trying on."),
        }
        return sentences[state].format(address=self._node.address, node=self._node.federation.node)


def _check_clock(node: Node, say: Callable[[str], None]) -> None:
    try:
        with link.connect(node.address, node.home.ca.read_text(encoding="utf-8")) as client:
            clock.require_clock(clock.seconds_ahead(client))
    except ClockError:
        raise
    except NetworkError as err:
        say(_("{problem} The node starts and keeps trying.").format(problem=err.message))


def _seconds_ahead(node: Node) -> float | None:
    try:
        certificate = node.home.ca.read_text(encoding="utf-8")
        with link.connect(node.address, certificate, timeout_s=PROBE_TIMEOUT_S) as client:
            return clock.seconds_ahead(client)
    except (ConscienceError, OSError):
        return None


def _is_up(node: Node) -> bool:
    try:
        certificate = node.home.ca.read_text(encoding="utf-8")
        with link.connect(node.address, certificate, timeout_s=PROBE_TIMEOUT_S) as client:
            return client.get(clock.HEALTH_PATH).status_code == 200
    except (ConscienceError, OSError):
        return False


def _pid_note(home: NodeHome) -> str:
    pid = running_state(home).get("pid")
    return f" (pid {pid})" if pid else ""


def _is_process(pid: object) -> bool:
    import psutil

    return isinstance(pid, int) and psutil.pid_exists(pid)
