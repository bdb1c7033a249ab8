"""Ask three questions of the chat: python scripts/smoke_test.py [--home HOME] [--json].

The same as `flower-client smoke`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client.cli import run

if __name__ == "__main__":
    raise SystemExit(run(["smoke", *sys.argv[1:]]))
