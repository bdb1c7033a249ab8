"""Fetches the feeds into the corpus: python scripts/rss_ingest.py --feeds datasets/rss_feeds.json.

The same as `flower-client ingest`, with its options; see docs/ingest.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client.cli import run

if __name__ == "__main__":
    raise SystemExit(run(["ingest", *sys.argv[1:]]))
