"""Our entrances to Flower's processes on a server (flwr door).

Run as `python -P -m server.shim NAME …`, NAME being a Flower command:

flwr-serverapp    Flower's own, but the installed code runs, not the bundle. The bundle holds the
                  rooms' code but not their data (base model, gate set), and Flower puts it first on
                  the import path. A room that is imported before that stays the installed one,
                  submodules included.
flower-superexec  Flower's own, but the tokens of tasks are on no command line.
"""

from __future__ import annotations

import importlib
import sys

from federation import redaction, task_token
from federation.bundle import ROOMS
from federation.lone import lone_command


def serverapp() -> None:
    """Run `flwr-serverapp` with the installed rooms."""
    from flwr.superlink.cli import flwr_serverapp

    for room in ROOMS:
        importlib.import_module(room)
    flwr_serverapp()


def superexec() -> None:
    """Run `flower-superexec`."""
    from flwr.supercore.superexec.executor import subprocess_executor

    task_token.hide(subprocess_executor)
    lone_command("flwr.supercore.cli", "flower_superexec").flower_superexec()


def main() -> None:
    """Run the Flower command named by the first argument."""
    redaction.install()
    name, *rest = sys.argv[1:]
    sys.argv = [name, *task_token.take(rest, sys.stdin)]
    {"flwr-serverapp": serverapp, "flower-superexec": superexec}[name]()


if __name__ == "__main__":
    main()
