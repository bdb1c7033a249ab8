"""Word lists as arrays find what FTS5 finds, with its scores, whatever became of the store."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rag.documents import Document
from rag.retrieval import lexical, postings, upkeep
from rag.retrieval.chunks import Cutter
from rag.retrieval.filters import EVERYTHING, Filters
from rag.retrieval.retrieve import Retriever
from rag.retrieval.store import Store
from rag.retrieval.word_search import CAME_MOST, WordSearch
from tests.corpora import TEXTS, document

CHUNKS, LIMIT = 1_200, 40  # FTS5 passes over stems that half have from 1,000 chunks
SYLLABLES = ("ma", "ri", "so", "te", "lu", "pan", "gor", "vez")
QUESTIONS = (
    "¿Qué hizo la lava en el mar?",
    "mari sote lupan",
    "when does the water bleach reefs gorvez",
    "baleines",
    "the of and la de",
    "zzzz",
    "",
)


def texts(count: int, seed: int) -> list[Document]:
    """Documents of several passages: made words, then one of `TEXTS`."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        words = ["".join(rng.choices(SYLLABLES, k=rng.choice((1, 2, 2, 3)))) for _ in range(40)]
        parts = " ".join(word + "." * (rng.random() < 0.1) for word in words)
        text = f"{parts}\n\n{TEXTS[number % len(TEXTS)][2]}"
        made.append(document(number, id=f"{seed}-{number}", text=text))
    return made


def put(store: Store, documents: list[Document]) -> None:
    cutter = Cutter(limit=30)
    with store.transaction():
        for one in documents:
            store.put(one, cutter.cut(one), cut=cutter.stamp, reading=0)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rag")
    with Store(folder) as store:
        put(store, texts(CHUNKS // 2, 1))
        assert store.count("chunks") >= CHUNKS
        assert upkeep.write_postings(store, at_least=1)
        store.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Iterator[Store]:
    for name in ("store.sqlite", postings.FILE):
        (tmp_path / name).write_bytes((filled / name).read_bytes())
    with Store(tmp_path) as opened:
        yield opened


def by_fts(store: Store, question: str, filters: Filters = EVERYTHING) -> list[tuple[int, float]]:
    with store.snapshot():
        return lexical.search(store, lexical.ask(store, question), filters, limit=LIMIT)


def by_arrays(
    store: Store, words: WordSearch, question: str, filters: Filters = EVERYTHING
) -> list[tuple[int, float]]:
    with store.snapshot():
        return words.search(store, words.ask(store, question), filters, limit=LIMIT)


def same(store: Store, words: WordSearch, *, rel: float = 1e-9, **how: Filters) -> None:
    for question in QUESTIONS:
        expected, found = by_fts(store, question, **how), by_arrays(store, words, question, **how)
        assert [score for _n, score in found] == pytest.approx(
            [score for _n, score in expected], rel=rel, abs=1e-5
        ), question
        clear = expected[-1][1] * (1 + rel) + 1e-5 if expected else 0.0
        if rel < 1e-6:  # which of those of the least score are listed is open
            assert {n for n, s in found if s > clear} == {n for n, s in expected if s > clear}


def uses_arrays(store: Store, words: WordSearch) -> bool:
    with store.snapshot():
        words.ask(store, "lava")
    return words._held is not None


def test_the_arrays_give_what_fts5_gives(store: Store) -> None:
    words = WordSearch()
    same(store, words)
    assert uses_arrays(store, words)
    assert by_arrays(store, words, "lava")


def test_a_question_is_weighed_by_the_same_frequencies(store: Store) -> None:
    words = WordSearch()
    for question in QUESTIONS:
        with store.snapshot():
            assert words.ask(store, question) == lexical.ask(store, question)
    held = postings.load(store.folder)
    assert held is not None
    assert held.frequency("es:lav") == lexical.chunks_with(store, "es:lav") > 0
    assert held.frequency("es:nowhere") == 0


@pytest.mark.parametrize(
    "filters",
    [Filters(language="fr"), Filters(since="2026-01-20"), Filters(source="nobody")],
    ids=["language", "since", "source"],
)
def test_filters_narrow_both_alike(store: Store, filters: Filters) -> None:
    words = WordSearch()
    same(store, words, filters=filters)
    assert uses_arrays(store, words)


def test_what_came_and_what_went_is_found_and_not_found(store: Store) -> None:
    words = WordSearch()
    assert uses_arrays(store, words)
    put(store, [document(99_999, text="Una quisquilla nadaba junto a la lava.")])
    with store.transaction():
        for one in texts(CHUNKS // 2, 1)[:200]:
            store.remove(one.id)
    assert uses_arrays(store, words)
    same(store, words, rel=0.02)  # the mean length is that of the file
    last = int(store.database.execute("SELECT max(number) FROM chunks").fetchone()[0])
    assert [number for number, _s in by_arrays(store, words, "quisquilla")] == [last]
    there = {row[0] for row in store.database.execute("SELECT number FROM chunks")}
    for question in QUESTIONS:
        assert {number for number, _score in by_arrays(store, words, question)} <= there


def test_lists_are_written_again_when_enough_came_or_went(store: Store) -> None:
    def written() -> bool:
        return upkeep.write_postings(store, at_least=1)

    assert not written()
    put(store, texts(60, 2))
    assert not written()
    put(store, texts(200, 3))
    assert written()
    same(store, WordSearch())
    with store.transaction():
        for one in texts(200, 3):
            store.remove(one.id)
    assert written()
    same(store, WordSearch())


def test_few_passages_are_left_to_fts5(store: Store) -> None:
    (store.folder / postings.FILE).unlink()
    assert not upkeep.write_postings(store, at_least=store.count("chunks") + 1)
    assert not (store.folder / postings.FILE).exists()
    assert upkeep.write_postings(store, at_least=store.count("chunks"))


def test_when_too_much_came_fts5_searches_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CAME_MOST > 100
    monkeypatch.setattr("rag.retrieval.word_search.CAME_MOST", 100)
    words = WordSearch()
    put(store, texts(200, 2))
    assert not uses_arrays(store, words)
    same(store, words)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def point_beyond(path: Path) -> None:
    arrays = postings.safetensors_numpy.load(path.read_bytes())
    positions = arrays["positions"].copy()
    positions[-1] = 2**31
    path.write_bytes(postings.safetensors_numpy.save(arrays | {"positions": positions}))


def stamped(*changes: int) -> Callable[[Path], object]:
    """Changes of format, generation and identity."""

    def change(path: Path) -> None:
        arrays = postings.safetensors_numpy.load(path.read_bytes())
        stamp = arrays["stamp"] + np.array(changes)
        path.write_bytes(postings.safetensors_numpy.save(arrays | {"stamp": stamp}))

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"nonsense"),
        lambda path: path.write_bytes(b""),
        Path.unlink,
        cut,
        point_beyond,
        stamped(1, 0, 0),
        stamped(0, 1, 0),
        stamped(0, 0, 1),
    ],
    ids=["nonsense", "empty", "none", "cut", "beyond", "format", "later state", "other store"],
)
def test_no_list_that_is_not_of_this_store_is_used(
    store: Store, damage: Callable[[Path], object]
) -> None:
    words = WordSearch()
    assert uses_arrays(store, words)
    damage(store.folder / postings.FILE)
    assert not uses_arrays(store, words)
    same(store, words)
    assert upkeep.write_postings(store, at_least=1)
    assert uses_arrays(store, words)


