"""The shipped lists of feeds: sound, never learnt from unasked, added once, read as any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import feed_list
from client.cli import run
from client.config import NodeHome
from client.feed_list import add_feed, add_starter, change_feed, starter_feeds
from rag.ingest.address_guard import place_of, require_public_name, require_web_port
from rag.ingest.feeds import read_feeds
from tests.feed_samples import twenty
from tests.feed_server import FeedServer, ok


@pytest.mark.parametrize("language", ["es", "en"])
def test_every_starter_feed_is_public_over_https_named_and_not_learnt_from(language: str) -> None:
    feeds = starter_feeds(language)
    assert len(feeds) >= 8
    assert len({feed.name for feed in feeds}) == len({feed.url for feed in feeds}) == len(feeds)
    for feed in feeds:
        place = place_of(feed.url)
        require_public_name(place.host)
        require_web_port(place)
        assert (place.scheme, feed.language, feed.train) == ("https", language, False)
        assert feed.name


def test_starter_feeds_are_added_once_beside_those_that_are_there(tmp_path: Path) -> None:
    home = NodeHome(tmp_path)
    own = add_feed(home, {"url": "https://a.example/rss"})
    known = starter_feeds("es")[0]
    add_feed(home, {"url": known.url, "name": "mine", "train": True})
    assert len(add_starter(home, "es")) == len(starter_feeds("es")) - 1
    assert add_starter(home, "es") == []
    held = read_feeds(home.feeds)
    assert held[0] == own
    assert (held[1].name, held[1].train) == ("mine", True)  # its owner's choice stays
    change_feed(home, known.url, lambda _feed: None)
    assert [feed.url for feed in add_starter(home, "es")] == [known.url]


def test_an_ingest_of_a_starter_list_reads_it_through_the_guard_and_keeps_our_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FeedServer(pages={"/rss": ok(twenty())}) as server:
        shipped = tmp_path / "starter" / "feeds.es.json"
        shipped.parent.mkdir()
        shipped.write_text(f'["{server.url("/rss")}"]')
        monkeypatch.setattr(feed_list, "STARTER", shipped.parent)
        before = shipped.read_bytes()
        ingest = ["--home", str(tmp_path / "node"), "ingest", "--feeds", "starter-es"]
        assert run(ingest) == 1  # this machine is no public address
        assert server.asked == []
        assert run([*ingest, "--allow-loopback", "--force"]) == 0
        assert "new=20" in capsys.readouterr().out
        assert shipped.read_bytes() == before
        assert read_feeds(NodeHome(tmp_path / "node").feeds)[0].url == server.url("/rss")
