"""Search by words: BM25 of FTS5 over stems. Nothing that a person types becomes FTS syntax."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rag.retrieval import stems
from rag.retrieval.filters import EVERYTHING, Filters
from rag.retrieval.store import Store

POOL = 100
AROUND = 0.5  # weight of a word that only the neighbouring chunks have
FEW, MANY = 1_000, 20_000  # chunks; below the first nothing is saved
HALF_IDF, RARE_IDF = math.log(2) + 1e-9, math.log(8)  # of stems that a half, an eighth have
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


def ask(store: Store, question: str) -> Asked:
    """Stem a question for the languages that the store has; inside a snapshot."""
    chunks = store.count("chunks")
    found = stems.question_stems(question, languages(store))
    idf = {
        term: _idf(chunks_with(store, term), chunks) for terms in found.values() for term in terms
    }
    kept = {code: _rarest(terms, idf) for code, terms in found.items()}
    return Asked(kept, idf, chunks)


def searched(asked: Asked) -> list[str]:
    """Stems whose lists are read: long ones cost most of the time and say least.

    FTS5 counts nothing for a stem that half of the chunks have; in a large store, those that an
    eighth have are passed over too if at least two rarer ones are asked for.
    """
    terms = [term for terms in asked.terms.values() for term in terms]
    if asked.chunks < FEW:
        return terms
    rare = [term for term in terms if asked.idf[term] > RARE_IDF]
    if asked.chunks >= MANY and len({term.partition(":")[2] for term in rare}) >= 2:
        return rare
    return [term for term in terms if asked.idf[term] > HALF_IDF] or terms


def languages(store: Store) -> list[str]:
    """Languages whose stems the store has."""
    known = [*stems.ALGORITHMS, stems.OTHER]
    query = "SELECT 1 FROM chunks WHERE stems = ? LIMIT 1"
    return [code for code in known if store.database.execute(query, (code,)).fetchone()]


def search(
    store: Store, asked: Asked, filters: Filters = EVERYTHING, *, limit: int = POOL
) -> list[tuple[int, float]]:
    """Chunks with any of the stems, best first.

    Returns:
        Number of the chunk and its BM25 (>= 0, FTS5's with the sign turned).
    """
    terms = searched(asked)
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
        "WHERE words MATCH ? ORDER BY score LIMIT ?",
        (*values, match(terms), limit),
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
