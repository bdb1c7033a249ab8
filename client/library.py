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


def searched_corpus(home: NodeHome, config: NodeConfig) -> Path:
    """What the chat searches: what `ingest` writes, unless `rag_corpus_path` names another."""
    if not config.rag_corpus_path:
        return home.corpus
    named = home.root / Path(config.rag_corpus_path).expanduser()
    return home.corpus if named.resolve() == home.corpus.resolve() else named


def is_searched(home: NodeHome, config: NodeConfig, corpus: Path) -> bool:
    """Whether what is written into `corpus` is found by the chat."""
    return searched_corpus(home, config).resolve() == corpus.resolve()


def open_library(
    home: NodeHome,
    config: NodeConfig,
    *,
    corpus: Path | None = None,
    allow_download: bool = False,
) -> Library:
    """The library of one of this node's corpora; to be closed.

    Args:
        home: the node's home.
        config: its settings.
        corpus: whose; None: the one that is searched. Each has a store of its own.
        allow_download: whether a hub embedder may be fetched.
    """
    bound_blas()
    from rag.retrieval.library import Library

    searched = searched_corpus(home, config)
    chosen = searched if corpus is None or is_searched(home, config, corpus) else corpus
    folder = home.rag
    if chosen != home.corpus:
        folder = home.rag / "other" / hashlib.sha256(str(chosen).encode()).hexdigest()[:16]
    return Library(
        chosen,
        folder,
        embedder=config.embedder,
        threads=config.embedder_threads,
        allow_download=allow_download,
    )


@contextmanager
def searching(home: NodeHome, config: NodeConfig, say: Say) -> Iterator[SearchWithout | None]:
    """The search over this node's corpus for the length of a block; None if it holds nothing."""
    with following(home, config, say) as library:
        yield NodeSearch(library) if library.store.count("documents") else None


@contextmanager
def following(home: NodeHome, config: NodeConfig, say: Say) -> Iterator[Library]:
    """This node's library for the length of a block, with what was ingested until now."""
    with open_library(home, config) as library:
        library.warm()
        try:
            library.follow()
            library.mend_index()
        except ConscienceError as err:  # another process is at it: what there is can be searched
            say(err.message)
        for note in library.notes() if library.store.count("documents") else []:
            say(note)
        yield library


def bring_up_to_date(
    home: NodeHome,
    config: NodeConfig,
    say: Say,
    report: Report,
    *,
    corpus: Path | None = None,
) -> None:
    """After an ingest: words at once, vectors for a while, and when to refuse an answer.

    Args:
        home: the node's.
        config: its settings.
        say: told how many texts can be searched, and what is not as it might be.
        report: told how far it has come.
        corpus: that was written; None: the one that is searched. When to refuse goes by the one
            that is searched, and is left as it is after another was written.

    Raises:
        ConscienceError: another process is at it.
    """
    from rag.answer import abstain

    with open_library(home, config, corpus=corpus) as library:
        library.follow(report=report)
        library.keep_up(seconds=EMBED_S, report=report)
        say(
            _("{documents} documents can be searched.").format(
                documents=library.store.count("documents")
            )
        )
        for note in library.notes():
            say(note)
        if corpus is not None and not is_searched(home, config, corpus):
            say(searches_elsewhere(home, config))
            return
        search = NodeSearch(library)
        stamp = search.find("?", 1)
        abstain.refreshed(
            home.refusal,
            search,
            library.store.titles(CALIBRATED_TITLES),
            chunks=stamp.evidence.chunks,
            embedder=stamp.embedder,
        )


def searches_elsewhere(home: NodeHome, config: NodeConfig) -> str:
    """Why what was just taken in is not found by the chat."""
    path = searched_corpus(home, config)
    return _("The chat searches another corpus, {path} (`rag_corpus_path`).").format(path=path)
