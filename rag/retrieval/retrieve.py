"""A question in, passages out: words and vectors over one pool, and the raw numbers behind them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import Protocol

import numpy as np

from rag.passages import Evidence, Found, Passage
from rag.retrieval import handful, lexical, stems
from rag.retrieval.filters import EVERYTHING, Filters
from rag.retrieval.fusion import Numbers, fuse
from rag.retrieval.handful import Match
from rag.retrieval.lexical import POOL, Asked
from rag.retrieval.store import Store, clean
from rag.retrieval.word_search import WordSearch

_PASSAGES = """
SELECT id, title, link, published, source_name, language, text, start, stop FROM chunks
JOIN documents ON documents.number = chunks.document WHERE chunks.number = ?
"""


class Dense(Protocol):
    """Search by vectors, as far as there are any."""

    @property
    def name(self) -> str:
        """Name and revision of the embedder."""

    @property
    def floor(self) -> float:
        """Cosine that a question reaches which has nothing to do with any text."""

    def is_wordlike(self, words: Sequence[str]) -> bool:
        """Whether they are spelled as words of a language are, not as random letters."""

    def embed(self, store: Store, question: str) -> Numbers | None:
        """The question's vector, length 1; None as long as no search by vectors is possible."""

    def nearest(
        self, store: Store, vector: Numbers, filters: Filters, limit: int
    ) -> list[tuple[int, float]]:
        """Chunks with the largest cosines, best first; inside a snapshot."""

    def cosines(self, store: Store, vector: Numbers, chunks: Sequence[int]) -> Numbers:
        """Exact cosine of each chunk, NaN where there is no vector; inside a snapshot."""


@dataclass(frozen=True)
class _Pool:
    """What both searches found, each chunk once.

    Attributes:
        bm25: (n,), see `fuse`.
        cosine: (n,), see `fuse`.
        best: largest cosine over the corpus.
    """

    chunks: list[int]
    bm25: Numbers
    cosine: Numbers | None
    best: float | None


class Retriever:
    """Searches one store; several threads may share it, one search at a time.

    Args:
        store: open; stays the caller's.
        dense: search by vectors; None for words alone.
    """

    def __init__(self, store: Store, dense: Dense | None = None) -> None:
        self._store = store
        self._words = WordSearch()
        self._dense = dense
        self._lock = Lock()

    def search(self, question: str, k: int = 3, filters: Filters = EVERYTHING) -> Found:
        """Find at most `k` passages; none for a question that has nothing to do with the corpus."""
        seconds: dict[str, float] = {}
        question = clean(question)
        with self._lock:
            with _timed(seconds, "embed"):
                vector = self._dense.embed(self._store, question) if self._dense else None
            with self._store.snapshot():
                with _timed(seconds, "words"):
                    asked = self._words.ask(self._store, question)
                    hits = self._words.search(self._store, asked, filters)
                with _timed(seconds, "vectors"):
                    pool = self._pool(question, hits, vector, filters)
                with _timed(seconds, "passages"):
                    few = self._among_few(asked, pool)
                    passages = self._passages(pool, k, few)
                    evidence = self._evidence(asked, pool, few)
        terms = dict.fromkeys(t.partition(":")[2] for terms in asked.terms.values() for t in terms)
        return Found(
            question=question,
            terms=tuple(terms),
            passages=tuple(passages),
            evidence=evidence,
            embedder=self._dense.name if self._dense and pool.cosine is not None else "",
            seconds=seconds | {"total": sum(seconds.values())},
        )

    def _pool(
        self,
        question: str,
        hits: Sequence[tuple[int, float]],
        vector: Numbers | None,
        filters: Filters,
    ) -> _Pool:
        bm25 = dict(hits)
        if self._dense is None or vector is None:
            return _Pool(list(bm25), np.array(list(bm25.values())), None, None)
        near = self._dense.nearest(self._store, vector, filters, POOL)
        best = near[0][1] if near else None
        is_near = best is not None and best >= self._dense.floor
        if not (hits or is_near or self._dense.is_wordlike(stems.content_words(question))):
            near = []  # not a word of it occurs, it looks like none, and noise comes as near
        chunks = list(dict.fromkeys([*bm25, *(chunk for chunk, _cosine in near)]))
        words = np.array([bm25.get(chunk, 0.0) for chunk in chunks])
        return _Pool(chunks, words, self._dense.cosines(self._store, vector, chunks), best)

    def _among_few(self, asked: Asked, pool: _Pool) -> dict[int, Match] | None:
        """How well the pool's chunks match, by number; None in a store that is not small."""
        if asked.chunks >= handful.AS_IF:
            return None
        having = [chunk for chunk, bm25 in zip(pool.chunks, pool.bm25, strict=True) if bm25 > 0]
        return handful.matches(self._store, asked, having)

    def _passages(self, pool: _Pool, k: int, few: Mapping[int, Match] | None) -> list[Passage]:
        scores = fuse(pool.bm25, pool.cosine)
        order = sorted(range(len(pool.chunks)), key=lambda i: (-scores[i], pool.chunks[i]))
        if few is not None:
            words = [few[chunk].bm25 if chunk in few else 0.0 for chunk in pool.chunks]
            pool = replace(pool, bm25=np.array(words))
        return [self._passage(pool, i, float(scores[i])) for i in order[:k] if scores[i] > 0]

    def _passage(self, pool: _Pool, at: int, score: float) -> Passage:
        row = self._store.database.execute(_PASSAGES, (pool.chunks[at],)).fetchone()
        cosine = None if pool.cosine is None else float(pool.cosine[at])
        return Passage(
            document_id=row[0],
            title=row[1],
            link=row[2],
            published=row[3],
            source_name=row[4],
            language=row[5],
            text=row[6][row[7] : row[8]],  # not by SQL's substr, which stops at a NUL
            start=row[7],
            end=row[8],
            score=score,
            bm25=float(pool.bm25[at]),
            cosine=None if cosine is None or np.isnan(cosine) else cosine,
        )

    def _evidence(self, asked: Asked, pool: _Pool, few: Mapping[int, Match] | None) -> Evidence:
        if few is not None:
            return handful.evidence(asked, few.values(), pool.best)
        best = int(pool.bm25.argmax()) if pool.bm25.size else 0
        bm25 = float(pool.bm25[best]) if pool.bm25.size else 0.0
        if bm25 <= 0:
            return Evidence(asked.chunks, 0.0, 0.0, 0.0, pool.best)
        total, covered = lexical.coverage(self._store, asked, pool.chunks[best])
        if total <= 0:
            return Evidence(asked.chunks, bm25, 0.0, 0.0, pool.best)
        return Evidence(asked.chunks, bm25, bm25 / total, covered / total, pool.best)


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start
