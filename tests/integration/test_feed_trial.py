"""A feed looked at before it is added: from the terminal and from the page; nothing is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.cli import run
from tests.chat_bench import chat_of
from tests.feed_samples import item, rss
from tests.feed_server import FeedServer, ok

SPANISH = "El volcán de la isla entró en erupción y la lava llegó al mar por la noche."


def feed() -> bytes:
    entries = [item(n, title=f"Nota {n}", description=SPANISH + str(n)) for n in range(5)]
    newest = "Fri, 08 Aug 2025 10:00:00 GMT"
    entries.append(item(9, title="<b>La última</b>", description=SPANISH, pubDate=newest))
    return rss(entries, title="La Palma")


@pytest.fixture
def server() -> Iterator[FeedServer]:
    with FeedServer() as made:
        made.pages = {"/rss": ok(feed()), "/page": ok(b"<html><p>hola</p></html>")}
        yield made


def test_a_feed_is_shown_and_nothing_of_it_is_stored(
    server: FeedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look = ["--home", str(tmp_path / "node"), "feeds", "test", "--allow-loopback"]
    assert run([*look, server.url("/rss"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["title"], found["language"], found["entries"]) == ("La Palma", "es", 6)
    assert found["newest"].startswith("2025-08-08T10:00")
    assert found["titles"] == ["Nota 0", "Nota 1", "Nota 2"]
    assert run([*look, server.url("/rss")]) == 0
    assert "La Palma" in capsys.readouterr().out
    assert server.paths() == ["/rss", "/rss"]
    left = {path.name for path in (tmp_path / "node").rglob("*") if path.suffix != ".lock"}
    assert left == {"asked.jsonl"}  # that it was asked for, and nothing else


def test_why_it_is_no_feed_is_one_sentence_and_an_exit_code(
    server: FeedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look = ["--home", str(tmp_path / "node"), "feeds", "test"]
    assert run([*look, server.url("/page"), "--allow-loopback"]) == 10
    assert "this is no feed" in capsys.readouterr().err
    assert run([*look, server.url("/gone"), "--allow-loopback"]) == 40
    assert "404" in capsys.readouterr().err
    assert run([*look, "ftp://b.example/"]) == 2
    asked = len(server.asked)
    assert run([*look, server.url("/rss")]) == 40  # the guard of an ingest stands here too
    assert len(server.asked) == asked


def test_the_page_tries_a_feed_and_the_list_stays_empty(server: FeedServer, tmp_path: Path) -> None:
    with chat_of(tmp_path / "node") as bench:
        found = bench.client.post("/api/feeds/test", json={"url": server.url("/rss")})
        assert found.status_code == 200
        assert (found.json()["title"], found.json()["entries"]) == ("La Palma", 6)
        for path, why in (("/page", "this is no feed"), ("/gone", "404")):
            answer = bench.client.post("/api/feeds/test", json={"url": server.url(path)})
            assert answer.status_code == 422
            assert why in answer.json()["detail"]
        refused = bench.client.post("/api/feeds/test", json={"url": "file:///etc/passwd"})
        assert refused.status_code == 422
        assert bench.stranger.post("/api/feeds/test", json={"url": "x"}).status_code == 401
        assert bench.client.get("/api/feeds").json() == []


def test_the_page_offers_the_well_known_feeds_and_adds_them(tmp_path: Path) -> None:
    with chat_of(tmp_path / "node") as bench:
        rows = bench.client.post("/api/feeds/starter", json={"language": "es"})
        assert rows.status_code == 201
        assert len(rows.json()) >= 8
        assert bench.client.post("/api/feeds/starter", json={"language": "xx"}).status_code == 422
        assert len(bench.client.get("/api/feeds").json()) == len(rows.json())
