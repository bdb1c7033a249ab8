"""Questions to passages: words alone, words and vectors, filters, evidence, nonsense."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.documents import Document
from rag.retrieval import handful, lexical, stems, upkeep
from rag.retrieval.chunks import Cutter
from rag.retrieval.dense import VectorSearch
from rag.retrieval.filters import Filters
from rag.retrieval.lexical import Asked
from rag.retrieval.retrieve import Retriever
from rag.retrieval.store import Store
from tests.corpora import TEXTS, document

STAMP = '{"dim": 64}'


class ByWords:
    """An encoder that knows synonyms: each word is a direction, synonyms share theirs."""

    SYNONYMS: ClassVar = {"seísmo": "volcán", "quake": "volcán"}

    def encode(
        self,
        texts: Sequence[str],
        kind: Literal["query", "passage"],  # noqa: ARG002
    ) -> NDArray[np.float32]:
        found = np.full((len(texts), 64), 1e-3, np.float32)
        for row, text in zip(found, texts, strict=True):
            for word in stems.words(text):
                word = self.SYNONYMS.get(word, word)
                if not stems.is_stop_word(word, "es") and not stems.is_stop_word(word, "en"):
                    row[sum(word.encode()) % 64] += 1
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def pieces(self, word: str) -> int:
        return 2 if set(word) & set("aeiouáéíóú") else len(word)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "rag") as opened:
        put(opened, *(document(n) for n in range(len(TEXTS))))
        yield opened


def put(store: Store, *documents: Document) -> None:
    cutter = Cutter(limit=30)
    with store.transaction():
        for one in documents:
            store.put(one, cutter.cut(one), cut=cutter.stamp, reading=0)


def dense(store: Store) -> Retriever:
    upkeep.embed_missing(store, STAMP, ByWords())
    upkeep.write_index(store)
    return Retriever(store, VectorSearch(STAMP, "by words", ByWords, patience_s=None))


@pytest.mark.parametrize(
    ("question", "first"),
    [
        ("¿Cuánto duraron las erupciones?", 0),
        ("¿qué hacen las VACUNAS?", 1),
        ("why do corals bleach", 2),
        ("telescope pictures", 3),
        ("baleines", 4),
    ],
)
def test_words_alone_find_the_text(store: Store, question: str, first: int) -> None:
    found = Retriever(store).search(question)
    assert found.passages[0].document_id == document(first).id
    assert found.passages[0].cosine is None
    assert found.embedder == ""
    assert found.evidence.cosine is None


def test_a_passage_is_a_slice_of_its_document_and_says_where(store: Store) -> None:
    found = Retriever(store).search("lava mar gases", k=10)
    assert len(found.passages) == 2
    for passage in found.passages:
        one = document(0)
        assert passage.text == one.text[passage.start : passage.end]
        assert (passage.title, passage.link, passage.published) == (
            one.title,
            one.link,
            one.published,
        )
        assert (passage.source_name, passage.language) == (one.source_name, "es")
    assert found.passages[0].score == 1.0
    assert found.passages[0].score >= found.passages[1].score > 0


def test_a_title_without_text_is_found(store: Store) -> None:
    put(store, document(9, title="Neutrinos en el hielo", text="", language="es"))
    (passage,) = Retriever(store).search("neutrino").passages
    assert (passage.text, passage.start, passage.end) == ("", 0, 0)
    assert passage.title == "Neutrinos en el hielo"


@pytest.mark.parametrize("question", ["qwxzv blrft", "what is qwxzv?", "zzzz", "", "¿?", "🙂", " "])
def test_nonsense_finds_nothing_with_and_without_vectors(store: Store, question: str) -> None:
    assert Retriever(store).search(question).passages == ()
    assert dense(store).search(question).passages == ()


def test_stop_words_alone_find_texts_that_have_them(store: Store) -> None:
    found = Retriever(store).search("¿la de los?")
    assert found.passages
    assert {"la", "de", "los"} <= set(found.terms)


def test_without_a_corpus_there_is_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "empty") as empty:
        found = Retriever(empty).search("volcán")
    assert (found.passages, found.evidence.chunks) == ((), 0)


def test_vectors_find_what_words_miss_and_mix_with_them(store: Store) -> None:
    retriever = dense(store)
    found = retriever.search("seísmo palma", k=5)
    assert found.embedder == "by words"
    assert found.passages[0].document_id == document(0).id
    assert all(p.cosine is not None for p in found.passages)
    assert found.evidence.cosine == max(p.cosine for p in found.passages if p.cosine is not None)
    best = max(p.bm25 for p in found.passages)
    top = max(p.cosine or 0.0 for p in found.passages)
    for p in found.passages:
        expected = 0.7 * p.bm25 / best + 0.3 * max(0.0, p.cosine or 0.0) / top
        assert math.isclose(p.score, expected, rel_tol=1e-6)


def test_a_question_without_a_known_word_is_answered_if_its_vector_is_near(store: Store) -> None:
    put(store, document(7, text="volcán volcán", title="", source_name="", published=""))
    found = dense(store).search("seísmo")
    assert found.passages[0].document_id == document(7).id
    assert found.passages[0].bm25 == 0


def test_an_unknown_word_that_is_spelled_like_one_gets_the_nearest_texts(store: Store) -> None:
    put(store, document(7, text="volcán volcán lava", title="", source_name="", published=""))
    found = dense(store).search("What is a quake-storm-septicemia-whirlwind-earthworm?")
    assert found.evidence.bm25 == 0
    assert found.evidence.cosine is not None
    assert found.passages[0].document_id == document(7).id


def test_what_is_not_embedded_yet_is_found_by_its_words(store: Store) -> None:
    retriever = dense(store)
    retriever.search("volcán")
    put(store, document(8, text="Un meteorito cayó en Siberia.", title="Meteorito"))
    found = retriever.search("meteorito en Siberia")
    assert found.passages[0].document_id == document(8).id
    assert found.passages[0].cosine is None
    assert found.passages[0].score == 1.0


def test_a_running_reader_sees_new_changed_and_removed_vectors(store: Store) -> None:
    retriever = dense(store)
    assert document(8).id not in {p.document_id for p in retriever.search("quake").passages}
    put(store, document(8, text="volcán", title="", source_name="", published=""))
    upkeep.embed_missing(store, STAMP, ByWords())
    found = retriever.search("quake")
    assert found.passages[0].document_id == document(8).id
    put(store, document(8, text="meteorito", title="", source_name="", published=""))
    upkeep.embed_missing(store, STAMP, ByWords())
    assert document(8).id not in {p.document_id for p in retriever.search("quake").passages}
    upkeep.write_index(store)
    with store.transaction():
        store.remove(document(8).id)
    assert document(8).id not in {p.document_id for p in retriever.search("meteorito").passages}


@pytest.mark.parametrize("with_vectors", [False, True])
@pytest.mark.parametrize(
    ("filters", "left"),
    [
        (Filters(language="en"), {2, 3}),
        (Filters(language="de"), set()),
        (Filters(source="REVISTA"), {11}),
        (Filters(source="example.org/otra"), {11}),
        (Filters(since="2026-01-05"), {4, 11}),
        (Filters(language="es", since="2026-01-05"), {11}),
    ],
)
def test_filters_narrow_both_searches(
    store: Store, filters: Filters, left: set[int], with_vectors: bool
) -> None:
    put(
        store,
        document(11, language="es", source_name="La Revista", source="https://example.org/otra"),
    )
    retriever = dense(store) if with_vectors else Retriever(store)
    found = retriever.search("volcán vacunas corals light baleines", k=50, filters=filters)
    assert {p.document_id for p in found.passages} == {document(n).id for n in left}


def test_evidence_is_as_it_is_defined(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handful, "AS_IF", 0)  # as in a large store
    found = Retriever(store).search("¿Cuánta lava hay tras la erupción en Marte?")
    evidence, chunks = found.evidence, store.count("chunks")

    def idf(frequency: int) -> float:
        return math.log(1 + (chunks - frequency + 0.5) / (frequency + 0.5))

    # "lava" and "erupción" stand in both chunks of the text (one beside it), "Marte" nowhere.
    total = idf(2) + idf(2) + idf(0)
    assert evidence.chunks == chunks
    assert evidence.bm25 == max(p.bm25 for p in found.passages)
    assert math.isclose(evidence.ratio, evidence.bm25 / total)
    assert math.isclose(evidence.coverage, 2 * idf(2) / total)


def test_stems_that_half_of_many_chunks_have_are_not_read() -> None:
    idf = {"es:comun": 0.5, "es:usual": 1.5, "es:lava": 4.0, "en:lava": 9.0, "es:volcan": 5.0}
    terms = {"es": ["es:comun", "es:usual", "es:lava", "es:volcan"], "en": ["en:lava"]}
    every = [*terms["es"], "en:lava"]
    assert lexical.searched(Asked(terms, idf, 100)) == every
    assert lexical.searched(Asked(terms, idf, 10_000)) == every[1:]
    assert lexical.searched(Asked(terms, idf, 100_000)) == every[2:]
    few = {"es": ["es:comun", "es:usual", "es:lava"], "en": ["en:lava"]}
    assert lexical.searched(Asked(few, idf, 100_000)) == ["es:usual", "es:lava", "en:lava"]
    assert lexical.searched(Asked({"es": ["es:comun"]}, idf, 100_000)) == ["es:comun"]


def test_a_very_long_question_is_searched_by_its_rarest_stems(store: Store) -> None:
    question = " ".join(f"relleno{n}" for n in range(500)) + " volcán " + "la " * 500
    asked = lexical.ask(store, question)
    assert all(len(terms) <= lexical.MAX_TERMS for terms in asked.terms.values())
    Retriever(store).search(question)


@pytest.mark.parametrize(
    "question", ["a'b\"c", 'x" OR "y', "NEAR(a b)", "es:volcan *", "\x00", "\ud800"]
)
def test_no_text_is_fts_syntax(store: Store, question: str) -> None:
    found = Retriever(store).search(question)
    assert found.passages == Retriever(store).search(" ".join(stems.words(question))).passages
