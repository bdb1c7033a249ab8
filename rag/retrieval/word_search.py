"""Search by words in a store of any size: by the arrays of `postings` where there are any.

What they do not know is found all the same: chunks that came after by FTS5, which has all; chunks
that are gone are passed over.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag.retrieval import lexical, postings, vectors
from rag.retrieval.filters import EVERYTHING, Filters
from rag.retrieval.fusion import Numbers
from rag.retrieval.lexical import POOL, Asked
from rag.retrieval.postings import Postings
from rag.retrieval.store import Store

CAME_MOST = 5_000  # chunks that FTS5 searches beside the arrays; beyond, it searches all


class WordSearch:
    """Searches one store; one search at a time, inside a snapshot."""

    def __init__(self) -> None:
        self._loaded: Postings | None = None
        self._held: Postings | None = None  # what is loaded, where it is of the store's state
        self._seen: tuple[tuple[int, int, int] | None, int] = (None, -1)
        self._gone: NDArray[np.bool_] | None = None
        self._came = 0

    def ask(self, store: Store, question: str) -> Asked:
        """See `lexical.ask`."""
        self._refresh(store)
        if self._held is None or self._came or self._gone is not None:
            return lexical.ask(store, question)
        chunks, frequency = self._held.chunks.size, self._held.frequency
        return lexical.ask(store, question, chunks=chunks, frequency=frequency)

    def search(
        self, store: Store, asked: Asked, filters: Filters = EVERYTHING, *, limit: int = POOL
    ) -> list[tuple[int, float]]:
        """See `lexical.search`; for what `ask` gave in the same snapshot."""
        held = self._held
        if held is None:
            return lexical.search(store, asked, filters, limit=limit)
        scores = held.scores(asked.weights())
        if self._gone is not None:
            scores[self._gone] = 0.0
        if filters:
            scores[~np.isin(held.chunks, vectors.allowed(store, filters))] = 0.0
        found = _best(held.chunks, scores, limit)
        if self._came:
            found += lexical.search(store, asked, filters, limit=limit, after=held.last)
        return sorted(found, key=lambda hit: (-hit[1], hit[0]))[:limit]

    def _refresh(self, store: Store) -> None:
        """Bring what is held to the store's generation."""
        now = (postings.changed(store.folder), store.generation)
        if now == self._seen:
            return
        if now[0] != self._seen[0]:
            self._loaded = postings.load(store.folder)
        self._seen, self._held, self._gone, self._came = now, None, None, 0
        behind = postings.behind(self._loaded, store) if self._loaded else None
        if self._loaded is None or behind is None or behind[1] > CAME_MOST:
            return
        self._held, (gone, self._came) = self._loaded, behind
        if gone:
            there = store.database.execute("SELECT number FROM chunks")
            numbers = np.array([row[0] for row in there], np.int64)
            self._gone = ~np.isin(self._held.chunks, numbers)


def _best(chunks: NDArray[np.int64], scores: Numbers, limit: int) -> list[tuple[int, float]]:
    """The largest scores above 0, ties by number, in no order."""
    places = np.flatnonzero(scores > 0)
    if places.size > limit:
        least = np.partition(scores[places], -limit)[-limit]
        places = places[scores[places] >= least]
        places = places[np.argsort(-scores[places], kind="stable")[:limit]]
    return list(zip(chunks[places].tolist(), scores[places].tolist(), strict=True))
