"""`python -m server` is `flower-server`."""

from __future__ import annotations

from server.cli import main

main()
