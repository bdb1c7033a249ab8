"""Vectors in the store: half precision, one a chunk in each space. A space is an embedder's stamp.

One space is active: the one that is searched. Another may be filled beside it and then take its
place in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rag.retrieval.filters import Filters
from rag.retrieval.store import Store

Ids = NDArray[np.int64]
Half = NDArray[np.float16]
ACTIVE = "vectors.active"
READ_BATCH = 4096


def space_of(store: Store, stamp: str) -> int:
    """Number of the space with `stamp`, made if missing; the first one is active at once."""
    found = find_space(store, stamp)
    if found:
        return found
    with store.transaction():
        store.database.execute("INSERT OR IGNORE INTO spaces (stamp) VALUES (?)", (stamp,))
        if not store.meta(ACTIVE):
            store.set_meta(ACTIVE, stamp)
    return find_space(store, stamp)


def find_space(store: Store, stamp: str) -> int:
    """Number of the space with `stamp`; 0 if there is none."""
    row = store.database.execute("SELECT number FROM spaces WHERE stamp = ?", (stamp,)).fetchone()
    return 0 if row is None else int(row[0])


def active_stamp(store: Store) -> str:
    """Stamp of the space that is searched; "" if there are no vectors."""
    return store.meta(ACTIVE)


def activate(store: Store, stamp: str) -> None:
    """Search this space from now on, and drop all others."""
    with store.transaction():
        store.set_meta(ACTIVE, stamp)
        store.database.execute("DELETE FROM spaces WHERE stamp != ?", (stamp,))


def probes(store: Store, space: int) -> Half:
    """Vectors of nonsense in a space, (n, dim); none if nobody made them."""
    row = store.database.execute("SELECT probes FROM spaces WHERE number = ?", (space,)).fetchone()
    dim = json.loads(_stamp_of(store, space))["dim"]
    return np.frombuffer(row[0], dtype="<f2").reshape(-1, dim)


def keep_probes(store: Store, space: int, found: NDArray[np.float32]) -> None:
    """Keep vectors of nonsense."""
    with store.transaction():
        store.database.execute(
            "UPDATE spaces SET probes = ? WHERE number = ?", (found.astype("<f2").tobytes(), space)
        )


def missing(store: Store, space: int) -> list[int]:
    """Chunks without a vector, the newest first."""
    rows = store.database.execute(
        "SELECT number FROM chunks WHERE NOT EXISTS "
        "(SELECT 1 FROM vectors WHERE chunk = chunks.number AND space = ?) ORDER BY number DESC",
        (space,),
    )
    return [int(row[0]) for row in rows]


def count(store: Store, space: int) -> int:
    """How many vectors a space has."""
    row = store.database.execute("SELECT count(*) FROM vectors WHERE space = ?", (space,))
    return int(row.fetchone()[0])


def add(store: Store, space: int, chunks: Sequence[int], vectors: NDArray[np.float32]) -> None:
    """Keep vectors; chunks that are gone meanwhile, or have theirs, are passed over.

    Args:
        store: changed in one transaction.
        space: theirs.
        chunks: n numbers.
        vectors: (n, dim), of length 1.
    """
    with store.transaction():
        store.database.executemany(
            "INSERT OR IGNORE INTO vectors (chunk, space, vector) "
            "SELECT number, ?, ? FROM chunks WHERE number = ?",
            [
                (space, vector.astype("<f2").tobytes(), chunk)
                for chunk, vector in zip(chunks, vectors, strict=True)
            ],
        )


def ids(store: Store, space: int) -> Ids:
    """Chunks that have a vector."""
    rows = store.database.execute("SELECT chunk FROM vectors WHERE space = ?", (space,))
    return np.array([row[0] for row in rows], dtype=np.int64)


def batches(store: Store, space: int) -> Iterator[tuple[Ids, Half]]:
    """All vectors of a space in the order they came, some thousands at a time."""
    rows = store.database.execute(
        "SELECT chunk, vector FROM vectors WHERE space = ? ORDER BY number", (space,)
    )
    while found := rows.fetchmany(READ_BATCH):
        yield np.array([row[0] for row in found], dtype=np.int64), _matrix([r[1] for r in found])


def read(store: Store, space: int, chunks: Sequence[int]) -> tuple[Ids, Half]:
    """Vectors of those chunks that have one."""
    found: list[tuple[int, bytes]] = []
    for start in range(0, len(chunks), 500):
        part = [int(chunk) for chunk in chunks[start : start + 500]]
        marks = ",".join("?" * len(part))
        found += store.database.execute(
            f"SELECT chunk, vector FROM vectors WHERE space = ? AND chunk IN ({marks})",  # noqa: S608
            (space, *part),
        ).fetchall()
    return np.array([row[0] for row in found], dtype=np.int64), _matrix([row[1] for row in found])


def allowed(store: Store, filters: Filters) -> Ids:
    """Chunks that `filters` let through."""
    condition, values = filters.sql()
    rows = store.database.execute(
        "SELECT chunks.number FROM chunks "  # noqa: S608 - no user text
        f"JOIN documents ON documents.number = chunks.document {condition}",
        values,
    )
    return np.array([row[0] for row in rows], dtype=np.int64)


def _stamp_of(store: Store, space: int) -> str:
    row = store.database.execute("SELECT stamp FROM spaces WHERE number = ?", (space,)).fetchone()
    return str(row[0])


def _matrix(blobs: Sequence[bytes]) -> Half:
    if not blobs:
        return np.zeros((0, 0), np.float16)
    return np.frombuffer(b"".join(blobs), dtype="<f2").reshape(len(blobs), -1)
