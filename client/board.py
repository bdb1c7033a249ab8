"""What a running node tells its owner: a sentence per change, and `running.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from client.config import NodeHome
from federation import durable
from federation.language import _

# What flwr's SuperNode logs, and what it means; the last one in the log holds.
SIGNS = {
    "SuperNode ID:": "connected",
    "Connection successful after": "connected",
    "Connection attempt failed, retrying": "waiting",
}


@dataclass(frozen=True)
class Seen:
    """One look at the node.

    Attributes:
        state: tor (is starting), starting, connected or waiting (for the server).
        restarts: of the SuperNode.
        problem: why the last dial through Tor failed, "" if it did not.
    """

    state: str
    restarts: int = 0
    problem: str = ""


class Board:
    """Tells the owner what changes; what did not is not said again.

    Args:
        home: the node's home.
        node: its pseudonym.
        server: the server's address, as it may be shown; "" behind Tor.
        say: told each sentence.
    """

    def __init__(self, home: NodeHome, node: str, server: str, say: Callable[[str], None]) -> None:
        self._home, self._node, self._server, self._say = home, node, server, say
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._shown: Seen | None = None

    def tor_says(self, sentence: str) -> None:
        """Tell how far tor has come."""
        self._say(sentence)
        self._write(Seen("tor", problem=sentence), {})

    def show(self, seen: Seen, pids: Mapping[str, int | None]) -> None:
        """Tell what is new about `seen`; `pids` are those of the node's children."""
        before, self._shown = self._shown, seen
        if seen == before:
            return
        self._write(seen, pids)
        if before is None or seen.state != before.state:
            self._say(self._sentence(seen))

    def _write(self, seen: Seen, pids: Mapping[str, int | None]) -> None:
        content = {
            "pid": os.getpid(),
            **vars(seen),
            "address": self._server,
            "through_tor": not self._server,
            "started_at": self._started,
            "children": dict(pids),
        }
        durable.write_text(self._home.running, json.dumps(content, ensure_ascii=False) + "\n")

    def _sentence(self, seen: Seen) -> str:
        if self._server:
            sentences = {
                "starting": _("Connecting to {address} …"),
                "connected": _("Connected to {address} as node {node}."),
                "waiting": _("{address} does not answer; trying on."),
            }
        else:
            sentences = {
                "starting": _("Tor is ready. Connecting to the server …"),
                "connected": _("Connected through Tor as node {node}."),
                "waiting": _("The server does not answer through Tor; trying on. {problem}"),
            }
        said = sentences[seen.state].format(
            address=self._server, node=self._node, problem=seen.problem
        )
        return said.strip()


def running_state(home: NodeHome) -> dict[str, object]:
    """What the running node wrote about itself; empty if none runs."""
    try:
        content = json.loads(home.running.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and _is_process(content.get("pid")) else {}


def state_of(tail: str) -> str:
    """What a SuperNode's log says: "starting", "connected" or "waiting" (for the server)."""
    found = {sign: tail.rfind(sign) for sign in SIGNS}
    last = max(found, key=lambda sign: found[sign])
    return SIGNS[last] if found[last] >= 0 else "starting"


def _is_process(pid: object) -> bool:
    import psutil

    return isinstance(pid, int) and psutil.pid_exists(pid)
