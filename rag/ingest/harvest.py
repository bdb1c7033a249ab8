"""What a feed brought, into the corpus: new, changed or known already. Pure of any network."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from rag.documents import Document
from rag.ingest.corpus import Corpus, Known
from rag.ingest.entries import Entry, FeedContent
from rag.ingest.feed_state import FeedState, save_state
from rag.ingest.feeds import Feed
from rag.ingest.identity import document_id
from rag.ingest.topics import matching, unique
from rag.ingest.twins import Candidates, candidates_for, find_alike, find_same

TOPIC_CHARACTERS = 20_000  # of a text, in which topics are looked for


@dataclass(frozen=True)
class Wishes:
    """What of a feed is wanted, and how.

    Attributes:
        topics: searched in every entry beside the feed's own.
        languages: entries in others are left out; () keeps all. Those in no known one stay.
        max_items: of one feed.
        is_forced: feeds that are not due are asked too, and what has not changed is read again.
    """

    topics: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    max_items: int = 500
    is_forced: bool = False


@dataclass(frozen=True)
class Harvest:
    """How many entries were new, changed, or in the corpus already; `left_out` by language.

    `matched` counts among the new ones those about a topic.
    """

    new: int = 0
    changed: int = 0
    same: int = 0
    left_out: int = 0
    matched: int = 0


NOTHING = Harvest()


def bring_in(
    corpus: Corpus,
    feed: Feed,
    content: FeedContent,
    wishes: Wishes,
    state: FeedState,
    now: datetime,
) -> Harvest:
    """Write a feed's entries and its state, both or neither.

    Args:
        corpus: written to.
        feed: whose entries they are.
        content: what was read.
        wishes: what is wanted of it.
        state: to be kept; the counts of new entries are added here.
        now: ISO time of the ingest.
    """
    outcomes, matched, stamp = Counter[str](), 0, _Stamp.of(feed, content, wishes, now)
    with corpus.batch():
        entries = _named(feed, content)
        known = corpus.known_among(entries)
        held = _Held(
            known,
            corpus.texts_among(entry.sha256 for entry in entries.values()),
            candidates_for(corpus, [e for n, e in entries.items() if n not in known], feed.url),
        )
        for name, entry in entries.items():
            if wishes.languages and entry.language and entry.language not in wishes.languages:
                outcomes["left out"] += 1
                continue
            document = _document(feed, entry, name, stamp)
            outcome = _put(corpus, document, entry, held)
            outcomes[outcome] += 1
            matched += outcome == "new" and bool(document.topics)
        harvest = Harvest(
            outcomes["new"], outcomes["changed"], outcomes["same"], outcomes["left out"], matched
        )
        judged = replace(
            state,
            title=content.title,
            entries=len(content.entries),
            processed=state.processed + harvest.new,
            matched=state.matched + harvest.matched,
        )
        save_state(corpus, feed.key, judged)
    return harvest


def _named(feed: Feed, content: FeedContent) -> dict[str, Entry]:
    """The first entry of each name."""
    entries: dict[str, Entry] = {}
    for entry in content.entries:
        entries.setdefault(document_id(feed.key, entry.key or entry.sha256), entry)
    return entries


def put_again(corpus: Corpus, document: Document, known: Known, sketch: str | None) -> str:
    """Write a document that is known, as far as anything about it is different.

    Returns:
        "same" or "changed": the latter by its text alone.
    """
    if known.sha256 != document.sha256:
        corpus.put(replace(document, revision=known.revision + 1), sketch)
        return "changed"
    if known.is_for_training != document.is_for_training:
        corpus.put(replace(document, revision=known.revision), sketch)
    return "same"


def _put(corpus: Corpus, document: Document, entry: Entry, held: _Held) -> str:
    known = held.known.get(document.id)
    if known is not None:
        held.texts.add(document.sha256)
        return put_again(corpus, document, known, entry.sketch)
    if document.sha256 in held.texts and find_same(corpus, entry, document.id):
        return "same"
    if find_alike(entry, held.candidates):
        return "same"
    held.texts.add(document.sha256)
    corpus.add(document, entry.sketch)
    return "new"


def counted(harvest: Harvest, outcome: str, is_match: bool) -> Harvest:
    """One more "new", "changed" or "same" document; `is_match`: it is about a topic."""
    if outcome == "new":
        return replace(harvest, new=harvest.new + 1, matched=harvest.matched + is_match)
    if outcome == "changed":
        return replace(harvest, changed=harvest.changed + 1)
    return replace(harvest, same=harvest.same + 1)


class _Held(NamedTuple):
    """What the corpus holds that is like a feed's entries: looked up once for all of them.

    Attributes:
        known: by id.
        texts: hashes of texts that it may hold; those that are put are added.
        candidates: that may say nearly the same.
    """

    known: dict[str, Known]
    texts: set[str]
    candidates: Candidates


class _Stamp(NamedTuple):
    """What is the same for all documents of one feed and one ingest."""

    source_name: str
    topics: tuple[str, ...]
    moment: str

    @classmethod
    def of(cls, feed: Feed, content: FeedContent, wishes: Wishes, now: datetime) -> _Stamp:
        name = feed.name or content.title or feed.host
        topics = unique((*feed.topics, *wishes.topics))
        return cls(name, topics, now.isoformat(timespec="seconds"))


def _document(feed: Feed, entry: Entry, name: str, stamp: _Stamp) -> Document:
    return Document(
        id=name,
        revision=1,
        sha256=entry.sha256,
        kind="feed",
        source=feed.url,
        source_name=stamp.source_name,
        title=entry.title,
        text=entry.text,
        link=entry.link,
        published=entry.published or stamp.moment,
        is_date_guessed=not entry.published,
        language=entry.language,
        topics=matching(stamp.topics, f"{entry.title}\n{entry.text[:TOPIC_CHARACTERS]}"),
        ingested_at=stamp.moment,
        priority=feed.priority,
        licence=entry.licence,
        is_for_training=feed.train,
    )
