"""Entries that say nearly the same as a document of another feed, however many do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rag.documents import Document
from rag.ingest.corpus import Corpus, open_corpus
from rag.ingest.duplicates import BANDS, sketch
from rag.ingest.entries import Entry
from rag.ingest.identity import content_sha256
from rag.ingest.twins import MOST_OF_A_BAND, candidates_for, find_alike, find_same
from tests.feed_samples import text_of

OURS, THEIRS = "https://ours.example/rss", "https://theirs.example/rss"
WHEN = "2026-01-01T00:00:00+00:00"


def entry(title: str, text: str, link: str = "") -> Entry:
    named = f"{title}\n{text}"
    hashed = content_sha256(title, text)
    return Entry(title, title, text, link, WHEN, "en", "", hashed, sketch(named))


def document(name: str, source: str, one: Entry) -> Document:
    facts = (one.title, one.text, one.link, WHEN, False, "en", (), WHEN)
    return Document(name, 1, one.sha256, "feed", source, "a feed", *facts)


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Corpus]:
    with open_corpus(tmp_path / "corpus.jsonl", tmp_path / "index.sqlite") as held:
        yield held


def put(corpus: Corpus, source: str, *entries: Entry) -> None:
    with corpus.batch():
        for one in entries:
            corpus.add(document(f"{source} {one.key}", source, one), one.sketch)


def test_alike_counts_across_feeds_alone_and_each_entry_finds_its_own(corpus: Corpus) -> None:
    first, second, third = (entry(f"Title {n}", text_of(n)) for n in range(3))
    put(corpus, THEIRS, first, second)
    nearly = [entry(one.title, f"{one.text} More.") for one in (first, second, third)]
    found = candidates_for(corpus, nearly, OURS)
    assert [find_alike(one, found) for one in nearly] == [
        f"{THEIRS} Title 0",
        f"{THEIRS} Title 1",
        "",
    ]
    assert candidates_for(corpus, nearly, THEIRS) == {}


def test_of_a_crowd_of_alike_documents_few_are_compared(corpus: Corpus) -> None:
    crowd = [entry(f"Number {n}", f"{text_of(1)} {n}") for n in range(3 * MOST_OF_A_BAND)]
    put(corpus, THEIRS, *crowd)
    one = entry("Number x", text_of(1))
    found = candidates_for(corpus, [one], OURS)
    assert max(map(len, found.values())) == MOST_OF_A_BAND
    assert sum(map(len, found.values())) <= MOST_OF_A_BAND * BANDS
    assert find_alike(one, found).startswith(THEIRS)


def test_short_texts_are_the_same_by_their_link_too(corpus: Corpus) -> None:
    short = entry("Weekly links", "Links.", "https://a.example/1?utm_source=x")
    put(corpus, THEIRS, short)
    again = entry("Weekly links", "Links.", "https://a.example/1")
    assert find_same(corpus, again, "other") == f"{THEIRS} Weekly links"
    assert find_same(corpus, entry("Weekly links", "Links.", "https://a.example/2"), "other") == ""
