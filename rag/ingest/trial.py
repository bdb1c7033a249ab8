"""One look at a feed before it is added: fetched and read once, nothing of it kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from rag.ingest.entries import FeedContent
from rag.ingest.feeds import Feed
from rag.ingest.fetch import Fetcher, Request
from rag.ingest.reader import Reader

SHOWN_TITLES = 3


@dataclass(frozen=True)
class Trial:
    """What a feed holds.

    Attributes:
        url: where it came from in the end.
        moved_to: its lasting new address, or "".
        title: what it calls itself.
        language: of most of its entries, two letters, or "".
        entries: how many came out.
        newest: the latest date of an entry, ISO 8601, or "".
        titles: of the first entries; of one without a title, the start of its text.
        warning: what was wrong with the bytes though entries came out, or "".
    """

    url: str
    moved_to: str
    title: str
    language: str
    entries: int
    newest: str
    titles: tuple[str, ...]
    warning: str

    def to_json(self) -> dict[str, Any]:
        """Plain dict of the fields."""
        return asdict(self)


def try_feed(fetcher: Fetcher, reader: Reader, feed: Feed, max_items: int) -> Trial:
    """Fetch and read `feed` once.

    Args:
        fetcher: goes the node's own way, with its guard.
        reader: open.
        feed: what would be added.
        max_items: further entries are not counted.

    Raises:
        NetworkError: it did not come; says why.
        FormatError: no entry came out.
    """
    fetched = asyncio.run(fetcher.fetch(Request(feed.url)))
    content = reader.feed(
        fetched.body or b"",
        url=fetched.url,
        content_type=fetched.content_type,
        tag=feed.language,
        max_items=max_items,
    )
    return _told(content, fetched.url, fetched.moved_to)


def _told(content: FeedContent, url: str, moved_to: str) -> Trial:
    languages = Counter(entry.language for entry in content.entries if entry.language)
    most = languages.most_common(1)
    first = content.entries[:SHOWN_TITLES]
    return Trial(
        url=url,
        moved_to=moved_to,
        title=content.title,
        language=most[0][0] if most else "",
        entries=len(content.entries),
        newest=max((entry.published for entry in content.entries), default=""),
        titles=tuple(entry.title or entry.text.partition("\n")[0][:100] for entry in first),
        warning=content.warning,
    )
