"""This node's ingest: settings, feeds file, way and corpus put together, and what came of it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.asked import noting
from client.config import NodeConfig, NodeHome
from client.feeds_way import open_route
from federation import durable
from federation.errors import ConscienceError
from federation.language import _
from rag.ingest.all_feeds import FeedResult, Tools, due_feeds, ingest_feeds
from rag.ingest.all_files import FileResult, FileTools, ingest_path
from rag.ingest.corpus import Corpus, open_corpus
from rag.ingest.feeds import Feed, read_feeds
from rag.ingest.fetch import Fetcher
from rag.ingest.harvest import Wishes
from rag.ingest.reader import Reader
from rag.ingest.upkeep import Judgement, keep_up, shown

STATS_FORMAT = 1
FILE_DEADLINE_S = 120.0  # a PDF of a thousand pages
Result = FeedResult | FileResult


@dataclass(frozen=True)
class Places:
    """The files of one ingest."""

    feeds: Path
    corpus: Path
    index: Path
    stats: Path


@dataclass(frozen=True)
class Ears:
    """Who is told what: how many feeds there are to fetch, each result, sentences."""

    begin: Callable[[int], None] = lambda _total: None
    report: Callable[[Result], None] = lambda _result: None
    say: Callable[[str], None] = lambda _sentence: None


@dataclass(frozen=True)
class Summary:
    """What came of an ingest.

    Attributes:
        results: one a feed or file that was looked at.
        notes: what was changed in the feeds file, in sentences.
        documents: in the corpus now.
        seconds: it took.
    """

    results: tuple[Result, ...]
    notes: tuple[str, ...]
    documents: int
    seconds: float

    def count(self, what: str) -> int:
        """Sum of "new", "changed", "same" or "left_out" over all results."""
        return sum(getattr(result.harvest, what) for result in self.results)

    @property
    def failed(self) -> tuple[Result, ...]:
        """Those that failed."""
        return tuple(each for each in self.results if each.outcome in ("failed", "gone"))

    @property
    def removed(self) -> int:
        """Documents of files that are no longer there."""
        return sum(each.removed for each in self.results if isinstance(each, FileResult))

    @property
    def is_failure(self) -> bool:
        """Whether something failed and nothing worked."""
        tried = [each for each in self.results if each.outcome != "not due"]
        return bool(tried) and len(self.failed) == len(tried)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        counts = {what: self.count(what) for what in ("new", "changed", "same")}
        return {
            **counts,
            "failed": len(self.failed),
            "removed": self.removed,
            "left_out": self.count("left_out"),
            "documents": self.documents,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
            "sources": [_row(result) for result in self.results],
        }


def places_of(home: NodeHome, feeds: Path | None, out: Path | None, stats: Path | None) -> Places:
    """The home's own files, or those that were named; another corpus has its index beside it."""
    corpus = out.absolute() if out else home.corpus
    is_own = corpus == home.corpus
    index = home.corpus_index if is_own else corpus.with_name(f".{corpus.name}.sqlite")
    return Places(feeds or home.feeds, corpus, index, stats or home.feed_stats)


