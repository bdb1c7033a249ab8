"""How this machine finds a tor, and how that tor reaches the network: one settings object."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from federation.language import _

SYSTEM_PORTS = (9050, 9150)  # a system's tor, Tor Browser's
_SOCKS = re.compile(r"^(unix:/\S+|127\.\d+\.\d+\.\d+:\d{1,5}|localhost:\d{1,5}|\[::1\]:\d{1,5})$")


class TorSettings(BaseModel):
    """Part `tor` of `node_config.json` and `server_config.json`.

    Attributes:
        mode: own: start the tor program; system: use one that runs on `SYSTEM_PORTS`; address: use
            the one at `socks`; auto: a system's tor that takes our key, else our own.
        socks: "127.0.0.1:port" or "unix:/path" of a tor's SOCKS port (mode address).
        control: "127.0.0.1:port" of the same tor's control port, "" if it has none.
        program: path of the tor program; "" looks on the PATH and in the usual places.
        bridges: bridge lines as Tor's bridge page gives them; with any, tor uses nothing else.
        transports: name -> path of a pluggable transport's program, for bridges that need one.
        torrc: a file of further torrc lines, included at the end; "" for none.
        start_s: how long a start may take, with progress shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    mode: Literal["auto", "system", "own", "address"] = "auto"
    socks: str = ""
    control: str = ""
    program: str = ""
    bridges: tuple[str, ...] = ()
    transports: dict[str, str] = Field(default_factory=dict)
    torrc: str = ""
    start_s: float = Field(default=300.0, gt=0, le=3600)

    @field_validator("socks", "control")
    @classmethod
    def _is_on_this_machine(cls, value: str) -> str:
        if value and not _SOCKS.match(value):
            raise ValueError(
                _("'{value}' is not a tor on this machine: 127.0.0.1:9050 or unix:/path").format(
                    value=value
                )
            )
        return value
