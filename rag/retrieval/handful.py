"""How well a few chunks match a question, reckoned as if they stood among many.

Among a handful of texts no word tells one from the next: FTS5 counts nothing for a word that half
of them have, and the weights of words shrink with the number of texts. So a question that a lone
text answers in full would look as if it were about something else. Here a word weighs what it would
in the corpus that the refusal's start values were measured on, in which no other text has it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from rag.passages import Evidence
from rag.retrieval.lexical import Asked, chunks_with
from rag.retrieval.postings import AROUND, K1, B
from rag.retrieval.store import Store

AS_IF = 240  # chunks


class Match(NamedTuple):
    """BM25 of a chunk, the weight of all of the question's stems, and of those that it has."""

    bm25: float
    total: float
    covered: float


def matches(store: Store, asked: Asked, chunks: Sequence[int]) -> dict[int, Match]:
    """How well each of `chunks` matches.

    Args:
        store: with fewer than `AS_IF` chunks; inside a snapshot.
        asked: the question.
        chunks: numbers of those that have any of its words.
    """
    weights = {
        term: _idf(chunks_with(store, term)) for terms in asked.terms.values() for term in terms
    }
    mean = _mean_length(store)
    return {number: _of(store, number, asked, weights, mean) for number in chunks}


def evidence(asked: Asked, found: Iterable[Match], cosine: float | None) -> Evidence:
    """Of the best match; see `rag.passages.Evidence`.

    Args:
        asked: the question.
        found: all matches.
        cosine: of the nearest, None without vectors.
    """
    bm25, total, covered = max(found, default=Match(0.0, 0.0, 0.0))
    if bm25 <= 0 or total <= 0:
        return Evidence(asked.chunks, 0.0, 0.0, 0.0, cosine)
    return Evidence(asked.chunks, bm25, bm25 / total, covered / total, cosine)


def _of(
    store: Store, number: int, asked: Asked, weights: Mapping[str, float], mean: float
) -> Match:
    row = store.database.execute(
        "SELECT chunks.stems, words.stems, words.around FROM chunks "
        "JOIN words ON words.rowid = chunks.number WHERE chunks.number = ?",
        (number,),
    ).fetchone()
    terms = asked.terms.get(str(row[0]), ())
    own, around = Counter(str(row[1]).split()), Counter(str(row[2]).split())
    length = K1 * (1 - B + B * (own.total() + around.total()) / mean)
    score = 0.0
    for term in terms:
        often = own[term] + AROUND * around[term]
        score += weights[term] * often * (K1 + 1) / (often + length)
    has = own.keys() | around.keys()
    covered = sum(weights[t] for t in terms if t in has)
    return Match(score, sum(weights[t] for t in terms), covered)


def _idf(frequency: int) -> float:
    return math.log(1 + (AS_IF - frequency + 0.5) / (frequency + 0.5))


def _mean_length(store: Store) -> float:
    rows = store.database.execute("SELECT stems, around FROM words").fetchall()
    words = sum(len(str(own).split()) + len(str(around).split()) for own, around in rows)
    return max(1.0, words / max(1, len(rows)))
