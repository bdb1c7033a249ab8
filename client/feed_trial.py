"""A feed looked at once, the way this node fetches, before anything is decided about it."""

from __future__ import annotations

from collections.abc import Callable

from client.asked import noting
from client.config import NodeConfig, NodeHome
from client.feeds_way import open_route
from rag.ingest.feeds import feed_of
from rag.ingest.fetch import Fetcher
from rag.ingest.reader import Reader
from rag.ingest.trial import Trial, try_feed


def look_at(home: NodeHome, config: NodeConfig, url: str, say: Callable[[str], None]) -> Trial:
    """What the feed at `url` holds; nothing of it is stored but that it was asked for.

    Args:
        home: the node's.
        config: its settings.
        url: of an RSS or Atom feed.
        say: told how far tor has come.

    Raises:
        ConfigError: it cannot be the address of a feed.
        NetworkError: it did not come; says why.
        FormatError: no entry came out.
    """
    feed = feed_of({"url": url}, where=url)
    with open_route(home, config, say) as route, Reader() as reader:
        return try_feed(
            Fetcher(route, heard=noting(home.asked)), reader, feed, config.feeds.max_items
        )
