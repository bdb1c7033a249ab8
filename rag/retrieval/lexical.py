"""Search by words: BM25 of FTS5 over stems. Nothing that a person types becomes FTS syntax."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rag.retrieval import stems
from rag.retrieval.filters import EVERYTHING, Filters
from rag.retrieval.postings import AROUND
from rag.retrieval.store import Store

POOL = 100
FEW, MANY = 1_000, 20_000  # chunks; below the first nothing is saved
HALF_IDF, RARE_IDF = math.log(2) + 1e-9, math.log(8)  # of stems that a half, an eighth have
LEAST = 1e-6  # what FTS5 counts for a stem that half have
MAX_TERMS = 48  # of a language; of a longer question the rarest are searched


@dataclass(frozen=True)
class Asked:
    """A question as it is searched.

    Attributes:
        terms: language -> stems with their mark, in the question's order.
        idf: stem -> idf over all chunks, see `rag.passages.Evidence`.
        chunks: how many there are.
    """

    terms: Mapping[str, Sequence[str]]
    idf: Mapping[str, float]
    chunks: int

    def weights(self) -> dict[str, float]:
        """Idf as FTS5 has it, of the stems for which that is above nothing; of all without any."""
        terms = [term for terms in self.terms.values() for term in terms]
        kept = [term for term in terms if self.idf[term] > HALF_IDF] or terms
        return {term: math.log(max(1 + LEAST, math.expm1(self.idf[term]))) for term in kept}


def ask(
    store: Store,
    question: str,
    *,
    chunks: int | None = None,
    frequency: Callable[[str], int] | None = None,
) -> Asked:
    """Stem a question for the languages that the store has; inside a snapshot.

    Args:
        store: asked for what the caller does not know.
        question: anything.
        chunks: how many there are.
        frequency: how many of them have a stem.
    """
    if chunks is None:
        chunks = store.count("chunks")
    if frequency is None:
        frequency = partial(chunks_with, store)
    found = stems.question_stems(question, languages(store))
    idf = {term: _idf(frequency(term), chunks) for terms in found.values() for term in terms}
    kept = {code: _rarest(terms, idf) for code, terms in found.items()}
    return Asked(kept, idf, chunks)


def searched(asked: Asked) -> list[str]:
    """Stems whose lists FTS5 reads: long ones cost most of the time and say least.

    FTS5 counts nothing for a stem that half of the chunks have; in a large store, those that an
    eighth have are passed over too if at least two rarer ones are asked for.
    """
    terms = [term for terms in asked.terms.values() for term in terms]
    if asked.chunks < FEW:
        return terms
    rare = [term for term in terms if asked.idf[term] > RARE_IDF]
    if asked.chunks >= MANY and len({term.partition(":")[2] for term in rare}) >= 2:
        return rare
    return list(asked.weights())


def languages(store: Store) -> list[str]:
    """Languages whose stems the store has."""
    known = [*stems.ALGORITHMS, stems.OTHER]
    query = "SELECT 1 FROM chunks WHERE stems = ? LIMIT 1"
    return [code for code in known if store.database.execute(query, (code,)).fetchone()]


def search(
    store: Store,
    asked: Asked,
    filters: Filters = EVERYTHING,
    *,
    limit: int = POOL,
    after: int = 0,
) -> list[tuple[int, float]]:
    """Chunks with any of the stems, best first.

    Args:
        store: searched.
        asked: the question.
        filters: what it is narrowed to.
        limit: how many.
        after: only chunks of a larger number; these by all stems, since they are few.

    Returns:
        Number of the chunk and its BM25 (>= 0, FTS5's with the sign turned).
    """
    terms = list(asked.weights()) if after else searched(asked)
    if not terms:
        return []
    join = ""
    condition, values = filters.sql()
    if filters:
        join = (
            "JOIN chunks ON chunks.number = words.rowid "
            f"JOIN documents ON documents.number = chunks.document {condition}"
        )
    rows = store.database.execute(
        f"SELECT words.rowid, bm25(words, 1.0, {AROUND}) AS score FROM words {join} "  # noqa: S608 - no user text
        "WHERE words MATCH ? AND words.rowid > ? ORDER BY score LIMIT ?",
        (*values, match(terms), after, limit),
    )
    return [(int(number), max(0.0, -float(score))) for number, score in rows]


def match(terms: Sequence[str]) -> str:
    """An FTS5 expression for chunks with any of `terms`, each quoted."""
    return " OR ".join('"' + term.replace('"', '""') + '"' for term in terms)


def coverage(store: Store, asked: Asked, chunk: int) -> tuple[float, float]:
    """Idf of the question's stems in the chunk's language.

    Returns:
        The sum over all, and over those that the chunk or its neighbours have.
    """
    row = store.database.execute(
        "SELECT chunks.stems, words.stems || ' ' || words.around FROM chunks "
        "JOIN words ON words.rowid = chunks.number "
        "WHERE chunks.number = ?",
        (chunk,),
    ).fetchone()
    terms = asked.terms.get(str(row[0]), ())
    has = set(str(row[1]).split())
    return sum(asked.idf[t] for t in terms), sum(asked.idf[t] for t in terms if t in has)


def chunks_with(store: Store, term: str) -> int:
    """How many chunks have a stem."""
    row = store.database.execute("SELECT doc FROM terms WHERE term = ?", (term,)).fetchone()
    return 0 if row is None else int(row[0])


def _idf(frequency: int, chunks: int) -> float:
    return math.log(1 + (chunks - frequency + 0.5) / (frequency + 0.5))


def _rarest(terms: Sequence[str], idf: Mapping[str, float]) -> list[str]:
    if len(terms) <= MAX_TERMS:
        return list(terms)
    kept = set(sorted(terms, key=lambda term: -idf[term])[:MAX_TERMS])
    return [term for term in terms if term in kept]
