"""The feeds file: both forms, named mistakes, changed only where it has to be."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from federation.errors import ConfigError
from rag.ingest.corpus import Corpus
from rag.ingest.feed_state import (
    LONGEST_S,
    LONGEST_WISH_S,
    SHORTEST_S,
    FeedState,
    after_failure,
    after_success,
    load_state,
    read_states,
    save_state,
)
from rag.ingest.feeds import Feed, change_feeds, read_feeds, write_feeds

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_bare_list_and_an_object_with_all_keys_are_read(tmp_path: Path) -> None:
    bare = read_feeds(write(tmp_path / "a.json", ["https://a.example/rss", "http://b.example/"]))
    assert [feed.url for feed in bare] == ["https://a.example/rss", "http://b.example/"]
    assert bare[0] == Feed(url="https://a.example/rss")
    row = {
        "url": "https://a.example/rss",
        "name": "A",
        "active": False,
        "priority": 1,
        "topics": ["ia", "salud"],
        "language": "es",
        "train": False,
    }
    (feed,) = read_feeds(write(tmp_path / "b.json", {"feeds": [row]}))
    assert feed.model_dump(mode="json") == row | {"former": []}


def test_topics_may_be_one_text_and_a_feed_named_twice_is_one(tmp_path: Path) -> None:
    rows = [{"url": "https://a.example/", "topics": "ia; salud,ia"}, "https://b.example/"]
    feeds = read_feeds(write(tmp_path / "a.json", [*rows, "https://b.example/"]))
    assert feeds[0].topics == ("ia", "salud")
    assert len(feeds) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"url": "https://a.example/", "prioriti": 1}], ["feed 1", "prioriti", "'priority'"]),
        (["https://a.example/", {"url": "ftp://b.example/"}], ["feed 2", "'url'", "ftp://b"]),
        ([{"url": "https://a.example/", "priority": 9}], ["feed 1", "'priority'"]),
        ([{"name": "x"}], ["feed 1", "'url'"]),
        ([{"url": "file:///etc/passwd"}], ["feed 1", "--path"]),
        ([{"url": "https://u:p@a.example/"}], ["feed 1", "password"]),
        ([{"url": "https://a.example/ x"}], ["feed 1", "space"]),
        ([{"url": "http://[::1"}], ["feed 1", "'url'"]),
        ([7], ["feed 1", "neither"]),
        ({"feed": []}, ["'feed'"]),
        ({"feeds": "x"}, ["no list"]),
        ("x", ["no list"]),
        (["https://a.example/"] * 5001, ["5000"]),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, content: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_feeds(write(tmp_path / "feeds.json", content))
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize("data", [b"{", b"\xff\xff", b"[" * 100_000, b""])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "feeds.json").write_bytes(data)
    with pytest.raises(ConfigError, match=r"feeds\.json"):
        read_feeds(tmp_path / "feeds.json")
    with pytest.raises(ConfigError, match="there is no feeds file"):
        read_feeds(tmp_path / "other.json")


def test_the_file_is_written_only_if_something_changes_and_keeps_its_mode(tmp_path: Path) -> None:
    path = write(tmp_path / "feeds.json", ["https://a.example/", "https://b.example/"])
    path.chmod(0o644)
    before = path.read_bytes()
    assert not change_feeds(path, lambda feed: feed)
    assert path.read_bytes() == before
    moved = {"url": "https://c.example/", "former": ("https://a.example/",)}
    assert change_feeds(
        path, lambda feed: feed.model_copy(update=moved) if "a.ex" in feed.url else feed
    )
    first, second = read_feeds(path)
    assert (first.url, first.key) == ("https://c.example/", "https://a.example/")
    assert second.key == second.url == "https://b.example/"
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    feeds = (Feed(url="https://a.example/", name="ñ", train=False), Feed(url="http://b.example/"))
    write_feeds(tmp_path / "feeds.json", feeds)
    assert read_feeds(tmp_path / "feeds.json") == feeds


def test_a_feed_is_left_alone_for_a_quarter_of_an_hour_or_as_long_as_it_asks() -> None:
    for wish_s, pause_s in ((0, SHORTEST_S), (3600, 3600), (10**7, LONGEST_WISH_S)):
        state = after_success(FeedState(failures=3, failure="x"), NOW, wish_s, SHORTEST_S)
        assert (state.failures, state.failure) == (0, "")
        assert not state.is_due(NOW + timedelta(seconds=pause_s - 1))
        assert state.is_due(NOW + timedelta(seconds=pause_s))
    assert after_success(FeedState(), NOW, 3600, 0.0).is_due(NOW)


def test_failures_double_the_pause_up_to_a_day() -> None:
    state, pauses = FeedState(), []
    for _number in range(12):
        state = after_failure(state, NOW, "down", None, random.Random(1))
        pauses.append((datetime.fromisoformat(state.next_at) - NOW).total_seconds())
    assert state.failures == 12
    assert 0.7 * SHORTEST_S < pauses[0] <= SHORTEST_S
    assert 1.4 * SHORTEST_S < pauses[1] <= 2 * SHORTEST_S
    assert 0.7 * LONGEST_S < pauses[-1] <= LONGEST_S


@pytest.mark.parametrize(
    ("asked_s", "pause_s"), [(0, SHORTEST_S), (7200, 7200), (10**8, LONGEST_S)]
)
def test_what_the_server_asks_for_is_done_within_reason(asked_s: float, pause_s: float) -> None:
    state = after_failure(FeedState(), NOW, "busy", asked_s, random.Random(1))
    assert datetime.fromisoformat(state.next_at) - NOW == timedelta(seconds=pause_s)


def test_a_state_is_kept_and_one_of_a_newer_version_is_read(tmp_path: Path) -> None:
    state = FeedState(etag='"x"', entries=3, processed=20, matched=5)
    with Corpus(tmp_path / "c.jsonl", tmp_path / "i.sqlite") as corpus:
        save_state(corpus, "a", state)
        newer = '{"etag": "y", "mood": "fine"}'
        corpus.db.execute("INSERT INTO feeds VALUES ('b', ?)", (newer,))
    with Corpus(tmp_path / "c.jsonl", tmp_path / "i.sqlite") as corpus:
        assert load_state(corpus, "a") == state
        assert load_state(corpus, "z") == FeedState()
        assert read_states(corpus.db) == {"a": state, "b": FeedState(etag="y")}
    assert state.match_rate == 0.25
    assert FeedState().match_rate is None
