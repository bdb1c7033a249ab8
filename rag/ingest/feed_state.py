"""What a node remembers of each feed between two ingests: one JSON value a feed, in the index."""

from __future__ import annotations

import json
import random
import sqlite3
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta

from rag.ingest.corpus import Corpus

SHORTEST_S = 15 * 60.0
LONGEST_WISH_S = 12 * 3600.0  # what a feed may ask for: one that is read daily is read every day
LONGEST_S = 24 * 3600.0


@dataclass(frozen=True)
class FeedState:
    """One feed's.

    Attributes:
        etag: of the last answer, "" for none; `modified` (Last-Modified) likewise.
        body_sha256: of the last body that was read whole.
        title: what it calls itself.
        fetched_at: last success, ISO 8601 UTC, "" for never.
        next_at: not to be asked before, ISO 8601 UTC.
        failures: in a row.
        failure: why the last one was, "" after a success.
        entries: in its last body.
        processed: entries ever judged, each once, when it was new.
        matched: of those, how many were about a topic.
    """

    etag: str = ""
    modified: str = ""
    body_sha256: str = ""
    title: str = ""
    fetched_at: str = ""
    next_at: str = ""
    failures: int = 0
    failure: str = ""
    entries: int = 0
    processed: int = 0
    matched: int = 0

    def is_due(self, now: datetime) -> bool:
        """Whether it may be asked again."""
        return not self.next_at or now >= datetime.fromisoformat(self.next_at)

    @property
    def match_rate(self) -> float | None:
        """Share of its new entries that were about a topic; None before the first."""
        return self.matched / self.processed if self.processed else None


def load_state(corpus: Corpus, key: str) -> FeedState:
    """A feed's state; a fresh one if it is not known."""
    row = corpus.db.execute("SELECT state FROM feeds WHERE key = ?", (key,)).fetchone()
    return FeedState() if row is None else _of(row[0])


def read_states(db: sqlite3.Connection) -> dict[str, FeedState]:
    """All feeds' states of an index that was opened for reading."""
    return {str(key): _of(state) for key, state in db.execute("SELECT key, state FROM feeds")}


def _of(text: str) -> FeedState:
    known = {field.name for field in fields(FeedState)}
    values = json.loads(text)
    return FeedState(**{name: value for name, value in values.items() if name in known})


def save_state(corpus: Corpus, key: str, state: FeedState) -> None:
    """Keep it."""
    values = (key, json.dumps(vars(state), ensure_ascii=False))
    corpus.db.execute("INSERT OR REPLACE INTO feeds VALUES (?, ?)", values)


def after_success(state: FeedState, now: datetime, wish_s: float, shortest_s: float) -> FeedState:
    """The state after an answer.

    Args:
        state: before; its etag and hash are the caller's.
        now: of the answer.
        wish_s: how long the feed and its server want to be left alone.
        shortest_s: how long it is left alone in any case.
    """
    pause_s = max(shortest_s, min(wish_s, LONGEST_WISH_S) if shortest_s else 0.0)
    return replace(
        state, fetched_at=_iso(now), next_at=_after(now, pause_s), failures=0, failure=""
    )


def after_failure(
    state: FeedState, now: datetime, why: str, retry_after_s: float | None, rng: random.Random
) -> FeedState:
    """The state after a failure: twice as long a pause each time, to a day, with jitter.

    Args:
        state: before.
        now: of the failure.
        why: a sentence.
        retry_after_s: what the server asked for, None for nothing.
        rng: for the jitter.
    """
    failures = state.failures + 1
    doubled = min(LONGEST_S, SHORTEST_S * 2.0 ** min(failures - 1, 30))
    pause_s = doubled * rng.uniform(0.75, 1.0)
    if retry_after_s is not None:
        pause_s = min(LONGEST_S, max(SHORTEST_S, retry_after_s))
    return replace(state, failures=failures, failure=why, next_at=_after(now, pause_s))


def _after(now: datetime, seconds: float) -> str:
    return _iso(now + timedelta(seconds=seconds))


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
