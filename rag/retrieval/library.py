"""What a node knows, as one thing: follows the corpus, answers questions, keeps its vectors.

with Library(corpus, folder, embedder=config.embedder) as library:
    library.follow()                       # what ingest appended, at once
    found = library.search("¿…?", k=3)     # words now, vectors as far as there are any
    library.keep_up(seconds=60)            # in the background: vectors and index
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from federation.errors import ModelError
from federation.language import _
from rag.passages import Found
from rag.retrieval import embedders, index, quick_bert, upkeep, vectors
from rag.retrieval.chunks import Cutter
from rag.retrieval.dense import Embeds, VectorSearch
from rag.retrieval.embedders import EmbedderChoice
from rag.retrieval.filters import EVERYTHING, Filters
from rag.retrieval.follow import Followed, follow, unread_bytes
from rag.retrieval.index import IndexStamp
from rag.retrieval.retrieve import Retriever
from rag.retrieval.store import Store

if TYPE_CHECKING:
    from rag.retrieval.embedding import Encoder

Report = Callable[[str, int, int], None]
"""Told of a step ("reading", "cutting", "embedding"), how much is done, and of how much."""


def _silent(_step: str, _done: int, _of: int) -> None:
    pass


@dataclass(frozen=True)
class Stats:
    """What a node knows.

    Attributes:
        documents, chunks: in the store.
        newest: date of the newest document; "" without any.
        unread_bytes: of the corpus that the store has not read.
        unreadable: lines of the corpus that were passed over.
        generation: of the store.
        embedder: name and revision of the one chosen; "" for none.
        vectors_of: name and revision of the one whose vectors are searched; "" for none.
        vectors: of the active space.
        missing: chunks without one.
        index: stamp of the index's file, if there is a good one.
        is_current: index and store hold the same.
        is_complete: all that the corpus holds is found in every way there is.
    """

    documents: int
    chunks: int
    newest: str
    unread_bytes: int
    unreadable: int
    generation: int
    embedder: str
    vectors_of: str
    vectors: int
    missing: int
    index: IndexStamp | None
    is_current: bool
    is_complete: bool


class Library:
    """Corpus, store and index of one node. Each process opens its own.

    Args:
        corpus: JSON Lines that ingest writes.
        folder: of the store; made if missing.
        embedder: see `rag.retrieval.embedders.choose`.
        threads: see `rag.retrieval.embedding.load`.
        patience_s: how long a question waits for the embedder to load; None without limit.
        allow_download: whether a hub embedder may be fetched.
    """

    def __init__(
        self,
        corpus: Path,
        folder: Path,
        *,
        embedder: str = "",
        threads: int = 0,
        patience_s: float | None = None,
        allow_download: bool = False,
    ) -> None:
        self._corpus = corpus
        self._threads = threads
        self._failure: ModelError | None = None
        self._encoder: Encoder | None = None
        try:
            self.choice = embedders.choose(embedder, allow_download=allow_download)
        except ModelError as err:  # words are searched all the same
            self.choice, self._failure = None, err
        self.store = Store(folder)
        self._dense = self._vector_search(self.choice, patience_s)
        self._retriever = Retriever(self.store, self._dense)

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    @property
    def failure(self) -> ModelError | None:
        """Why the embedder that was asked for is not used, if it is not."""
        return self._failure or (self._dense.failure if self._dense else None)

    @cached_property
    def cutter(self) -> Cutter:
        """Cuts documents."""
        try:
            return embedders.cutter_of(self.choice)
        except ModelError:  # the notes say that the embedder does not load
            return Cutter()

    def warm(self) -> None:
        """Begin to load the embedder, if its vectors are searched."""
        if self._dense and self.choice and self._is_ours:
            self._dense.warm()

    def follow(self, *, report: Report = _silent, timeout_s: float = 10.0) -> Followed:
        """Take in what the corpus has that the store has not.

        Raises:
            ConscienceError: another process writes the store for longer than `timeout_s`.
        """
        if self.is_up_to_date():
            return Followed()
        with self.store.writing(timeout_s=timeout_s):
            return follow(
                self._corpus,
                self.store,
                self.cutter,
                report=partial(report, "reading"),
            )

    def is_up_to_date(self) -> bool:
        """Whether the store has read all that the corpus holds."""
        if not self._corpus.exists():
            return self.store.count("documents") == 0
        swept = self.store.meta("corpus.swept", "0") == self.store.meta("corpus.reading", "0")
        return swept and unread_bytes(self._corpus, self.store) == 0

    def search(self, question: str, k: int = 3, filters: Filters = EVERYTHING) -> Found:
        """See `Retriever.search`; what was followed before is found."""
        return self._retriever.search(question, k, filters)

    def embed(self, texts: Sequence[str]) -> tuple[str, list[list[float]]]:
        """Name of the embedder, and a vector of length 1 for each text.

        Raises:
            ModelError: there is none, or it does not load.
        """
        if self.choice is None:
            raise self._failure or ModelError(_("there is no embedder"))
        return self.choice.stamp.name, self._passages_encoder().encode(texts, "passage").tolist()

    def keep_up(self, *, seconds: float | None = None, report: Report = _silent) -> int:
        """Make missing vectors, bring index and word lists up to date; how many vectors were made.

        Args:
            seconds: stop after so long; None for the end.
            report: see there.

        Raises:
            ConscienceError: another process is at it.
        """
        until = None if seconds is None else time.monotonic() + seconds
        with upkeep.exclusively(self.store):
            upkeep.write_postings(self.store)
            if self.choice is None or not (self._is_ours or not vectors.active_stamp(self.store)):
                return 0
            made = self._embed(until, report)
            upkeep.write_index(self.store)
        return made

    def mend_index(self) -> None:
        """Write the index's file if it is missing or of other vectors; needs no embedder."""
        stamp = vectors.active_stamp(self.store)
        found = index.read_stamp(self.store.folder)
        if stamp and (found is None or found.embedder != stamp):
            with upkeep.exclusively(self.store, timeout_s=1.0):
                upkeep.write_index(self.store)

    def reindex(self, *, anew: bool = False, report: Report = _silent) -> None:
        """Cut, embed and index all of it with the chosen embedder; searches go on meanwhile.

        Args:
            anew: read the corpus from its start too.
            report: see there.

        Raises:
            ModelError: the embedder that was asked for is not there.
            ConscienceError: another process is at it.
        """
        if self._failure is not None:
            raise self._failure
        with upkeep.exclusively(self.store):
            with self.store.writing():
                anew = anew or self._unreadable > 0
                reading, cutting = partial(report, "reading"), partial(report, "cutting")
                follow(self._corpus, self.store, self.cutter, anew=anew, report=reading)
                upkeep.cut_again(self.store, self.cutter, report=cutting)
            upkeep.write_postings(self.store)
            if self.choice is not None and self.store.count("chunks"):
                self._embed(None, report)
                upkeep.switch_space(self.store, self.choice.stamp.to_json())

    def stats(self) -> Stats:
        """Count everything."""
        stamp = vectors.active_stamp(self.store)
        with self.store.snapshot():
            space = vectors.find_space(self.store, stamp)
            chunks, made = self.store.count("chunks"), vectors.count(self.store, space)
            documents, generation = self.store.count("documents"), self.store.generation
            newest = self.store.newest()
        found = index.verified_stamp(self.store.folder) if stamp else None
        is_current = found is not None and (found.embedder, found.generation) == (stamp, generation)
        has_vectors = self.choice is None or (self._is_ours and made == chunks and is_current)
        unreadable = self._unreadable
        return Stats(
            documents=documents,
            chunks=chunks,
            newest=newest,
            unread_bytes=unread_bytes(self._corpus, self.store),
            unreadable=unreadable,
            generation=generation,
            embedder="" if self.choice is None else self.choice.stamp.name,
            vectors_of=stamp_name(stamp),
            vectors=made,
            missing=0 if self.choice is None else chunks - made * self._is_ours,
            index=found,
            is_current=is_current,
            is_complete=self.is_up_to_date() and not unreadable and (has_vectors or not chunks),
        )

    def notes(self) -> list[str]:
        """Sentences about what a search cannot find now, and what to do; none if all is well."""
        found = []
        if not self.store.count("documents"):
            found.append(_("This node knows no texts yet. Next: flower-client ingest"))
        if not self.is_up_to_date():
            found.append(_("The corpus has texts that are not read yet."))
        if self._unreadable:
            text = _("{count} lines of the corpus could not be read.")
            found.append(text.format(count=self._unreadable))
        return [*found, *self._embedder_notes()]

    def _embedder_notes(self) -> list[str]:
        failure = self.failure
        if failure is not None:
            text = _("Only words are searched: {why}.")
            return [text.format(why=failure.message.rstrip("."))]
        stamp, chunks = vectors.active_stamp(self.store), self.store.count("chunks")
        if self.choice is None or not chunks:
            return []
        if stamp and not self._is_ours:
            text = _(
                "Only words are searched: the vectors are of {old}, the settings name {new}. "
                "Next: flower-client rag reindex"
            )
            return [text.format(old=stamp_name(stamp), new=self.choice.stamp.name)]
        missing = chunks - vectors.count(self.store, vectors.find_space(self.store, stamp))
        if missing:
            text = _(
                "{missing} of {chunks} passages have no vector yet. Next: flower-client rag reindex"
            )
            return [text.format(missing=missing, chunks=chunks)]
        return []

    @property
    def _unreadable(self) -> int:
        return int(self.store.meta("corpus.unreadable", "0"))

    @property
    def _is_ours(self) -> bool:
        return (
            self.choice is not None
            and vectors.active_stamp(self.store) == self.choice.stamp.to_json()
        )

    def _embed(self, until: float | None, report: Report) -> int:
        if self.choice is None or self._dense is None:
            return 0
        stamp = self.choice.stamp.to_json()
        space = vectors.find_space(self.store, stamp)
        if space and not vectors.missing(self.store, space):
            return 0
        return upkeep.embed_missing(
            self.store,
            stamp,
            self._passages_encoder(),
            until=until,
            report=partial(report, "embedding"),
        )

    def _passages_encoder(self) -> Encoder:
        from rag.retrieval import embedding

        if self._encoder is None:
            if self.choice is None:
                raise ModelError(_("the embedder does not load"))
            self._encoder = embedding.load(self.choice, threads=self._threads)
        return self._encoder

    def _vector_search(
        self, choice: EmbedderChoice | None, patience_s: float | None
    ) -> VectorSearch | None:
        if choice is None:
            return None

        def load() -> Embeds:
            if quick_bert.can_run(choice):
                return quick_bert.load(choice)
            return self._passages_encoder()

        stamp = choice.stamp
        return VectorSearch(stamp.to_json(), stamp.name, load, patience_s=patience_s)


def stamp_name(stamp: str) -> str:
    """Name and revision in a space's stamp; "" of ""."""
    if not stamp:
        return ""
    found = json.loads(stamp)
    return f"{found['embedder']}@{found['sha256'][:12]}"
