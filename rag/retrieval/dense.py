"""Search by vectors for a reader that stays: the index's file, and what changed since.

Before each question the store's generation is looked at. Vectors that the index lacks are searched
beside it, those that are gone are passed over, and a newer file is taken as soon as it is there. So
nothing waits for an index to be made, and what is added is found by the next question.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from federation.errors import ModelError
from rag.retrieval import index, vectors
from rag.retrieval.filters import Filters
from rag.retrieval.fusion import Numbers
from rag.retrieval.store import Store
from rag.retrieval.vectors import Half, Ids

logger = logging.getLogger(__name__)
EXACT_MOST = 5_000  # chunks that filters leave, to be compared one by one
TAIL_MOST = 20_000  # vectors searched beside the index; beyond, words alone until it is made
UNKNOWN_FLOOR = 1.0
# Tokens for each letter: of random letters one in a thousand has less, of rare words of texts nine
# in ten (English; Spanish with an English tokenizer: three in four).
WORDLIKE = 0.4


class Embeds(Protocol):
    """Makes vectors, as `rag.retrieval.embedding.Encoder`."""

    def encode(
        self, texts: Sequence[str], kind: Literal["query", "passage"]
    ) -> NDArray[np.float32]:
        """Vectors of length 1, (n, dim)."""

    def pieces(self, word: str) -> int:
        """How many tokens a word is cut into."""


class VectorSearch:
    """Implements `retrieve.Dense`. The encoder is loaded in the background when first needed.

    Args:
        stamp: of the space whose vectors can be compared with the encoder's.
        name: of the embedder, for people.
        load: gives the encoder; called once.
        patience_s: how long a question waits for the encoder; then words alone are searched.
    """

    def __init__(
        self, stamp: str, name: str, load: Callable[[], Embeds], *, patience_s: float | None
    ) -> None:
        self.name = name
        self._stamp = stamp
        self._load = load
        self._patience_s = patience_s
        self._encoder: Embeds | None = None
        self._done = Event()
        self._thread: Thread | None = None
        self._failure: ModelError | None = None
        self._index: index.Index | None = None
        self._seen: tuple[int, str] | None = None
        self._space = 0
        self._gone: Ids = np.zeros(0, np.int64)
        self._tail: tuple[Ids, Half] = (self._gone, np.zeros((0, 0), np.float16))
        self._is_complete = False

    @property
    def floor(self) -> float:
        """Cosine that nonsense reaches in the index; 1 while there is none."""
        return UNKNOWN_FLOOR if self._index is None else self._index.stamp.floor

    def is_wordlike(self, words: Sequence[str]) -> bool:
        """See `rag.retrieval.retrieve.Dense`."""
        letters = sum(map(len, words))
        if self._encoder is None or not letters:
            return False
        return sum(map(self._encoder.pieces, words)) < WORDLIKE * letters

    @property
    def failure(self) -> ModelError | None:
        """Why the encoder did not load, if it did not."""
        return self._failure

    def warm(self) -> None:
        """Begin to load the encoder, if nobody has."""
        if self._thread is None:
            self._thread = Thread(target=self._load_encoder, name="embedder", daemon=True)
            self._thread.start()

    def encoder(self, timeout_s: float | None = None) -> Embeds | None:
        """The encoder, loaded; None if that takes longer, or it does not load."""
        self.warm()
        self._done.wait(timeout_s)
        return self._encoder

    def embed(self, store: Store, question: str) -> Numbers | None:
        """See `rag.retrieval.retrieve.Dense`."""
        if vectors.active_stamp(store) != self._stamp:
            return None
        encoder = self.encoder(self._patience_s)
        if encoder is None:
            return None
        vector: Numbers = encoder.encode([question], "query")[0].astype(np.float64)
        return vector

    def nearest(
        self, store: Store, vector: Numbers, filters: Filters, limit: int
    ) -> list[tuple[int, float]]:
        """See `rag.retrieval.retrieve.Dense`."""
        self._refresh(store)
        if not self._is_complete:
            return []
        allowed = vectors.allowed(store, filters) if filters else None
        if allowed is not None and allowed.size <= EXACT_MOST:
            few = self.cosines(store, vector, allowed.tolist())
            return _best(allowed, np.nan_to_num(few, nan=-np.inf), limit)
        found, cosines = self._from_index(vector, limit, allowed)
        tail_ids, tail = self._tail
        if tail_ids.size:
            beside = tail.astype(np.float32) @ vector.astype(np.float32)
            if allowed is not None:
                beside = np.where(np.isin(tail_ids, allowed), beside, -np.inf)
            found = np.concatenate([found, tail_ids])
            cosines = np.concatenate([cosines, beside])
        return _best(found, cosines, limit)

    def cosines(self, store: Store, vector: Numbers, chunks: Sequence[int]) -> Numbers:
        """See `rag.retrieval.retrieve.Dense`."""
        found, matrix = vectors.read(store, self._space, chunks)
        values = np.full(len(chunks), np.nan)
        if found.size:
            products = matrix.astype(np.float32) @ vector.astype(np.float32)
            place = {int(chunk): at for at, chunk in enumerate(chunks)}
            values[[place[int(chunk)] for chunk in found]] = products
        return values

    def _from_index(
        self, vector: Numbers, limit: int, allowed: Ids | None
    ) -> tuple[Ids, NDArray[np.float32]]:
        if self._index is None:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        asked = 3 * limit if self._gone.size else limit
        found, cosines = self._index.search(vector, asked, allowed)
        there = ~np.isin(found, self._gone)
        return found[there], cosines[there]

    def _refresh(self, store: Store) -> None:
        """Bring index, tail and tombstones to the store's generation; inside a snapshot."""
        stamp = index.read_stamp(store.folder)
        now = (store.generation, stamp.sha256 if stamp else "")
        if self._seen == now:
            return
        held = self._index.stamp.sha256 if self._index else ""
        if stamp is not None and stamp.embedder == self._stamp and stamp.sha256 != held:
            self._index = index.load(store.folder) or self._index
        if self._index is not None and self._index.stamp.embedder != self._stamp:
            self._index = None
        self._space = vectors.find_space(store, self._stamp)
        known = vectors.ids(store, self._space)
        have = self._index.ids if self._index else np.zeros(0, np.int64)
        fresh = np.setdiff1d(known, have, assume_unique=True)
        self._gone = np.setdiff1d(have, known, assume_unique=True)
        self._is_complete = fresh.size <= TAIL_MOST
        self._tail = vectors.read(store, self._space, fresh[:TAIL_MOST].tolist())
        self._seen = now

    def _load_encoder(self) -> None:
        try:
            self._encoder = self._load()
        except ModelError as err:
            self._failure = err
            logger.warning("the embedder does not load: %s", err.message)
        finally:
            self._done.set()


def _best(chunks: Ids, cosines: NDArray[np.floating[Any]], limit: int) -> list[tuple[int, float]]:
    order = np.argsort(-cosines, kind="stable")[:limit]
    return [(int(chunks[i]), float(cosines[i])) for i in order if np.isfinite(cosines[i])]


def dim_of(stamp: str) -> int:
    """Length of the vectors of a space."""
    found: Any = json.loads(stamp)["dim"]
    return int(found)
