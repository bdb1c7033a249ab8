"""The home's feeds file as the commands `feeds …` change it, and how each feed fares."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from client.config import NodeHome
from federation import durable
from federation.errors import UsageError
from federation.language import _
from rag.ingest.feed_state import FeedState, read_states
from rag.ingest.feeds import Feed, feed_of, read_feeds, write_feeds
from rag.ingest.upkeep import shown

STARTER = Path(__file__).parent / "starter"
STARTERS = {f"starter-{code}": code for code in ("es", "en")}  # as `ingest --feeds` names them


def feed_overview(home: NodeHome) -> list[dict[str, Any]]:
    """One row a feed: what the file says, and what is remembered of it."""
    feeds = read_feeds(home.feeds) if home.feeds.exists() else ()
    states: Mapping[str, FeedState] = {}
    if home.corpus_index.exists():
        address = f"{home.corpus_index.as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as db:
            states = read_states(db)
    return [_row(feed, states.get(feed.key, FeedState())) for feed in feeds]


def add_feed(home: NodeHome, row: Mapping[str, Any]) -> Feed:
    """Add a feed to the file; makes the file if there is none.

    Raises:
        ConfigError: it cannot be a feed.
        UsageError: it is there already.
    """
    feed = feed_of(dict(row), where=str(row["url"]))
    with _locked(home):
        feeds = read_feeds(home.feeds) if home.feeds.exists() else ()
        if any(feed.url in (each.url, *each.former) for each in feeds):
            raise UsageError(_("{url} is among the feeds already").format(url=feed.url))
        write_feeds(home.feeds, (*feeds, feed))
    return feed


def starter_feeds(language: str) -> tuple[Feed, ...]:
    """The shipped list of well-known public feeds in "es" or "en"."""
    return read_feeds(STARTER / f"feeds.{language}.json")


def add_starter(home: NodeHome, language: str) -> list[Feed]:
    """Add the shipped feeds of a language that are not in the file yet; returns those."""
    with _locked(home):
        feeds = read_feeds(home.feeds) if home.feeds.exists() else ()
        held = {url for each in feeds for url in (each.url, *each.former)}
        new = [feed for feed in starter_feeds(language) if feed.url not in held]
        if new:
            write_feeds(home.feeds, (*feeds, *new))
    return new


def change_feed(home: NodeHome, named: str, change: Callable[[Feed], Feed | None]) -> None:
    """Change one feed of the file, or take it out (None).

    Raises:
        UsageError: no feed, or more than one, has that address or name.
    """
    with _locked(home):
        feeds = read_feeds(home.feeds)
        found = [feed for feed in feeds if named in (feed.url, feed.name, shown(feed))]
        if len(found) != 1:
            sentence = (
                _("more than one feed is called '{name}': give its address")
                if found
                else _("no feed is called '{name}'")
            )
            raise UsageError(sentence.format(name=named), hint="flower-client feeds list")
        after = (change(feed) if feed is found[0] else feed for feed in feeds)
        write_feeds(home.feeds, [feed for feed in after if feed is not None])


def _locked(home: NodeHome) -> Any:  # noqa: ANN401 - a context manager
    busy = _("Another ingest is running.")
    return durable.locked(home.corpus_index.with_suffix(".lock"), timeout_s=2.0, busy=busy)


def _row(feed: Feed, state: FeedState) -> dict[str, Any]:
    return {
        **feed.model_dump(mode="json"),
        "name": feed.name or state.title or feed.host,
        "entries": state.entries,
        "fetched_at": state.fetched_at,
        "next_at": state.next_at,
        "failures": state.failures,
        "failure": state.failure,
        "match_rate": state.match_rate,
    }
