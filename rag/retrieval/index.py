"""The index of vectors: a file that can always be made again from the store. The faiss door.

Up to 100,000 vectors exact search at half precision; up to a million a graph (HNSW), where what is
taken out stays as a tombstone; above, inverted lists of 8 bit. The stamp stands at the end of the
same file, so file and stamp cannot disagree.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation import durable
from rag.retrieval.vectors import Half, Ids

FILE = "index.faiss"
FORMAT = 1
MAGIC = b"CSIX"
TAIL = struct.Struct("<II4s")  # bytes of the stamp before it, its CRC-32, magic
GRAPH_LINKS, BUILD_WIDTH, SEARCH_WIDTH = 32, 80, 128
PROBES, ALL_LISTS = 32, 2**20  # what is allowed may lie in any list


@dataclass(frozen=True)
class Policy:
    """Which kind of index for how many vectors.

    Attributes:
        flat_below: exact search below so many.
        graph_to: HNSW up to so many, IVF above.
        max_gone: share of tombstones at which it is made again.
    """

    flat_below: int = 100_000
    graph_to: int = 1_000_000
    max_gone: float = 0.2

    def kind(self, size: int) -> str:
        """Kind of an index of `size` vectors."""
        if size < self.flat_below:
            return "flat"
        return "hnsw" if size <= self.graph_to else "ivf"


POLICY = Policy()


@dataclass(frozen=True)
class IndexStamp:
    """What an index is of.

    Attributes:
        embedder: the space's stamp, as `rag.retrieval.embedders.Stamp.to_json` writes it.
        kind: "flat", "hnsw" or "ivf".
        dim: of the vectors.
        generation: of the store that it was brought up to.
        ntotal: vectors in it, tombstones too.
        floor: see `Index`.
        sha256: of the file without its stamp; "" in memory.
    """

    embedder: str
    kind: str
    dim: int
    generation: int
    ntotal: int
    floor: float = 0.0
    sha256: str = ""
    format: int = FORMAT


class Index:
    """An index in memory.

    Attributes:
        stamp: see there; `floor` is the largest cosine that nonsense reaches in it.
        ids: chunks in it, tombstones too, sorted.
    """

    def __init__(self, inner: Any, stamp: IndexStamp) -> None:  # noqa: ANN401 - of faiss
        faiss = _faiss()
        self._inner = inner
        self.stamp = stamp
        self.ids: Ids = np.sort(faiss.vector_to_array(inner.id_map)).astype(np.int64)

    def search(
        self, vector: NDArray[np.floating[Any]], limit: int, allowed: Ids | None = None
    ) -> tuple[Ids, NDArray[np.float32]]:
        """Chunks with the largest cosines and these, best first, at most `limit`.

        Args:
            vector: (dim,), of length 1.
            limit: how many.
            allowed: only these chunks; None for all.
        """
        if not self.stamp.ntotal or (allowed is not None and not allowed.size):
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        asked = np.ascontiguousarray(vector, dtype=np.float32)[None]
        kept = min(limit, self.stamp.ntotal)
        cosines, found = self._inner.search(asked, kept, params=self._parameters(kept, allowed))
        there = found[0] >= 0
        return found[0][there], cosines[0][there]

    def updated(self, gone: Ids, fresh: Iterable[tuple[Ids, Half]], generation: int) -> Index:
        """This index without `gone` and with `fresh`; the receiver must not be used any more.

        Args:
            gone: taken out of a flat index; tombstones in others.
            fresh: chunks and their vectors, in batches.
            generation: of the store that it is then up to.
        """
        faiss = _faiss()
        if gone.size and self.stamp.kind == "flat":
            self._inner.remove_ids(faiss.IDSelectorBatch(gone))
        for chunks, vectors in fresh:
            self._inner.add_with_ids(vectors.astype(np.float32), chunks)
        size = int(self._inner.ntotal)
        return Index(self._inner, replace(self.stamp, ntotal=size, generation=generation))

    def with_floor(self, floor: float) -> Index:
        """The same index with another floor in its stamp."""
        return Index(self._inner, replace(self.stamp, floor=floor))

    def save(self, folder: Path) -> IndexStamp:
        """Write it to `folder`, all or nothing: a reader has the file before or the one after.

        One process at a time, see `rag.retrieval.upkeep.exclusively`.
        """
        faiss = _faiss()
        durable.make_folder(folder)
        for left in folder.glob(f".{FILE}.*.tmp"):
            left.unlink(missing_ok=True)  # of a writer that was killed
        handle, name = tempfile.mkstemp(prefix=f".{FILE}.", suffix=".tmp", dir=folder)
        os.close(handle)
        temporary = Path(name)
        try:
            faiss.write_index(self._inner, name)
            with temporary.open("r+b") as file:
                stamp = replace(self.stamp, sha256=_sha256(file))
                text = json.dumps(asdict(stamp), sort_keys=True).encode()
                file.seek(0, os.SEEK_END)
                file.write(text + TAIL.pack(len(text), zlib.crc32(text), MAGIC))
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(durable.PRIVATE_FILE)
            temporary.replace(folder / FILE)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        durable.sync_folder(folder)
        return stamp

    def _parameters(self, kept: int, allowed: Ids | None) -> Any:  # noqa: ANN401 - of faiss
        faiss = _faiss()
        selector = {} if allowed is None else {"sel": faiss.IDSelectorBatch(allowed)}
        if self.stamp.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=max(SEARCH_WIDTH, kept), **selector)
        if self.stamp.kind == "ivf":
            return faiss.SearchParametersIVF(
                nprobe=PROBES if allowed is None else ALL_LISTS, **selector
            )
        return faiss.SearchParameters(**selector) if selector else None


def build(
    embedder: str, dim: int, size: int, vectors: Iterable[tuple[Ids, Half]], policy: Policy
) -> Index:
    """Make an index anew.

    Args:
        embedder: the space's stamp.
        dim: of the vectors.
        size: how many there will be, about; decides the kind.
        vectors: chunks and their vectors, in batches.
        policy: see there.
    """
    faiss = _faiss()
    faiss.omp_set_num_threads(1)
    kind = policy.kind(size)
    waiting: Iterable[tuple[Ids, Half]] = vectors
    if kind == "ivf":
        held = list(vectors)
        waiting = held
        inner = _inverted_lists(dim, size, held)
    elif kind == "hnsw":
        inner = faiss.IndexHNSWSQ(
            dim, faiss.ScalarQuantizer.QT_fp16, GRAPH_LINKS, faiss.METRIC_INNER_PRODUCT
        )
        inner.hnsw.efConstruction = BUILD_WIDTH
        inner.is_trained = True  # half precision has nothing to learn
    else:
        inner = faiss.IndexScalarQuantizer(
            dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
    empty = Index(faiss.IndexIDMap2(inner), IndexStamp(embedder, kind, dim, 0, 0))
    empty._inner.own_fields = True
    inner.this.disown()
    return empty.updated(np.zeros(0, np.int64), waiting, 0)


def load(folder: Path) -> Index | None:
    """The index in `folder`; None if there is none, or its bytes are not those once written."""
    faiss = _faiss()
    stamp = verified_stamp(folder)
    if stamp is None:
        return None
    faiss.omp_set_num_threads(1)
    try:
        inner = faiss.read_index(str(folder / FILE))
    except RuntimeError:
        return None
    # Another process may have put its file there between the two readings.
    if read_stamp(folder) != stamp or inner.ntotal != stamp.ntotal:
        return None
    return Index(inner, stamp)


def verified_stamp(folder: Path) -> IndexStamp | None:
    """The stamp of the index in `folder` if its bytes are those that were written, else None."""
    try:
        with (folder / FILE).open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            found = read_tail(file, length)
            if found is None or _sha256(file, length - found[1]) != found[0].sha256:
                return None
    except OSError:
        return None
    return found[0]


def read_stamp(folder: Path) -> IndexStamp | None:
    """What the index in `folder` says it is of; None if there is none that can be read."""
    try:
        with (folder / FILE).open("rb") as file:
            found = read_tail(file, file.seek(0, os.SEEK_END))
    except OSError:
        return None
    return None if found is None else found[0]


def read_tail(file: Any, length: int) -> tuple[IndexStamp, int] | None:  # noqa: ANN401 - a binary file
    """The stamp at the end of an open file, and the bytes that it takes there."""
    if length < TAIL.size:
        return None
    file.seek(length - TAIL.size)
    size, checksum, magic = TAIL.unpack(file.read(TAIL.size))
    if magic != MAGIC or size + TAIL.size > length:
        return None
    file.seek(length - TAIL.size - size)
    text = file.read(size)
    if zlib.crc32(text) != checksum:
        return None
    try:
        values = json.loads(text)
        return (IndexStamp(**values), size + TAIL.size) if values["format"] == FORMAT else None
    except (ValueError, TypeError, KeyError):
        return None


def _sha256(file: Any, length: int | None = None) -> str:  # noqa: ANN401 - a binary file
    digest = hashlib.sha256()
    file.seek(0)
    left = length if length is not None else 2**62
    while left and (part := file.read(min(left, 2**20))):
        digest.update(part)
        left -= len(part)
    return digest.hexdigest()


def _inverted_lists(dim: int, size: int, held: list[tuple[Ids, Half]]) -> Any:  # noqa: ANN401
    faiss = _faiss()
    lists = max(1, int(4 * size**0.5))
    every = max(1, size // (40 * lists))
    sample = np.concatenate([vectors[::every] for _ids, vectors in held]).astype(np.float32)
    quantizer = faiss.IndexFlatIP(dim)
    inner = faiss.IndexIVFScalarQuantizer(
        quantizer, dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    inner.own_fields = True
    quantizer.this.disown()
    inner.cp.verbose = False
    inner.cp.min_points_per_centroid = 1
    inner.train(sample)
    return inner


def _faiss() -> Any:  # noqa: ANN401 - its annotations do not know what its Python layer adds
    import faiss

    return faiss
