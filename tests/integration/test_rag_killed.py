"""`kill -9` at several moments of following, embedding and indexing: what is left is consistent."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from rag.corpus_rows import from_line
from rag.retrieval import follow, index, upkeep
from rag.retrieval.library import Library
from tests.corpora import numbered, write
from tests.tiny_encoder import make_tiny_encoder

LIMIT_S = 120
# Processes are forked from one that has loaded torch and us: what is killed starts at once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])
Step = Callable[[], None]


def follow_slowly(step: Step, corpus: Path, folder: Path) -> None:
    follow.BATCH_BYTES = 6000
    with Library(corpus, folder, embedder="none") as library:
        library.follow(report=lambda *_: step())


def keep_up(step: Step, corpus: Path, folder: Path, encoder: Path) -> None:
    upkeep.WINDOW, upkeep.FOLD_EVERY = 8, 16
    with Library(corpus, folder, embedder=str(encoder)) as library:
        library.follow()
        library.keep_up(report=lambda *_: step())


def reindex(step: Step, corpus: Path, folder: Path, encoder: Path) -> None:
    upkeep.WINDOW, upkeep.FOLD_EVERY = 8, 16
    with Library(corpus, folder, embedder=str(encoder)) as library:
        library.follow()
        library.reindex(report=lambda *_: step())


def write_index(step: Step, corpus: Path, folder: Path, encoder: Path) -> None:
    with Library(corpus, folder, embedder=str(encoder)) as library:
        while True:
            step()
            upkeep.write_index(library.store, anew=True)
            upkeep.write_index(library.store, anew=True)


def report_to(sender: Connection, work: Callable[..., None], *arguments: Path) -> None:
    """Do the work and say "step" at each of its steps."""
    work(lambda: sender.send("step"), *arguments)


def kill_after(work: Callable[..., None], steps: int, delay_s: float, *arguments: Path) -> int:
    """Let a process work, wait for so many of its steps and a moment more, kill it; steps made."""
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=report_to, args=(sender, work, *arguments))
    process.start()
    sender.close()
    seen = 0
    try:
        while seen < steps and receiver.poll(LIMIT_S):
            receiver.recv()
            seen += 1
    except EOFError:
        pass  # it was done
    time.sleep(delay_s)
    process.kill()
    process.join()
    receiver.close()
    return seen


def require_consistent(folder: Path, corpus: Path) -> None:
    """What holds after any kill, looked at with SQLite alone."""
    database = sqlite3.connect(folder / "store.sqlite")
    one = lambda query: database.execute(query).fetchone()[0]  # noqa: E731
    assert one("PRAGMA integrity_check") == "ok"
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    database.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    database.rollback()
    assert one("SELECT count(*) FROM chunks") == one("SELECT count(*) FROM words")
    assert one("SELECT count(*) FROM chunks WHERE number NOT IN (SELECT rowid FROM words)") == 0
    assert one("SELECT count(*) FROM vectors WHERE chunk NOT IN (SELECT number FROM chunks)") == 0
    row = database.execute("SELECT value FROM meta WHERE key = 'corpus.offset'").fetchone()
    read = corpus.read_bytes()[: int(row[0]) if row else 0]
    expected = [from_line(line).id for line in read.decode().splitlines()]
    found = [r[0] for r in database.execute("SELECT id FROM documents ORDER BY number")]
    assert found == expected, "the place and what was read go together"
    database.close()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write(tmp_path / "corpus.jsonl", numbered(120))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def contents(library: Library) -> list[tuple[object, ...]]:
    return library.store.database.execute(
        "SELECT id, revision, start, stop, words.stems, around FROM chunks "
        "JOIN documents ON documents.number = chunks.document "
        "JOIN words ON words.rowid = chunks.number ORDER BY id, start"
    ).fetchall()


@pytest.mark.parametrize(("steps", "delay_s"), [(1, 0.0), (2, 0.003), (4, 0.006), (7, 0.011)])
def test_a_killed_follower_leaves_a_prefix_and_goes_on(
    tmp_path: Path, corpus: Path, steps: int, delay_s: float
) -> None:
    folder = tmp_path / "rag"
    assert kill_after(follow_slowly, steps, delay_s, corpus, folder) == steps
    require_consistent(folder, corpus)
    with (
        Library(corpus, folder, embedder="none") as left,
        Library(corpus, tmp_path / "whole", embedder="none") as whole,
    ):
        assert left.follow().put > 0
        whole.follow()
        assert contents(left) == contents(whole)
    require_consistent(folder, corpus)


@pytest.mark.parametrize("what", [keep_up, reindex])
@pytest.mark.parametrize(("steps", "delay_s"), [(1, 0.0), (4, 0.004), (9, 0.05)])
def test_killed_embedding_goes_on_and_ends_as_if_nothing_had_been(
    tmp_path: Path,
    corpus: Path,
    encoder: Path,
    what: Callable[..., None],
    steps: int,
    delay_s: float,
) -> None:
    folder = tmp_path / "rag"
    kill_after(what, steps, delay_s, corpus, folder, encoder)
    require_consistent(folder, corpus)
    with Library(corpus, folder, embedder=str(encoder)) as library:
        library.follow()
        before = library.stats()
        library.reindex() if what is reindex else library.keep_up()
        after = library.stats()
        assert 0 <= before.vectors < after.vectors == after.chunks
        assert after.is_complete
        assert after.index is not None
        assert after.index.ntotal == after.chunks
        assert library.search("palabra77").passages[0].document_id == numbered(78)[77].id
    require_consistent(folder, corpus)


@pytest.mark.parametrize("delay_s", [0.0, 0.002, 0.005, 0.009, 0.014])
def test_a_kill_while_the_index_is_written_leaves_the_one_before_or_after(
    tmp_path: Path, corpus: Path, encoder: Path, delay_s: float
) -> None:
    folder = tmp_path / "rag"
    with Library(corpus, folder, embedder=str(encoder)) as library:
        library.follow()
        library.keep_up()
        expected = library.stats().index
        found = library.search("lava volcán", k=9).passages
        kill_after(write_index, 2, delay_s, corpus, folder, encoder)
        loaded = index.load(folder)
        assert loaded is not None
        assert loaded.stamp.ntotal == library.stats().chunks
        assert np.array_equal(loaded.ids, np.sort(loaded.ids))
        assert expected is not None
        assert loaded.stamp.embedder == expected.embedder
        assert library.search("lava volcán", k=9).passages == found
        loaded.save(folder)
    assert list(folder.glob(".index*")) == []
