"""Our entrance to Flower's ServerApp process: the installed code runs, not the bundle (flwr door).

Run as `python -P -m server.shim …` in place of `flwr-serverapp`. The bundle holds the rooms' code
but not their data (base model, gate set), and Flower puts it first on the import path. A room that
is imported before that stays the installed one, submodules included.
"""

from __future__ import annotations

import importlib
import sys

from federation import redaction
from federation.bundle import ROOMS


def main() -> None:
    """Run `flwr-serverapp` with the installed rooms."""
    from flwr.superlink.cli import flwr_serverapp

    redaction.install()
    for room in ROOMS:
        importlib.import_module(room)
    sys.argv[0] = "flwr-serverapp"
    flwr_serverapp()


if __name__ == "__main__":
    main()
