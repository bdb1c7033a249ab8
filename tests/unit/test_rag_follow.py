"""From the corpus file to the store: new bytes alone, torn lines later, other files anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag.corpus_rows import Removal, to_line
from rag.retrieval import follow as following
from rag.retrieval.chunks import Cutter
from rag.retrieval.follow import follow, unread_bytes
from rag.retrieval.store import Store
from tests.corpora import append, document, numbered, write


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "rag") as opened:
        yield opened


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write(tmp_path / "datasets" / "corpus.jsonl", numbered(10))


def run(corpus: Path, store: Store, **options: bool) -> following.Followed:
    return follow(corpus, store, Cutter(), **options)


def held(store: Store) -> dict[str, int]:
    return dict(store.database.execute("SELECT id, revision FROM documents"))


def chunk_numbers(store: Store) -> list[int]:
    return [row[0] for row in store.database.execute("SELECT number FROM chunks ORDER BY number")]


def test_what_is_appended_is_taken_in_and_nothing_twice(corpus: Path, store: Store) -> None:
    assert run(corpus, store).put == 10
    before = store.generation
    assert run(corpus, store) == following.Followed()
    assert store.generation == before
    append(corpus, [document(3, revision=2, text="Otra cosa."), document(20), Removal(f"{4:032x}")])
    assert unread_bytes(corpus, store) > 0
    assert run(corpus, store) == following.Followed(put=2, removed=1)
    assert unread_bytes(corpus, store) == 0
    assert held(store)[f"{3:032x}"] == 2
    assert f"{4:032x}" not in held(store)
    assert len(held(store)) == 10


def test_a_torn_last_line_is_left_for_later(corpus: Path, store: Store) -> None:
    line = to_line(document(30, text="Añadido con eñes.")).encode()
    for cut in (1, 10, len(line) // 2, len(line)):
        with corpus.open("ab") as file:
            file.write(line[:cut])
        run(corpus, store)
        assert document(30).id not in held(store)
        assert unread_bytes(corpus, store) == 0
        with corpus.open("r+b") as file:
            file.truncate(corpus.stat().st_size - cut)
    with corpus.open("ab") as file:
        file.write(line + b"\n")
    assert run(corpus, store).put == 1
    assert document(30).id in held(store)


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_a_corpus_that_shrank_is_read_anew(corpus: Path, store: Store, kept: int) -> None:
    run(corpus, store)
    chunks = chunk_numbers(store)
    write(corpus, numbered(kept))
    found = run(corpus, store)
    assert found.is_anew
    assert (found.put, found.removed) == (0, 10 - kept)
    assert held(store) == {one.id: 1 for one in numbered(kept)}
    assert chunk_numbers(store) == chunks[: len(chunk_numbers(store))], "and keeps its chunks"


@pytest.mark.parametrize("first", [5, 9])
def test_a_corpus_of_another_head_is_read_anew(corpus: Path, store: Store, first: int) -> None:
    run(corpus, store)
    write(corpus, numbered(30, start=first))
    assert unread_bytes(corpus, store) == corpus.stat().st_size
    found = run(corpus, store)
    assert found.is_anew
    assert set(held(store)) == {one.id for one in numbered(30, start=first)}


def test_a_change_just_before_the_place_reached_is_seen(corpus: Path, store: Store) -> None:
    documents = numbered(200)
    write(corpus, documents)
    run(corpus, store)
    write(corpus, [*documents[:-1], document(500), document(501)])
    assert run(corpus, store).is_anew
    assert documents[-1].id not in held(store)


def test_a_corpus_that_is_gone_empties_the_store(corpus: Path, store: Store) -> None:
    run(corpus, store)
    corpus.unlink()
    assert run(corpus, store) == following.Followed(removed=10, is_anew=True)
    assert run(corpus, store) == following.Followed()
    write(corpus, numbered(2))
    assert run(corpus, store).put == 2
    assert len(held(store)) == 2


def test_lines_that_are_no_rows_are_counted_and_cost_no_other_line(
    corpus: Path, store: Store
) -> None:
    newer = json.dumps(json.loads(to_line(document(40))) | {"format": 99})
    with corpus.open("ab") as file:
        file.write(b"{}\nnot json\n\xff\xfe\n\n" + newer.encode() + b"\n")
    append(corpus, [document(41)])
    found = run(corpus, store)
    assert (found.put, found.unreadable) == (11, 5)
    assert store.meta("corpus.unreadable") == "5"
    assert run(corpus, store, anew=True).unreadable == 5
    assert store.meta("corpus.unreadable") == "5"


def test_batches_are_whatever_size_and_the_report_ends_with_the_file(
    corpus: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "BATCH_BYTES", 1500)
    seen: list[tuple[int, int]] = []
    follow(corpus, store, Cutter(), report=lambda done, size: seen.append((done, size)))
    assert len(seen) > 3
    assert seen[-1] == (corpus.stat().st_size,) * 2
    assert len(held(store)) == 10


def test_reading_anew_keeps_what_did_not_change(corpus: Path, store: Store) -> None:
    run(corpus, store)
    chunks = chunk_numbers(store)
    assert run(corpus, store, anew=True) == following.Followed(is_anew=True)
    assert chunk_numbers(store) == chunks
