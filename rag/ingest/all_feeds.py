"""All feeds of a node, once: fetched side by side, read by one child, written to the corpus.

A feed that fails is named and costs no other one anything.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from federation.errors import ConscienceError, FormatError, NetworkError, TorError
from federation.language import _
from rag.ingest.corpus import Corpus
from rag.ingest.feed_state import (
    SHORTEST_S,
    FeedState,
    after_failure,
    after_success,
    load_state,
    save_state,
)
from rag.ingest.feeds import Feed
from rag.ingest.fetch import Fetched, Fetcher, FetchError, Request
from rag.ingest.harvest import NOTHING, Harvest, Wishes, bring_in
from rag.ingest.reader import Reader

logger = logging.getLogger(__name__)

HOSTS_AT_ONCE = 8
Outcome = Literal["read", "unchanged", "not due", "gone", "failed"]


@dataclass(frozen=True)
class FeedResult:
    """How one feed fared.

    Attributes:
        feed: as it was before.
        outcome: what happened.
        harvest: what it brought.
        state: as it is now.
        why: a sentence for "failed" and "gone"; a warning otherwise, or "".
        moved_to: its lasting new address, or "".
    """

    feed: Feed
    outcome: Outcome
    state: FeedState
    harvest: Harvest = NOTHING
    why: str = ""
    moved_to: str = ""


Report = Callable[[FeedResult], None]


@dataclass(frozen=True)
class Tools:
    """What an ingest works with, all open."""

    corpus: Corpus
    fetcher: Fetcher
    reader: Reader
    report: Report = lambda _result: None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def due_feeds(
    corpus: Corpus, feeds: Sequence[Feed], wishes: Wishes, now: datetime
) -> tuple[list[Feed], list[FeedResult]]:
    """Active feeds that may be asked now, and results for the active ones that may not yet."""
    due, waiting = [], []
    for feed in feeds:
        if not feed.active:
            continue
        state = load_state(corpus, feed.key)
        if wishes.is_forced or state.is_due(now):
            due.append(feed)
        else:
            waiting.append(FeedResult(feed, "not due", state))
    return due, waiting


def ingest_feeds(tools: Tools, feeds: Sequence[Feed], wishes: Wishes) -> list[FeedResult]:
    """Fetch, read and write each of `feeds`; results in their order.

    Raises:
        ConscienceError: the corpus cannot be written.
        TorError: the way through Tor broke down; what came before it is kept.
    """
    try:
        return asyncio.run(_all(tools, feeds, wishes))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group


async def _all(tools: Tools, feeds: Sequence[Feed], wishes: Wishes) -> list[FeedResult]:
    hosts: dict[str, list[Feed]] = {}
    for feed in feeds:
        hosts.setdefault(feed.host, []).append(feed)
    room = asyncio.Semaphore(HOSTS_AT_ONCE)
    results: dict[str, FeedResult] = {}

    async def one_host(its: list[Feed]) -> None:
        async with room:
            for feed in its:
                result = await _one(tools, feed, wishes)
                results[feed.key] = result
                tools.report(result)

    async with asyncio.TaskGroup() as group:
        for its in hosts.values():
            group.create_task(one_host(its))
    return [results[feed.key] for feed in feeds]


async def _one(tools: Tools, feed: Feed, wishes: Wishes) -> FeedResult:
    state = load_state(tools.corpus, feed.key)
    request = Request(feed.url)
    if not wishes.is_forced:
        request = Request(feed.url, state.etag, state.modified)
    try:
        fetched = await tools.fetcher.fetch(request)
        return await _take(tools, feed, wishes, state, fetched)
    except TorError:
        raise  # the way itself: no feed is to blame
    except (NetworkError, FormatError) as err:
        return _failed(tools, feed, state, err)


async def _take(
    tools: Tools, feed: Feed, wishes: Wishes, state: FeedState, fetched: Fetched
) -> FeedResult:
    moved = fetched.moved_to
    digest = hashlib.sha256(fetched.body or b"").hexdigest()
    is_same = fetched.body is None or (digest == state.body_sha256 and not wishes.is_forced)
    if is_same:
        seen = _seen(state, fetched, state.body_sha256)
        rested = after_success(seen, tools.now(), fetched.wish_s, _shortest(feed))
        with tools.corpus.batch():
            save_state(tools.corpus, feed.key, rested)
        return FeedResult(feed, "unchanged", rested, Harvest(same=state.entries), moved_to=moved)
    content = await asyncio.to_thread(
        tools.reader.feed,
        fetched.body or b"",
        url=fetched.url,
        content_type=fetched.content_type,
        tag=feed.language,
        max_items=wishes.max_items,
    )
    now, wish_s = tools.now(), max(fetched.wish_s, content.ttl_s)
    rested = after_success(_seen(state, fetched, digest), now, wish_s, _shortest(feed))
    harvest = bring_in(tools.corpus, feed, content, wishes, rested, now)
    kept = load_state(tools.corpus, feed.key)
    return FeedResult(feed, "read", kept, harvest, content.warning, moved)


def _seen(state: FeedState, fetched: Fetched, digest: str) -> FeedState:
    return replace(
        state,
        etag=fetched.etag or (state.etag if fetched.body is None else ""),
        modified=fetched.modified or (state.modified if fetched.body is None else ""),
        body_sha256=digest,
    )


def _failed(tools: Tools, feed: Feed, state: FeedState, err: ConscienceError) -> FeedResult:
    logger.info("%s: %s", feed.host, err.message)
    wait_s = err.retry_after_s if isinstance(err, FetchError) else None
    rng = random.Random()  # noqa: S311 - jitter, not a secret
    kept = after_failure(state, tools.now(), err.message, wait_s, rng)
    with tools.corpus.batch():
        save_state(tools.corpus, feed.key, kept)
    if isinstance(err, FetchError) and err.is_gone:
        return FeedResult(feed, "gone", kept, why=_("it is gone for good (410)"))
    return FeedResult(feed, "failed", kept, why=err.message)


def _shortest(feed: Feed) -> float:
    """No pause for a server of this machine: it is our own."""
    try:
        is_own = ipaddress.ip_address(feed.host).is_loopback
    except ValueError:
        is_own = feed.host == "localhost"
    return 0.0 if is_own else SHORTEST_S
