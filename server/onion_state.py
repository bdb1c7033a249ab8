"""How the onion service is doing, as `up` writes it down and everybody else reads it.

off        nobody runs it
starting   tor is on its way into the network, {percent} % {tag}
published  every descriptor is uploaded
reachable  and a visitor without a key was turned away, which proves both
degraded   {reason}; it is tried on
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from federation import durable
from server.alive import is_alive

Name = Literal["off", "starting", "published", "reachable", "degraded"]
FILE = "state.json"


@dataclass(frozen=True)
class OnionState:
    """One look at it.

    Attributes:
        server: process id of `up`.
        tor: process id of its tor; 0 while there is none.
        at: Unix seconds when this was written.
    """

    state: Name
    percent: int = 0
    tag: str = ""
    reason: str = ""
    server: int = 0
    tor: int = 0
    at: float = field(default_factory=time.time)

    @property
    def is_up(self) -> bool:
        """Whether a server runs that looks after the service."""
        return self.state != "off"

    @property
    def is_settled(self) -> bool:
        """Whether it is known how the start went."""
        return self.state in ("reachable", "degraded")

    def __str__(self) -> str:
        if self.state == "starting":
            return f"starting {self.percent} %{f' {self.tag}' if self.tag else ''}"
        return f"degraded: {self.reason}" if self.state == "degraded" else self.state


OFF = OnionState("off", at=0.0)


def write_state(folder: Path, state: OnionState) -> None:
    """Write it down in the onion folder."""
    durable.write_text(folder / FILE, json.dumps(asdict(state)) + "\n")


def read_state(folder: Path) -> OnionState:
    """What the running server wrote; `OFF` if none runs."""
    try:
        found = OnionState(**json.loads((folder / FILE).read_text(encoding="utf-8")))
        return found if is_alive(found.server, found.at) else OFF
    except (OSError, ValueError, TypeError):
        return OFF
