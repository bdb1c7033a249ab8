"""What is done for the store behind a reader's back: vectors for new chunks, and the index's file.

Interrupted at any moment, it goes on from there: vectors are kept by small transactions, the index
is written aside and put in place at once. One process at a time; nobody who asks waits for it.
"""

from __future__ import annotations

import random
import secrets
import string
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import numpy as np

from federation import durable
from federation.language import _
from rag.retrieval import index, postings, vectors
from rag.retrieval.chunks import Cutter, embedded_text
from rag.retrieval.dense import Embeds, dim_of
from rag.retrieval.index import POLICY, Index, IndexStamp, Policy
from rag.retrieval.store import Store

UPKEEP_LOCK = ".upkeep.lock"
WINDOW = 64  # chunks embedded in one transaction
FOLD_EVERY = 5_000  # new vectors after which the index's file is written again
POSTINGS_FROM, POSTINGS_BATCH = 2_000, 2_000  # chunks
LAG, LAG_SHARE = 500, 0.02  # chunks that came or went, at which word lists are written again
PROBES, PROBE_SEED = 128, 7  # so that about one nonsense in 128 passes for a question
Report = Callable[[int, int], None]


def exclusively(store: Store, *, timeout_s: float = 0.0) -> AbstractContextManager[None]:
    """Be the one process that embeds and writes the index.

    Raises:
        ConscienceError: another one is at it.
    """
    busy = _("another process is making vectors and the index")
    return durable.locked(store.folder / UPKEEP_LOCK, timeout_s=timeout_s, busy=busy)


def embed_missing(
    store: Store,
    stamp: str,
    encoder: Embeds,
    *,
    until: float | None = None,
    report: Report = lambda _done, _of: None,
    policy: Policy = POLICY,
) -> int:
    """Make the vectors that are missing in the space of `stamp`; inside `exclusively`.

    Args:
        store: changed.
        stamp: of `encoder`.
        encoder: makes them.
        until: moment of `time.monotonic` at which to stop; None for the end.
        report: called with vectors made and wanted.
        policy: of the index, which is written again now and then if the space is the active one.

    Returns:
        How many were made.
    """
    space = vectors.space_of(store, stamp)
    if not len(vectors.probes(store, space)):
        vectors.keep_probes(store, space, encoder.encode(nonsense(), "query"))
    wanted = vectors.missing(store, space)
    made = 0
    for start in range(0, len(wanted), WINDOW):
        if until is not None and time.monotonic() >= until:
            break
        window = wanted[start : start + WINDOW]
        texts = _texts(store, window)
        if texts:
            found = encoder.encode(list(texts.values()), "passage")
            vectors.add(store, space, list(texts), found)
        before, made = made, made + len(window)
        report(made, len(wanted))
        if made // FOLD_EVERY > before // FOLD_EVERY and vectors.active_stamp(store) == stamp:
            write_index(store, policy=policy)
    return made


def write_index(store: Store, *, policy: Policy = POLICY, anew: bool = False) -> IndexStamp | None:
    """Bring the index's file up to the active space; inside `exclusively`.

    Args:
        store: read.
        policy: see there.
        anew: from the store alone, whatever the file holds.

    Returns:
        The file's stamp; None without vectors.
    """
    stamp = vectors.active_stamp(store)
    if not stamp:
        return None
    before = index.read_stamp(store.folder)
    is_current = before is not None and (before.embedder, before.generation) == (
        stamp,
        store.generation,
    )
    held = None if anew else index.load(store.folder)
    if held is not None and is_current:
        return held.stamp
    return _up_to_date(store, stamp, held, policy).save(store.folder)


