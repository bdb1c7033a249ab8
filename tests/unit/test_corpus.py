"""The corpus file and its index: whatever ends a run, nothing is lost or there twice."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from federation.errors import ConscienceError
from rag.corpus_rows import Removal, from_line
from rag.documents import Document
from rag.ingest.corpus import Corpus, open_corpus
from rag.ingest.duplicates import sketch
from rag.ingest.feed_state import FeedState, load_state, save_state
from rag.ingest.identity import canonical_link, content_sha256, document_id
from tests.feed_samples import text_of


def document(number: int, *, revision: int = 1, source: str = "https://a.example/") -> Document:
    text = text_of(number * 100 + revision)
    return Document(
        id=document_id(source, str(number)),
        revision=revision,
        sha256=content_sha256("T", text),
        kind="feed",
        source=source,
        source_name="A",
        title="T",
        text=text,
        link=f"https://a.example/{number}",
        published="2025-08-05T00:00:00+00:00",
        is_date_guessed=False,
        language="en",
        topics=("ia",),
        ingested_at="2025-08-06T00:00:00+00:00",
        licence="CC0",
    )


class Place:
    """A corpus of a test."""

    def __init__(self, folder: Path) -> None:
        self.path, self.index = folder / "corpus.jsonl", folder / "rag" / "index.sqlite"

    def open(self) -> Corpus:
        return Corpus(self.path, self.index)

    def fill(self, *documents: Document | Removal) -> None:
        with self.open() as corpus, corpus.batch():
            for each in documents:
                corpus.put(each)

    def lines(self) -> list[Document | Removal]:
        return [from_line(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_is_put_is_in_the_file_and_known_to_the_next_run(place: Place) -> None:
    place.fill(document(1), document(2))
    place.fill(document(1, revision=2), Removal(document(2).id))
    assert place.lines()[2:] == [document(1, revision=2), Removal(document(2).id)]
    with place.open() as corpus:
        assert corpus.count() == 1
        known = corpus.known(document(1).id)
        assert known == (2, document(1, revision=2).sha256, True)
        assert corpus.known(document(2).id) is None
    assert place.path.stat().st_mode & 0o777 == place.index.stat().st_mode & 0o777 == 0o600


def fail_in_a_batch(corpus: Corpus) -> None:
    with corpus.batch():
        corpus.put(document(2))
        raise ZeroDivisionError


def test_a_batch_that_fails_leaves_nothing_in_file_or_index(place: Place) -> None:
    place.fill(document(1))
    before = place.path.read_bytes()
    with place.open() as corpus:
        with pytest.raises(ZeroDivisionError):
            fail_in_a_batch(corpus)
        assert corpus.count() == 1
    assert place.path.read_bytes() == before


@pytest.mark.parametrize(
    "torn", [b"{", b'{"_id": "x", "format": 1, "tex', b"\xf0\x9f", b"x" * 200_000]
)
def test_a_torn_last_line_is_cut_back(place: Place, torn: bytes) -> None:
    place.fill(document(1), document(2))
    whole = place.path.read_bytes()
    place.path.write_bytes(whole + torn)
    place.fill(document(3))
    assert place.path.read_bytes().startswith(whole)
    assert place.lines() == [document(1), document(2), document(3)]


def test_a_file_of_one_torn_line_is_emptied(place: Place) -> None:
    place.path.write_bytes(b"torn")
    place.fill(document(1))
    assert place.lines() == [document(1)]


def test_lines_that_the_index_never_heard_of_are_read_on(place: Place) -> None:
    place.fill(document(1))
    old = place.index.read_bytes()
    place.fill(document(2), document(1, revision=2))
    place.index.write_bytes(old)  # killed between the file and the index
    with place.open() as corpus:
        assert corpus.count() == 2
        known = corpus.known(document(1).id)
        assert known is not None
        assert known.revision == 2


@pytest.mark.parametrize("damage", ["gone", "rubbish", "older format"])
def test_an_index_that_is_lost_is_made_anew_from_the_file(place: Place, damage: str) -> None:
    place.fill(document(1), document(2), Removal(document(2).id))
    if damage == "gone":
        place.index.unlink()
    elif damage == "rubbish":
        place.index.write_bytes(b"rubbish" * 1000)
    else:
        with sqlite3.connect(place.index) as db:
            db.execute("UPDATE facts SET value = '1' WHERE name = 'format'")
            db.execute("UPDATE documents SET sketch = 'AAAA'")
        db.close()
    with place.open() as corpus:
        assert corpus.count() == 1
        (kept,) = corpus.db.execute("SELECT sketch FROM documents").fetchone()
        assert kept == sketch(f"T\n{document(1).text}")
        assert corpus.known(document(1).id) is not None


@pytest.mark.parametrize("change", ["gone", "shorter", "another"])
def test_another_file_than_the_index_knew_lets_every_feed_be_read_whole_again(
    place: Place, change: str
) -> None:
    place.fill(document(1), document(2))
    state = FeedState(etag='"x"', body_sha256="y", next_at="2099-01-01T00:00:00+00:00", processed=5)
    with place.open() as corpus:
        save_state(corpus, "feed", state)
    lines = place.path.read_bytes().splitlines(keepends=True)
    if change == "gone":
        place.path.unlink()
    elif change == "shorter":
        place.path.write_bytes(lines[0])
    else:
        place.path.write_bytes(lines[1].replace(b'"T"', b'"S"') * 3)
    with place.open() as corpus:
        assert corpus.count() == (0 if change == "gone" else 1)
        assert load_state(corpus, "feed") == FeedState(processed=5)


def test_lines_of_others_are_passed_over(place: Place) -> None:
    place.path.write_text('{"title": "old row"}\nnot json\n')
    place.fill(document(1))
    with place.open() as corpus:
        assert corpus.count() == 1
    assert place.path.read_text().startswith('{"title": "old row"}\nnot json\n')


def test_two_at_once_is_refused(place: Place) -> None:
    with (
        open_corpus(place.path, place.index),
        pytest.raises(ConscienceError, match="Another ingest"),
        open_corpus(place.path, place.index),
    ):
        pass


def test_a_full_disk_is_a_sentence_and_takes_nothing_along(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.fill(document(1))
    before = place.path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with place.open() as corpus:
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            with pytest.raises(ConscienceError, match="No space left"), corpus.batch():
                corpus.put(document(2))
        assert place.path.read_bytes() == before
        with corpus.batch():
            corpus.put(document(2))
    assert place.lines() == [document(1), document(2)]


def test_a_change_of_mind_about_training_is_written_for_old_documents_too(place: Place) -> None:
    other = document(3, source="https://b.example/")
    place.fill(document(1), document(1, revision=2), document(2), other)
    with place.open() as corpus:
        assert corpus.relabel("https://a.example/", is_for_training=False) == 2
        assert corpus.relabel("https://a.example/", is_for_training=False) == 0
    expected = [
        replace(each, is_for_training=False) for each in (document(1, revision=2), document(2))
    ]
    assert place.lines()[4:] == expected
    assert [json.loads(line)["train"] for line in place.path.read_text().splitlines()[3:]] == [
        True,
        False,
        False,
    ]


def test_a_text_with_lone_surrogates_can_be_written(place: Place) -> None:
    place.fill(replace(document(1), text="bad \ud800 text"))
    with place.open() as corpus:
        assert corpus.count() == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://a.example/x", "https://www.a.example/x/"),
        ("https://a.example/x?utm_source=rss&id=1", "https://a.example/x?id=1#top"),
        ("https://A.EXAMPLE/x", "https://a.example/x"),
    ],
)
def test_links_that_differ_in_nothing_that_counts_are_the_same(one: str, other: str) -> None:
    assert canonical_link(one) == canonical_link(other)
    assert canonical_link(one) != canonical_link("https://a.example/y")


def test_spaces_make_no_other_content_and_a_word_does() -> None:
    assert content_sha256("a  b", "c\n\nd") == content_sha256("a b", "c d")
    assert content_sha256("a", "b c") != content_sha256("a b", "c")
