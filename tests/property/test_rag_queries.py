"""Any text may be asked, and any text may be in a document."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.corpus_rows import from_line, to_line
from rag.retrieval import stems
from rag.retrieval.chunks import Cutter
from rag.retrieval.filters import Filters
from rag.retrieval.retrieve import Retriever
from rag.retrieval.store import Store, clean
from tests.corpora import document, numbered

SYNTAX = st.lists(
    st.sampled_from(
        [
            "AND",
            "OR",
            "NOT",
            "NEAR(",
            ")",
            '"',
            "'",
            "*",
            "^",
            ":",
            "-",
            "+",
            "{stems}",
            "volcán",
            "es:",
        ]
    ),
    max_size=12,
).map(" ".join)
ANY = st.text(st.characters(), max_size=200)  # surrogates and NUL too
QUESTIONS = st.one_of(ANY, SYNTAX)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "rag") as opened:
        with opened.transaction():
            for one in numbered(10):
                opened.put(one, Cutter().cut(one), cut="", reading=0)
        yield opened


@given(QUESTIONS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_question_is_a_syntax_error(store: Store, question: str) -> None:
    found = Retriever(store).search(question)
    assert all(passage.bm25 > 0 for passage in found.passages)
    assert Retriever(store).search(question).passages == found.passages


@given(QUESTIONS, QUESTIONS)
def test_no_filter_is_a_syntax_error(store: Store, language: str, source: str) -> None:
    Retriever(store).search("volcán", filters=Filters(clean(language), clean(source)))


@given(ANY, ANY)
@settings(max_examples=50)
def test_any_text_can_be_kept_found_and_taken_out(store: Store, text: str, title: str) -> None:
    one = document(99, text=f"{text} ornitorrinco", title=title)
    with store.transaction():
        store.put(one, Cutter().cut(one), cut="", reading=0)
    found = Retriever(store).search("ornitorrinco", k=10).passages
    assert found
    assert all(p.text == clean(one.text)[p.start : p.end] for p in found)
    with store.transaction():
        store.remove(one.id)
    assert Retriever(store).search("ornitorrinco").passages == ()


@given(ANY, st.sampled_from(["es", "en", "fr", ""]))
def test_stems_are_single_tokens_of_the_index(text: str, language: str) -> None:
    for stem in stems.stems(text, language):
        mark, _, rest = stem.partition(":")
        assert mark in ("es", "en", "xx")
        assert rest == "" or not any(c.isspace() or (c.isascii() and not c.isalnum()) for c in rest)


@given(ANY)
def test_rows_of_any_text_can_be_followed(text: str) -> None:
    one = document(5, text=clean(text))
    assert from_line(to_line(one)) == one