def write_postings(store: Store, *, at_least: int = POSTINGS_FROM) -> bool:
    """Write the word lists of a store with many chunks, where those there lag behind.

    Args:
        store: read; inside `exclusively`.
        at_least: chunks; FTS5 is fast enough for fewer.

    Returns:
        Whether they were written.
    """
    chunks = store.count("chunks")
    held = postings.load(store.folder) if chunks >= at_least else None
    lag = postings.behind(held, store) if held else None
    if chunks < at_least or (lag is not None and sum(lag) <= max(LAG, LAG_SHARE * chunks)):
        return False
    if not postings.identity(store):
        with store.writing(), store.transaction():
            store.set_meta("identity", str(secrets.randbits(62) + 1))
    with store.snapshot():
        rows = store.database.execute("SELECT rowid, stems, around FROM words ORDER BY rowid")
        batches = iter(partial(rows.fetchmany, POSTINGS_BATCH), [])
        made = postings.build(batches, store.generation, postings.identity(store))
    made.save(store.folder)
    return True


def switch_space(store: Store, stamp: str, *, policy: Policy = POLICY) -> IndexStamp:
    """Make the index of a space aside, then search that space and drop all others."""
    generation = store.generation
    made = _built(store, stamp, policy)
    if vectors.active_stamp(store) != stamp:
        vectors.activate(store, stamp)
        generation += 1
    if store.generation == generation:
        made = made.updated(np.zeros(0, np.int64), [], generation)
    return made.save(store.folder)


def cut_again(store: Store, cutter: Cutter, *, report: Report = lambda _done, _of: None) -> int:
    """Cut documents anew that something else cut; how many. Inside `store.writing`."""
    waiting = list(store.documents(not_cut=cutter.stamp))
    for done, id_ in enumerate(waiting, 1):
        with store.transaction():
            document = store.document(id_)
            if document is not None:
                reading = int(store.meta("corpus.reading", "0"))
                store.put(document, cutter.cut(document), cut=cutter.stamp, reading=reading)
        report(done, len(waiting))
    return len(waiting)


def nonsense() -> list[str]:
    """Questions about nothing, always the same."""
    rng = random.Random(PROBE_SEED)  # noqa: S311 - no secret
    return [
        " ".join(
            "".join(rng.choices(string.ascii_lowercase, k=rng.randint(4, 9)))
            for _word in range(rng.randint(1, 6))
        )
        for _probe in range(PROBES)
    ]


def _up_to_date(store: Store, stamp: str, held: Index | None, policy: Policy) -> Index:
    generation = store.generation
    space = vectors.space_of(store, stamp)
    known = vectors.ids(store, space)
    if held is None or held.stamp.embedder != stamp or held.stamp.kind != policy.kind(known.size):
        return _built(store, stamp, policy)
    gone = np.setdiff1d(held.ids, known, assume_unique=True)
    fresh = np.setdiff1d(known, held.ids, assume_unique=True)
    if held.stamp.kind != "flat" and gone.size > policy.max_gone * max(1, held.stamp.ntotal):
        return _built(store, stamp, policy)
    parts = (
        vectors.read(store, space, fresh[at : at + vectors.READ_BATCH].tolist())
        for at in range(0, fresh.size, vectors.READ_BATCH)
    )
    return _with_floor(store, space, held.updated(gone, parts, generation))


def _built(store: Store, stamp: str, policy: Policy) -> Index:
    generation, space = store.generation, vectors.space_of(store, stamp)
    made = index.build(
        stamp,
        dim_of(stamp),
        vectors.count(store, space),
        vectors.batches(store, space),
        policy,
    )
    return _with_floor(store, space, made.updated(np.zeros(0, np.int64), [], generation))


def _with_floor(store: Store, space: int, made: Index) -> Index:
    """Note what nonsense reaches: the largest cosine of any probe."""
    probes = vectors.probes(store, space).astype(np.float32)
    best = np.array([float(c[0]) for probe in probes for c in [made.search(probe, 1)[1]] if c.size])
    return made.with_floor(float(best.max()) if best.size else 1.0)


def _texts(store: Store, chunks: list[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for chunk in chunks:
        row = store.database.execute(
            "SELECT title, published, source_name, text, start, stop FROM chunks "
            "JOIN documents ON documents.number = chunks.document WHERE chunks.number = ?",
            (chunk,),
        ).fetchone()
        if row is not None:
            found[chunk] = embedded_text(row[0], row[1], row[2], row[3][row[4] : row[5]])
    return found
