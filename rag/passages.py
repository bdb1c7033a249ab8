"""What retrieval found for a question, and the raw numbers behind it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    """One chunk of a document, with what is shown of its source.

    Attributes:
        document_id: `Document.id`.
        title, link, published, source_name, language: of the document.
        text: of the chunk: `Document.text[start:end]`.
        start, end: where it stands in the document's text.
        score: fused, relative to this question alone: the best is near 1. Never a threshold.
        bm25: `-bm25()` of FTS5, >= 0; 0 if no word of the question occurs. In a store of a few
            chunks as if it held more, see `rag.retrieval.handful`; the score is not made of that.
        cosine: between question and chunk, -1 to 1; None without vectors.
    """

    document_id: str
    title: str
    link: str
    published: str
    source_name: str
    language: str
    text: str
    start: int
    end: int
    score: float
    bm25: float
    cosine: float | None


@dataclass(frozen=True)
class Evidence:
    """Numbers over the whole corpus that say whether it answers the question at all.

    In a store of a few chunks they are reckoned as if it held more, see `rag.retrieval.handful`.
    idf is ln(1 + (N - df + .5) / (df + .5)) over distinct stems of the question without stop-words.

    Attributes:
        chunks: N.
        bm25: of the best chunk, >= 0.
        ratio: bm25 / sum of idf.
        coverage: idf of the question's stems that the best chunk has / sum of idf.
        cosine: of the best chunk by dense search; None without vectors.
    """

    chunks: int
    bm25: float
    ratio: float
    coverage: float
    cosine: float | None


@dataclass(frozen=True)
class Found:
    """An answered search.

    Attributes:
        question: as it was asked.
        terms: stems that were searched, in the question's order.
        passages: best first.
        evidence: see there.
        embedder: name and revision of what made the vectors; "" without.
        seconds: step -> wall clock.
    """

    question: str
    terms: tuple[str, ...]
    passages: tuple[Passage, ...]
    evidence: Evidence
    embedder: str
    seconds: dict[str, float]