def test_a_store_made_anew_does_not_take_the_lists_of_the_old_one(
    store: Store, tmp_path: Path
) -> None:
    with Store(tmp_path / "other") as other:
        put(other, texts(CHUNKS // 2, 5))
        (other.folder / postings.FILE).write_bytes((store.folder / postings.FILE).read_bytes())
        words = WordSearch()
        assert not uses_arrays(other, words)
        assert upkeep.write_postings(other, at_least=1)
        same(other, words)


def test_how_rows_are_batched_changes_nothing() -> None:
    rng = random.Random(3)
    vocabulary = ["es:a", "es:b", "en:c", "xx:d", "es:ñandú"]
    rows = [
        (3 * n + 1, " ".join(rng.choices(vocabulary, k=rng.randrange(9))), rng.choice(vocabulary))
        for n in range(50)
    ]
    one, many = postings.build([rows], 7, 8), postings.build([[row] for row in rows], 7, 8)
    for name in ("stamp", "chunks", "lengths", "hashes", "sizes"):
        assert np.array_equal(getattr(one, name), getattr(many, name)), name
    weights = {term: 1.0 + len(term) for term in vocabulary}
    assert np.array_equal(one.scores(weights), many.scores(weights))
    mean = sum(len(own.split()) + 1 for _n, own, _around in rows) / len(rows)
    for at, (_number, own, around) in enumerate(rows):
        long = 1.2 * (0.25 + 0.75 * (len(own.split()) + 1) / mean)
        often = {t: own.split().count(t) + 0.5 * (t == around) for t in vocabulary}
        expected = sum(weights[t] * 2.2 * n / (n + long) for t, n in often.items())
        assert math.isclose(one.scores(weights)[at], expected, rel_tol=1e-12, abs_tol=1e-12)


def test_lists_of_nothing_find_nothing(tmp_path: Path) -> None:
    postings.build([], 0, 1).save(tmp_path)
    held = postings.load(tmp_path)
    assert held is not None
    assert held.last == 0
    assert held.scores({"es:a": 1.0}).size == 0


def test_what_a_killed_writer_left_is_cleared(store: Store) -> None:
    left = store.folder / f".{postings.FILE}.abc.tmp"
    left.write_bytes(b"half")
    (store.folder / postings.FILE).unlink()
    assert upkeep.write_postings(store, at_least=1)
    assert not left.exists()


def test_a_retriever_answers_by_the_arrays(store: Store) -> None:
    retriever = Retriever(store)
    with_arrays = retriever.search("¿Cuánto duró la erupción del volcán?")
    assert retriever._words._held is not None
    (store.folder / postings.FILE).unlink()
    without = Retriever(store).search("¿Cuánto duró la erupción del volcán?")
    assert [p.bm25 for p in with_arrays.passages] == pytest.approx(
        [p.bm25 for p in without.passages]
    )
    assert with_arrays.evidence.ratio == pytest.approx(without.evidence.ratio)
    assert with_arrays.evidence.coverage == pytest.approx(without.evidence.coverage)
