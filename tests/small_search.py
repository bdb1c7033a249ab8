"""A small real searcher: BM25 over passages in memory, with the numbers retrieval reports."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence

from rag.answer.words import idf, language_of, stems
from rag.passages import Evidence, Found, Passage

K1, B = 1.2, 0.75  # as SQLite's FTS5


def passage(
    text: str,
    *,
    title: str = "",
    id: str = "",
    language: str = "es",
    link: str = "https://example.org/a",
    start: int = 0,
    score: float = 1.0,
) -> Passage:
    """A passage by hand."""
    return Passage(
        document_id=id or f"{abs(hash((title, text))):032x}",
        title=title,
        link=link,
        published="2026-03-01T08:00:00+00:00",
        source_name="Diario",
        language=language,
        text=text,
        start=start,
        end=start + len(text),
        score=score,
        bm25=0.0,
        cosine=None,
    )


class SmallSearch:
    """Searches titles and texts of `passages`, each a document of its own."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = list(passages)
        self.asked: list[str] = []
        self._bags = [Counter(stems(f"{p.title} {p.text}", p.language)) for p in passages]
        self._mean = sum(bag.total() for bag in self._bags) / max(1, len(self._bags))

    def find(self, question: str, k: int, *, without: str = "") -> Found:
        """See `rag.answer.search`."""
        began = time.perf_counter()
        self.asked.append(question)
        terms = tuple(dict.fromkeys(stems(question, language_of(question))))
        kept = [
            (p, bag)
            for p, bag in zip(self.passages, self._bags, strict=True)
            if p.document_id != without
        ]
        weights = idf(terms, [bag.keys() for _p, bag in kept])
        scored = [(self._bm25(bag, weights), n) for n, (_p, bag) in enumerate(kept)]
        scored.sort(key=lambda entry: (-entry[0], entry[1]))
        scored = [entry for entry in scored if entry[0] > 0]
        best = scored[0][0] if scored else 0.0
        found = tuple(self._with(kept[n][0], value, best) for value, n in scored[:k])
        total = sum(weights.values())
        held = kept[scored[0][1]][1] if scored else Counter()
        covered = sum(weight for term, weight in weights.items() if term in held)
        evidence = Evidence(
            len(kept),
            best,
            best / total if total else 0.0,
            covered / total if total else 0.0,
            None,
        )
        return Found(question, terms, found, evidence, "", {"bm25": time.perf_counter() - began})

    def _bm25(self, bag: Counter[str], weights: dict[str, float]) -> float:
        length = K1 * (1 - B + B * bag.total() / self._mean)
        return math.fsum(w * bag[t] * (K1 + 1) / (bag[t] + length) for t, w in weights.items())

    @staticmethod
    def _with(p: Passage, value: float, best: float) -> Passage:
        return Passage(**{**vars(p), "score": value / best, "bm25": value})
