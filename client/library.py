"""This node's library: its corpus, store and index, opened with its settings."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from client.config import NodeConfig, NodeHome
from federation.errors import ConscienceError
from federation.language import _

if TYPE_CHECKING:
    from rag.answer.search import SearchWithout
    from rag.passages import Found
    from rag.retrieval.library import Library, Report

EMBED_S = 60.0  # of an ingest; what is left is made by the next one, or by `rag reindex`
CALIBRATED_TITLES = 400
Say = Callable[[str], None]


def bound_blas() -> None:
    """Keep numpy's BLAS to one thread, if numpy is not loaded yet.

    With a thread for each processor a question costs thirty times as much.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


class NodeSearch:
    """What answers search with; see `rag.answer.search`.

    Args:
        library: open; stays the caller's.
    """

    def __init__(self, library: Library) -> None:
        self._library = library

    def find(self, question: str, k: int, *, without: str = "") -> Found:
        """The best `k` passages, as if the document `without` were not there."""
        from rag.retrieval.filters import Filters

        return self._library.search(question, k, Filters(without=without))


def open_library(home: NodeHome, config: NodeConfig, *, allow_download: bool = False) -> Library:
    """The library of this node; to be closed.

    Args:
        home: the node's home.
        config: its settings; another corpus has a store of its own.
        allow_download: whether a hub embedder may be fetched.
    """
    bound_blas()
    from rag.retrieval.library import Library

    corpus, folder = home.corpus, home.rag
    if config.rag_corpus_path:
        corpus = home.root / Path(config.rag_corpus_path).expanduser()
        folder = home.rag / "other" / hashlib.sha256(str(corpus).encode()).hexdigest()[:16]
    return Library(
        corpus,
        folder,
        embedder=config.embedder,
        threads=config.embedder_threads,
        allow_download=allow_download,
    )


@contextmanager
def searching(home: NodeHome, config: NodeConfig, say: Say) -> Iterator[SearchWithout | None]:
    """The search over this node's corpus for the length of a block; None if it holds nothing."""
    with open_library(home, config) as library:
        library.warm()
        try:
            library.follow()
            library.mend_index()
        except ConscienceError as err:  # another process is at it: what there is can be searched
            say(err.message)
        for note in library.notes() if library.store.count("documents") else []:
            say(note)
        yield NodeSearch(library) if library.store.count("documents") else None


def bring_up_to_date(home: NodeHome, config: NodeConfig, say: Say, report: Report) -> None:
    """After an ingest: words at once, vectors for a while, and when to refuse an answer.

    Raises:
        ConscienceError: another process is at it.
    """
    from rag.answer import abstain

    with open_library(home, config) as library:
        library.follow(report=report)
        library.keep_up(seconds=EMBED_S, report=report)
        say(
            _("{documents} documents can be searched.").format(
                documents=library.store.count("documents")
            )
        )
        for note in library.notes():
            say(note)
        search = NodeSearch(library)
        stamp = search.find("?", 1)
        abstain.refreshed(
            home.refusal,
            search,
            library.store.titles(CALIBRATED_TITLES),
            chunks=stamp.evidence.chunks,
            embedder=stamp.embedder,
        )
