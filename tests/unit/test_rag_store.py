"""The store: documents in, chunks and words with them, updates and removals whole."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from federation.errors import ConscienceError, FormatError
from rag.documents import Document
from rag.retrieval import vectors
from rag.retrieval.chunks import Chunk, Cutter
from rag.retrieval.store import VERSION, Store, timestamp
from tests.corpora import document, numbered

CUTTER = Cutter(limit=20)
STAMP = '{"dim": 2}'


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "rag") as opened:
        yield opened


def put(store: Store, *documents: Document, cutter: Cutter = CUTTER) -> None:
    with store.transaction():
        for one in documents:
            store.put(one, cutter.cut(one), cut=cutter.stamp, reading=0)


def rows(store: Store, query: str) -> list[tuple[object, ...]]:
    return store.database.execute(query).fetchall()


def with_vectors(store: Store) -> int:
    space = vectors.space_of(store, STAMP)
    wanted = vectors.missing(store, space)
    vectors.add(store, space, wanted, np.ones((len(wanted), 2), np.float32))
    return space


def test_a_document_comes_back_as_it_was_put(store: Store) -> None:
    for one in (document(0), document(1, topics=(), kind="file", is_date_guessed=True)):
        put(store, one)
        assert store.document(one.id) == one
    assert store.document("f" * 32) is None
    assert list(store.documents()) == [document(0).id, document(1).id]


def test_chunks_are_slices_and_every_chunk_has_its_words(store: Store) -> None:
    put(store, document(0))
    text = document(0).text
    found = [text[a:b] for a, b in rows(store, "SELECT start, stop FROM chunks ORDER BY number")]
    assert len(found) == 3
    assert " ".join(found).replace("\n\n", " ").startswith(text[:40])
    words = rows(store, "SELECT stems, around FROM words ORDER BY rowid")
    assert "es:erupcion" in str(words[0][0]).split()
    assert all("es:volcan" in str(stems).split() for stems, _around in words), "the title's"
    assert "es:erupcion" in str(words[1][1]).split(), "the neighbour's"
    assert "es:erupcion" not in str(words[2][1]).split()


def test_a_new_revision_replaces_chunks_words_and_vectors(store: Store) -> None:
    put(store, document(0), document(1))
    space = with_vectors(store)
    before = rows(store, "SELECT number FROM chunks ORDER BY number")
    put(store, document(0, revision=2, text="Todo cambió."))
    assert store.count("documents") == 2
    assert store.count("chunks") == store.count("words") == len(before) - 2
    assert len(vectors.missing(store, space)) == 1
    assert rows(store, "SELECT max(number) FROM chunks")[0][0] > before[-1][0]


def test_a_change_of_what_is_not_searched_keeps_chunks_and_vectors(store: Store) -> None:
    put(store, document(0))
    space = with_vectors(store)
    put(store, document(0, link="https://example.org/moved", topics=("otro",)))
    assert vectors.missing(store, space) == []
    found = store.document(document(0).id)
    assert found is not None
    assert found.link == "https://example.org/moved"


@pytest.mark.parametrize("change", ["title", "text", "source_name", "language", "published"])
def test_a_change_of_what_is_embedded_or_stemmed_makes_chunks_anew(
    store: Store, change: str
) -> None:
    put(store, document(0))
    space = with_vectors(store)
    value = "2020-01-01T00:00:00+00:00" if change == "published" else "en"
    put(store, document(0, **{change: value}))
    assert vectors.missing(store, space) != []


def test_a_removed_document_leaves_nothing(store: Store) -> None:
    put(store, *numbered(3))
    space = with_vectors(store)
    with store.transaction():
        for one in numbered(3):
            store.remove(one.id)
        store.remove("f" * 32)
    for table in ("documents", "chunks", "words", "vectors"):
        assert rows(store, f"SELECT count(*) FROM {table}") == [(0,)]  # noqa: S608
    assert vectors.count(store, space) == 0
    store.database.execute("INSERT INTO words (words) VALUES ('integrity-check')")


def test_a_number_of_a_chunk_is_never_given_twice(store: Store) -> None:
    put(store, document(0))
    last = rows(store, "SELECT max(number) FROM chunks")[0][0]
    with store.transaction():
        store.remove(document(0).id)
    put(store, document(1))
    assert rows(store, "SELECT min(number) FROM chunks")[0][0] > last


def test_a_transaction_that_fails_changes_nothing(store: Store) -> None:
    put(store, document(0))
    generation = store.generation

    def fail() -> None:
        with store.transaction():
            store.remove(document(0).id)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.generation == generation
    assert store.document(document(0).id) == document(0)


def test_text_that_no_database_takes_keeps_its_length(store: Store) -> None:
    one = document(0, text="Antes \ud800 después\x00 y fin.", title="\udfff")
    put(store, one)
    found = store.document(one.id)
    assert found is not None
    assert found.text == "Antes \ufffd después\x00 y fin."
    assert found.title == "\ufffd"


def test_readers_do_not_wait_for_a_writer(store: Store, tmp_path: Path) -> None:
    put(store, document(0))
    with Store(tmp_path / "rag") as reader, store.writing(), store.transaction():
        store.remove(document(0).id)
        assert reader.count("documents") == 1
        with reader.snapshot():
            assert reader.document(document(0).id) == document(0)


def test_one_process_writes_at_a_time(store: Store, tmp_path: Path) -> None:
    with (
        Store(tmp_path / "rag") as other,
        store.writing(),
        pytest.raises(ConscienceError, match="another process"),
    ):
        other.writing(timeout_s=0.05).__enter__()


def test_the_file_is_private_and_of_a_version(store: Store) -> None:
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert rows(store, "PRAGMA user_version") == [(VERSION,)]


def test_a_newer_store_and_a_damaged_one_are_refused_with_a_sentence(tmp_path: Path) -> None:
    with Store(tmp_path / "rag") as store:
        path = store.path
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    with pytest.raises(FormatError, match="newer version"):
        Store(tmp_path / "rag")
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(FormatError, match="damaged") as caught:
        Store(tmp_path / "rag")
    assert "Delete it" in caught.value.hint


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("1970-01-02T00:00:00+00:00", 86400.0),
        ("1970-01-02T01:00:00+01:00", 86400.0),
        ("1970-01-02", 86400.0),
        ("ayer", 0.0),
        ("", 0.0),
    ],
)
def test_dates_are_compared_as_moments(date: str, seconds: float) -> None:
    assert timestamp(date) == seconds


def test_same_chunks_of_the_same_text_are_kept_by_another_cutter(store: Store) -> None:
    put(store, document(1))
    space = with_vectors(store)
    put(store, document(1), cutter=Cutter(name="other", limit=20))
    assert vectors.missing(store, space) == []
    assert list(store.documents(not_cut="other:20")) == []
    assert Cutter(name="other", limit=5).cut(document(1)) != [Chunk(0, 5)]
