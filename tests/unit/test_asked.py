"""The record of requests for feeds: every one, host alone, private, bounded, shown to its owner."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client import asked
from client.cli import run
from client.config import find_home
from rag.ingest.fetch import Contact
from tests.feed_samples import twenty
from tests.feed_server import FeedServer, ok

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECRET = "kept-at-home"


def test_requests_come_back_summed_by_host_and_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    assert asked.by_host(asked.read(path)) == ()
    asked.note(path, Contact("a.example", False, 200, 5000), at=MOMENT)
    asked.note(path, Contact("b.example", True, 300, 10), at=MOMENT + timedelta(hours=1))
    asked.note(path, Contact("a.example", True), at=MOMENT + timedelta(hours=2))
    with path.open("a") as file:
        file.write('{"at": "2026-0')
    first, second = asked.by_host(asked.read(path))
    assert (first.host, first.requests, first.through_tor) == ("a.example", 2, 1)
    assert (first.sent_bytes, first.received_bytes) == (200, 5000)
    assert (first.first, first.last) == ("2026-01-02T03:04:05+00:00", "2026-01-02T05:04:05+00:00")
    assert (second.host, second.through_tor) == ("b.example", 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_grew_too_large_keeps_its_newer_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "asked.jsonl"
    monkeypatch.setattr(asked, "MAX_BYTES", 2000)
    for n in range(60):
        asked.note(path, Contact(f"{n}.example", False))
        assert path.stat().st_size <= 2000
    hosts = [entry.host for entry in asked.read(path)]
    assert hosts == [f"{n}.example" for n in range(60 - len(hosts), 60)]
    assert len(hosts) >= 8


def test_what_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "asked.jsonl"
    path.mkdir()
    asked.note(path, Contact("a.example", False))
    assert "asked.jsonl cannot be written" in caplog.text


@pytest.mark.privacy
def test_an_ingest_and_a_look_are_shown_by_host_without_the_addresses_query(
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = find_home()
    to = f"/there?key={SECRET}"
    pages = {f"/rss?key={SECRET}": (302, {"location": to}, b""), to: ok(twenty())}
    with FeedServer(pages=pages) as server:
        url = server.url(f"/rss?key={SECRET}")
        assert run(["feeds", "test", "--allow-loopback", url]) == 0
        assert run(["feeds", "add", url]) == 0
        assert run(["feeds", "add", server.url("/none")]) == 0
        assert run(["ingest", "--allow-loopback"]) == 0
        capsys.readouterr()
        assert run(["privacy", "--json"]) == 0
        (host,) = json.loads(capsys.readouterr().out)["feeds"]
        assert (host["host"], host["through_tor"]) == ("127.0.0.1", 0)
        assert host["requests"] == len(server.asked) == 5
        sent = sum(
            len(f"GET {path} HTTP/1.1\r\n") + sum(len(n) + len(v) + 4 for n, v in said.items()) + 2
            for path, said in server.asked
        )
        assert host["sent_bytes"] == sent
        assert host["received_bytes"] > 2 * len(twenty())
    assert run(["privacy"]) == 0
    text = capsys.readouterr().out
    assert "127.0.0.1" in text
    assert "5 requests for feeds did not go through Tor" in text
    assert "not joined" in text
    assert SECRET not in text + home.asked.read_text()
