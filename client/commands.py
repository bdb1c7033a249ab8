"""The folder of Flower commands that a node's executor finds first on its PATH: all of them ours.

Flower starts `flwr-clientapp` (and, if a server asks for another kind of task, other commands) by
bare name. Each is a two-line script that calls `client.shim` with the absolute interpreter.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from client.shim import REFUSED
from federation import durable

COMMANDS = ("flwr-clientapp", *REFUSED)


def shim_argv(name: str) -> list[str]:
    """Program and first arguments that run Flower command `name` through the shim.

    `-P` keeps the working folder, which may hold anything, off the import path.
    """
    return [sys.executable, "-P", "-m", "client.shim", name]


def write_commands(folder: Path) -> Path:
    """Write every command into `folder` (mode 0700); returns it."""
    for name in COMMANDS:
        if os.name == "nt":
            line = " ".join(f'"{part}"' for part in shim_argv(name))
            durable.write_text(folder / f"{name}.cmd", f"@{line} %*\r\n")
        else:
            line = " ".join(shlex.quote(part) for part in shim_argv(name))
            durable.write_bytes(
                folder / name, f'#!/bin/sh\nexec {line} "$@"\n'.encode(), mode=0o700
            )
    return folder
