"""Among a handful of texts a question that one of them answers is answered, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.cli import run
from rag.answer.abstain import LIMIT, START
from rag.retrieval import handful
from rag.retrieval.library import Library
from tests.corpora import TEXTS, document, write

VOLCANO = "¿Cuántos días duró la erupción del volcán de La Palma?"
STRANGE = "¿Quién ganó el campeonato de ajedrez de Islandia en 1950?"


def library(folder: Path, count: int) -> Library:
    texts = [document(n, title=TEXTS[n][1]) for n in range(min(count, len(TEXTS)))]
    rest = [document(n, text=f"Nota {n} sobre el tema número {n * 7}.") for n in range(9, count)]
    corpus = write(folder / "corpus.jsonl", [*texts, *rest])
    made = Library(corpus, folder / "rag", embedder="none")
    made.follow()
    return made


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_texts_are_enough_to_answer_and_to_refuse(tmp_path: Path, count: int) -> None:
    with library(tmp_path, count) as held:
        assert START.probability(held.search(VOLCANO).evidence) >= LIMIT
        assert START.probability(held.search(STRANGE).evidence) < LIMIT
        assert held.search("xyzzy plugh").evidence.bm25 == 0.0


def test_a_lone_text_shows_how_well_its_words_match(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with library(tmp_path, 1) as held:
        found = held.search(VOLCANO)
        (passage,) = found.passages
        assert passage.bm25 == found.evidence.bm25 > 1.0
        (other,) = held.search("La Palma").passages
        assert 0 < other.bm25 < passage.bm25
    monkeypatch.setenv("CONSCIENCE_EMBEDDER", "none")
    monkeypatch.setenv("CONSCIENCE_RAG_CORPUS_PATH", str(tmp_path / "corpus.jsonl"))
    assert run(["--home", str(tmp_path / "node"), "rag", "query", VOLCANO]) == 0
    assert f"words {passage.bm25:.2f}" in capsys.readouterr().out


def test_the_score_is_that_of_fts5_where_the_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with library(tmp_path, 60) as held:
        chunks = held.store.count("chunks")
        monkeypatch.setattr(handful, "AS_IF", chunks)
        theirs = held.search(VOLCANO).evidence
        monkeypatch.setattr(handful, "AS_IF", chunks + 1)
        ours = held.search(VOLCANO).evidence
    assert theirs.chunks == ours.chunks == chunks
    for name in ("bm25", "ratio", "coverage"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=0.06)
