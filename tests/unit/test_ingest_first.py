"""`contribute` reads the feeds first: once a day, where they are trained on, never in the way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import pytest

from client.cli import run
from client.config import NodeConfig, NodeHome, find_home
from client.feed_list import add_feed
from client.ingesting import Ears, take_before_training
from federation import settings
from rag.ingest.feed_settings import FeedSettings
from tests.adapter_samples import make_spec
from tests.feed_samples import twenty
from tests.feed_server import FeedServer, ok
from tests.global_samples import Chain, joined_home

CONFIG = NodeConfig(feeds=FeedSettings(allow_loopback=True), embedder="none", device="cpu")
DAY = "2026-01-02"


@pytest.fixture
def server() -> Iterator[FeedServer]:
    with FeedServer(pages={"/rss": ok(twenty())}) as made:
        yield made


@pytest.fixture
def home(server: FeedServer) -> NodeHome:
    """A node of a federation whose first global adapter has not come yet."""
    home = joined_home(find_home().root, Chain(make_spec(layers=1)))
    settings.save(CONFIG, home.config)
    add_feed(home, {"url": server.url("/rss")})
    return home


def test_contribute_reads_the_feeds_and_then_goes_on_to_train(
    home: NodeHome, server: FeedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["contribute"]) == 30  # training has no global adapter to start from
    said = capsys.readouterr().err
    assert "Feeds read first: 20 new entries." in said
    assert "No global adapter" in said
    assert server.paths() == ["/rss"]
    assert len(home.corpus.read_text().splitlines()) == 20


def test_a_feed_that_fails_and_a_list_that_is_wrong_stop_no_training(
    home: NodeHome, server: FeedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.pages.clear()
    assert run(["contribute"]) == 0
    told = capsys.readouterr()
    assert "Nothing to contribute" in told.out
    assert "404" in told.err
    home.feeds.write_text("{")
    assert run(["contribute"]) == 0
    told = capsys.readouterr()
    assert "Nothing to contribute" in told.out
    assert "The feeds were not read first" in told.err


@pytest.mark.parametrize(
    "config",
    [
        CONFIG.model_copy(update={"ingest_first": False}),
        CONFIG.model_copy(update={"data": ("notes.jsonl",)}),
    ],
    ids=["not wanted", "not trained on"],
)
def test_nothing_is_asked_where_it_would_serve_nothing(
    home: NodeHome, server: FeedServer, config: NodeConfig
) -> None:
    assert take_before_training(home, config, DAY, Ears()) is None
    assert server.asked == []


def test_a_day_whose_training_has_begun_keeps_its_data(home: NodeHome, server: FeedServer) -> None:
    (home.runs / f"{DAY}-0123456789ab").mkdir(parents=True)
    assert take_before_training(home, CONFIG, DAY, Ears()) is None
    assert server.asked == []
    summary = take_before_training(home, CONFIG, date(2026, 1, 3).isoformat(), Ears())
    assert summary is not None
    assert summary.count("new") == 20
