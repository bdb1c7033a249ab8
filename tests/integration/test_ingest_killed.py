"""An ingest that is killed at any moment: the next one ends with every document, each once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client.config import NodeHome
from rag.corpus_rows import from_line
from rag.documents import Document
from tests.feed_samples import item, rss
from tests.feed_server import FeedServer, with_etag

ROOT = Path(__file__).resolve().parents[2]
FEEDS, ENTRIES = 8, 60
CODE = "import sys; from client.cli import run; sys.exit(run(sys.argv[1:]))"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")


def command(home: NodeHome) -> list[str]:
    options = ["--home", str(home.root), "ingest", "--allow-loopback", "--json"]
    return [sys.executable, "-c", CODE, *options]


def lines_of(home: NodeHome) -> int:
    return home.corpus.read_bytes().count(b"\n") if home.corpus.exists() else 0


def kill_once_under_way(home: NodeHome, lines: int, extra_s: float) -> bool:
    """Kill an ingest once the corpus has so many lines, a moment later; False if it was done."""
    child = subprocess.Popen(
        command(home),
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(home.root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while child.poll() is None and lines_of(home) <= lines:
        time.sleep(0.002)
    time.sleep(extra_s)
    was_running = child.poll() is None
    if was_running:
        os.kill(child.pid, signal.SIGKILL)  # alone: its child has to notice by itself
    child.wait(60)
    return was_running


def left_of(home: NodeHome) -> list[str]:
    """Processes of the killed runs, children included: they have this home in their environment."""
    return [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/environ")
        if f"TMPDIR={home.root}".encode() in _read(path)
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_killed_again_and_again_nothing_is_lost_and_nothing_is_there_twice(tmp_path: Path) -> None:
    rng, home = random.Random(5), NodeHome(tmp_path / "node")
    pages = {
        f"/{feed}": with_etag(
            rss([item(number) for number in range(feed * 1000, feed * 1000 + ENTRIES)])
        )
        for feed in range(FEEDS)
    }
    with FeedServer(dict(pages)) as server:
        home.datasets.mkdir(parents=True)
        home.feeds.write_text(json.dumps([server.url(path) for path in pages]))
        killed = 0
        for _attempt in range(6):
            lines = lines_of(home)
            killed += kill_once_under_way(home, lines, rng.uniform(0, 0.03))
            if rng.random() < 0.5 and home.corpus.exists():  # as a power cut leaves it
                with home.corpus.open("ab") as file:
                    file.write(b'{"_id": "torn", "form')
        done = subprocess.run(
            command(home), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
    assert killed >= 2
    entries = [from_line(line) for line in home.corpus.read_text().splitlines()]
    assert all(isinstance(entry, Document) for entry in entries)
    assert len(entries) == FEEDS * ENTRIES
    assert len({entry.id for entry in entries}) == FEEDS * ENTRIES
    deadline = time.monotonic() + 10
    while left_of(home) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_of(home) == []
