"""What an ingest changes in the feeds file: new addresses, feeds that are gone or beside the point.

Only new entries are ever judged, each once: a feed that writes nothing is not punished for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from federation.language import _
from rag.ingest.all_feeds import FeedResult
from rag.ingest.feeds import Feed, change_feeds


@dataclass(frozen=True)
class Judgement:
    """When a feed is taken to be beside the point.

    Attributes:
        threshold: its share of entries about a topic is below.
        min_processed: it was not judged before it had brought so many entries.
    """

    threshold: float = 0.15
    min_processed: int = 20


def keep_up(
    path: Path,
    results: Sequence[FeedResult],
    judgement: Judgement | None,
    *,
    has_topics: bool,
) -> list[str]:
    """Change the feeds file after an ingest, if there is anything to change.

    Args:
        path: the feeds file.
        results: of the ingest.
        judgement: None: no feed is switched off for its content.
        has_topics: there are topics beside those of the feeds.

    Returns:
        A sentence for each change.
    """
    by_key: Mapping[str, FeedResult] = {result.feed.key: result for result in results}
    taken = {result.feed.url for result in results}
    said: list[str] = []

    def change(feed: Feed) -> Feed:
        result = by_key.get(feed.key)
        if result is None or result.feed.url != feed.url:
            return feed
        moved = _moved(feed, result, taken)
        why = _why_off(moved, result, judgement, has_topics=has_topics)
        if moved.url != feed.url:
            said.append(_("{feed} has moved to {url}").format(feed=shown(feed), url=moved.url))
        if moved.active and why:
            said.append(_("{feed} is switched off: {why}").format(feed=shown(feed), why=why))
            return moved.model_copy(update={"active": False})
        return moved

    if any(result.moved_to or result.outcome == "gone" for result in results) or judgement:
        change_feeds(path, change)
    return said


def shown(feed: Feed) -> str:
    """A feed's name for people."""
    return feed.name or feed.url


def _moved(feed: Feed, result: FeedResult, taken: set[str]) -> Feed:
    if not result.moved_to or result.moved_to == feed.url or result.moved_to in taken:
        return feed
    former = (*feed.former, feed.url)
    return feed.model_copy(update={"url": result.moved_to, "former": former})


def _why_off(
    feed: Feed, result: FeedResult, judgement: Judgement | None, *, has_topics: bool
) -> str:
    if result.outcome == "gone":
        return result.why
    rate, processed = result.state.match_rate, result.state.processed
    if judgement is None or rate is None or not (has_topics or feed.topics):
        return ""
    if processed < judgement.min_processed or rate >= judgement.threshold:
        return ""
    return _("{matched} of its {processed} entries were about a topic").format(
        matched=result.state.matched, processed=processed
    )
