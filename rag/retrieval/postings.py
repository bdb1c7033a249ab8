"""FTS5's word lists once more, as arrays: BM25 of many chunks within milliseconds.

FTS5 looks up a row of its tables for each chunk that it weighs, 1.5 us; here that is an element of
an array. The file can always be made again from the store. The words of a chunk never change under
its number, so a file of an older state still tells the truth about the chunks that are left.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from federation import durable
from rag.retrieval.fusion import Numbers
from rag.retrieval.store import Store

FILE = "words.safetensors"
FORMAT = 1
K1, B = 1.2, 0.75  # FTS5's
AROUND = 0.5  # weight of a word that only the neighbouring chunks have
MOST = 255  # occurrences in a chunk that are counted
TERM_BITS = 32
Row = tuple[int, str, str]
"""Number of a chunk, its stems, stems of the chunks beside it."""


@dataclass(frozen=True, eq=False)
class Postings:
    """Which chunks have a stem, and how often.

    Attributes:
        stamp: (3,) format, the store's generation, and its identity (see `identity`).
        chunks: (n,) numbers, sorted; a place in it is a chunk's position.
        lengths: (n,) words, those beside it too.
        hashes: (m,) of the stems, sorted.
        starts: (m,) of each stem's list.
        sizes: (m,) of each stem's list.
        positions: (p,) all lists, each sorted.
        own, around: (p,) occurrences in the chunk and beside it.
    """

    stamp: NDArray[np.int64]
    chunks: NDArray[np.int64]
    lengths: NDArray[np.int32]
    hashes: NDArray[np.uint64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    positions: NDArray[np.uint32]
    own: NDArray[np.uint8]
    around: NDArray[np.uint8]

    @property
    def generation(self) -> int:
        """Of the store that it was made of."""
        return int(self.stamp[1])

    @property
    def identity(self) -> int:
        """Of the store that it was made of."""
        return int(self.stamp[2])

    @property
    def last(self) -> int:
        """The largest number of a chunk; 0 without any."""
        return int(self.chunks[-1]) if self.chunks.size else 0

    def frequency(self, term: str) -> int:
        """How many chunks have a stem."""
        at = self._find(term)
        return 0 if at is None else int(self.sizes[at])

    def scores(self, weights: Mapping[str, float]) -> Numbers:
        """BM25 of every chunk, as FTS5 reckons it with the sign turned.

        Args:
            weights: stem -> its idf.

        Returns:
            (n,), >= 0.
        """
        found: Numbers = np.zeros(self.chunks.size)
        for term, weight in weights.items():
            at = self._find(term)
            if at is None:
                continue
            part = slice(int(self.starts[at]), int(self.starts[at] + self.sizes[at]))
            where = self.positions[part]
            often = self.own[part] + AROUND * self.around[part]
            found[where] += weight * (K1 + 1) * often / (often + self._norms[where])
        return found

    def save(self, folder: Path) -> None:
        """Write it to `folder`, all or nothing; one process at a time."""
        for left in folder.glob(f".{FILE}.*.tmp"):
            left.unlink(missing_ok=True)  # of a writer that was killed
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        durable.write_bytes(folder / FILE, safetensors_numpy.save(arrays))

    @cached_property
    def _norms(self) -> Numbers:
        mean = float(self.lengths.mean(dtype=np.float64)) if self.lengths.size else 1.0
        return np.asarray(K1 * (1 - B + B * self.lengths / max(1.0, mean)), np.float64)

    def _find(self, term: str) -> int | None:
        wanted = np.uint64(_hash(term))
        at = int(np.searchsorted(self.hashes, wanted))
        return at if at < self.hashes.size and self.hashes[at] == wanted else None


def build(batches: Iterable[Sequence[Row]], generation: int, identity: int) -> Postings:
    """Make the lists of all chunks.

    Args:
        batches: rows in the order of their numbers, some thousands at a time.
        generation: of the store.
        identity: of the store.
    """
    vocabulary: defaultdict[str, int] = defaultdict(count().__next__)
    chunks: list[int] = []
    lengths: list[NDArray[np.int32]] = []
    counted: list[_Counted] = []
    for batch in batches:
        counted.append(_count(batch, len(chunks), vocabulary))
        lengths.append(counted[-1].lengths)
        chunks += [row[0] for row in batch]
    hashes = np.array([_hash(term) for term in vocabulary], np.uint64)
    sizes = np.zeros(len(vocabulary), np.int64)
    for one in counted:
        sizes += np.bincount(one.terms, minlength=sizes.size)
    starts = np.cumsum(sizes) - sizes
    order = np.argsort(hashes)
    positions, own, around = _in_lists(counted, starts.copy(), int(sizes.sum()))
    return Postings(
        stamp=np.array([FORMAT, generation, identity], np.int64),
        chunks=np.array(chunks, np.int64),
        lengths=np.concatenate([np.zeros(0, np.int32), *lengths]),
        hashes=hashes[order],
        starts=starts[order],
        sizes=sizes[order],
        positions=positions,
        own=own,
        around=around,
    )


def load(folder: Path) -> Postings | None:
    """The lists in `folder`; None if there are none, or none that can be used."""
    try:
        arrays: dict[str, Any] = safetensors_numpy.load((folder / FILE).read_bytes())
        found = Postings(**arrays)
    except (OSError, SafetensorError, TypeError):
        return None
    return found if _is_whole(found) else None


def identity(store: Store) -> int:
    """A number that a store has for itself, since one made anew gives chunks the same numbers."""
    return int(store.meta("identity", "0"))


def behind(held: Postings, store: Store) -> tuple[int, int] | None:
    """How many chunks of `held` are gone, and how many came since; None if of another store."""
    if held.identity != identity(store) or held.generation > store.generation:
        return None
    query = "SELECT count(*) FROM chunks WHERE number > ?"
    came = int(store.database.execute(query, (held.last,)).fetchone()[0])
    return held.chunks.size - (store.count("chunks") - came), came


def changed(folder: Path) -> tuple[int, int, int] | None:
    """What differs between two files that were put in `folder`; None without one."""
    try:
        found = (folder / FILE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@dataclass(frozen=True)
class _Counted:
    """One batch: each pair of a stem and a chunk once, sorted by stem, then chunk."""

    lengths: NDArray[np.int32]
    terms: NDArray[np.uint32]
    positions: NDArray[np.uint32]
    own: NDArray[np.uint8]
    around: NDArray[np.uint8]


def _count(batch: Sequence[Row], first: int, vocabulary: defaultdict[str, int]) -> _Counted:
    lengths = np.zeros(len(batch), np.int64)
    keys = []
    for column in (1, 2):
        words = [str(row[column]).split() for row in batch]
        sizes = np.array([len(found) for found in words], np.int64)
        number = map(vocabulary.__getitem__, chain.from_iterable(words))
        terms = np.fromiter(number, np.int64, int(sizes.sum()))
        keys.append(terms << TERM_BITS | np.repeat(first + np.arange(len(batch)), sizes))
        lengths += sizes
    pairs, place = np.unique(np.concatenate(keys), return_inverse=True)
    own = np.bincount(place[: keys[0].size], minlength=pairs.size)
    around = np.bincount(place[keys[0].size :], minlength=pairs.size)
    return _Counted(
        lengths=lengths.astype(np.int32),
        terms=(pairs >> TERM_BITS).astype(np.uint32),
        positions=(pairs & (2**TERM_BITS - 1)).astype(np.uint32),
        own=np.minimum(own, MOST).astype(np.uint8),
        around=np.minimum(around, MOST).astype(np.uint8),
    )


def _in_lists(
    counted: Sequence[_Counted], ends: NDArray[np.int64], size: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[np.uint8]]:
    """Put each batch's part of a list behind the parts before; `ends` is changed."""
    positions = np.zeros(size, np.uint32)
    own, around = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for one in counted:
        terms, first, often = np.unique(one.terms, return_index=True, return_counts=True)
        place = np.repeat(ends[terms] - first, often) + np.arange(one.terms.size)
        positions[place], own[place], around[place] = one.positions, one.own, one.around
        ends[terms] += often
    return positions, own, around


def _hash(term: str) -> int:
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "little")


def _is_whole(found: Postings) -> bool:
    """Whether nothing in it points beyond its arrays."""
    lists, size = found.hashes.size, found.positions.size
    return (
        found.stamp.size == 3
        and int(found.stamp[0]) == FORMAT
        and found.lengths.size == found.chunks.size
        and found.starts.size == found.sizes.size == lists
        and found.own.size == found.around.size == size
        and (not lists or (int(found.starts.min()) >= 0 and int(found.sizes.min()) >= 0))
        and (not lists or int((found.starts + found.sizes).max()) <= size)
        and (not size or int(found.positions.max()) < found.chunks.size)
    )