def take_feeds(
    home: NodeHome,
    config: NodeConfig,
    places: Places,
    judgement: Judgement | None,
    *,
    is_forced: bool,
    ears: Ears,
) -> Summary:
    """Fetch all feeds that are due.

    Args:
        home: the node's.
        config: its settings.
        places: where everything lies.
        judgement: None: no feed is switched off for its content.
        is_forced: feeds that are not due, too.
        ears: told of it.

    Raises:
        ConfigError: the feeds file is wrong.
        TorError: Tor is needed and does not work.
        ConscienceError: another ingest runs, or the corpus cannot be written.
    """
    started = time.monotonic()
    feeds = read_feeds(places.feeds)
    wishes = Wishes(config.feeds.topics, config.feeds.languages, config.feeds.max_items, is_forced)
    with open_corpus(places.corpus, places.index) as corpus:
        _relabel(corpus, feeds)
        due, waiting = due_feeds(corpus, feeds, wishes, datetime.now(UTC))
        ears.begin(len(due))
        results = _fetch(home, config, corpus, due, wishes, ears) if due else []
        topics = bool(wishes.topics)
        notes = keep_up(places.feeds, results, judgement, has_topics=topics)
        summary = _summary([*results, *waiting], notes, corpus, started)
    content = {"format": STATS_FORMAT, "at": _now(), **summary.to_json()}
    durable.write_text(places.stats, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return summary


def take_before_training(
    home: NodeHome, config: NodeConfig, day: str, ears: Ears
) -> Summary | None:
    """Fetch the feeds that are due, once a day, so that it is today's texts that are learnt from.

    A day whose training has begun keeps its data: a killed run is finished as it stood, and a
    second one the same day makes no second package. Whatever fails here is said and passed over.

    Args:
        home: the node's.
        config: its settings.
        day: local date, ISO, as the run's folder begins.
        ears: told of it.

    Returns:
        None if nothing was fetched: no feeds, not wanted, not trained on, or too late.
    """
    files = {home.root / Path(name).expanduser() for name in config.data}
    is_late = any(home.runs.glob(f"{day}-*"))
    if not (config.ingest_first and home.feeds.exists() and home.corpus in files) or is_late:
        return None
    try:
        places = places_of(home, None, None, None)
        return take_feeds(home, config, places, None, is_forced=False, ears=ears)
    except (ConscienceError, OSError, sqlite3.Error) as err:
        ears.say(_("The feeds were not read first: {why}").format(why=err))
        return None


def take_paths(
    config: NodeConfig,
    places: Places,
    paths: Sequence[Path],
    *,
    is_for_training: bool,
    ears: Ears,
) -> Summary:
    """Take in files and folders.

    Args:
        config: the node's settings.
        places: where everything lies.
        paths: files and folders.
        is_for_training: whether their texts may be learnt from.
        ears: told of it.

    Raises:
        UsageError: a path is not there and never was.
        ConscienceError: another ingest runs, or the corpus cannot be written.
    """
    started = time.monotonic()
    results: list[Result] = []
    with (
        open_corpus(places.corpus, places.index) as corpus,
        Reader(deadline_s=FILE_DEADLINE_S) as reader,
    ):
        topics = config.feeds.topics
        tools = FileTools(corpus, reader, topics, is_for_training, ears.report)
        for path in paths:
            results += ingest_path(tools, path)
        return _summary(results, [], corpus, started)


def name_of(result: Result) -> str:
    """A feed's or file's name for people."""
    return result.path if isinstance(result, FileResult) else shown(result.feed)


def _fetch(
    home: NodeHome,
    config: NodeConfig,
    corpus: Corpus,
    due: Sequence[Feed],
    wishes: Wishes,
    ears: Ears,
) -> list[FeedResult]:
    with open_route(home, config, ears.say) as route, Reader() as reader:
        fetcher = Fetcher(route, heard=noting(home.asked))
        return ingest_feeds(Tools(corpus, fetcher, reader, ears.report), due, wishes)


def _relabel(corpus: Corpus, feeds: Sequence[Feed]) -> None:
    """Carry each feed's `train` over to what it brought before."""
    for feed in feeds:
        for source in (*feed.former, feed.url):
            corpus.relabel(source, is_for_training=feed.train)


def _summary(
    results: Sequence[Result], notes: Sequence[str], corpus: Corpus, started: float
) -> Summary:
    return Summary(tuple(results), tuple(notes), corpus.count(), time.monotonic() - started)


def _row(result: Result) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name_of(result),
        "outcome": result.outcome,
        "why": result.why,
        "new": result.harvest.new,
        "changed": result.harvest.changed,
        "same": result.harvest.same,
    }
    if isinstance(result, FileResult):
        return {"path": result.path, **row, "removed": result.removed}
    state = result.state
    rate = state.match_rate
    return {
        "url": result.feed.url,
        **row,
        "left_out": result.harvest.left_out,
        "moved_to": result.moved_to,
        "processed": state.processed,
        "matched": state.matched,
        "match_rate": None if rate is None else round(rate, 4),
        "failures": state.failures,
        "fetched_at": state.fetched_at,
        "next_at": state.next_at,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
