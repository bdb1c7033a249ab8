"""The index's file: three kinds, its stamp inside, made again if it is not as written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.retrieval import index, upkeep, vectors
from rag.retrieval.chunks import Cutter
from rag.retrieval.index import POLICY, Index, IndexStamp, Policy
from rag.retrieval.store import Store
from tests.corpora import numbered

DIM = 16
STAMP = '{"dim": 16}'
OTHER = '{"dim": 16, "of": "another"}'
POLICIES = {
    "flat": Policy(),
    "hnsw": Policy(flat_below=10),
    "ivf": Policy(flat_below=10, graph_to=20),
}


def unit(count: int, seed: int = 0) -> NDArray[np.float32]:
    found = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def make(kind: str, count: int = 500) -> tuple[Index, NDArray[np.float32], vectors.Ids]:
    matrix, ids = unit(count), np.arange(count, dtype=np.int64) * 7 + 3
    parts = [(ids[:200], matrix[:200].astype(np.float16)), (ids[200:], matrix[200:].astype("f2"))]
    return index.build(STAMP, DIM, count, parts, POLICIES[kind]), matrix, ids


class Random:
    """An encoder whose vectors depend on the text alone."""

    def encode(
        self,
        texts: Sequence[str],
        kind: Literal["query", "passage"],  # noqa: ARG002
    ) -> NDArray[np.float32]:
        return np.concatenate([unit(1, seed=sum(text.encode())) for text in texts])

    def pieces(self, word: str) -> int:
        return len(word)


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "rag") as opened:
        with opened.transaction():
            for one in numbered(60):
                opened.put(one, Cutter().cut(one), cut="", reading=0)
        upkeep.embed_missing(opened, STAMP, Random())
        yield opened


def kind_of(stamp: IndexStamp | None) -> str:
    return stamp.kind if stamp else ""


def test_the_kind_goes_with_the_size() -> None:
    sizes = (0, 99_999, 100_000, 1_000_000, 1_000_001)
    assert [POLICY.kind(n) for n in sizes] == ["flat", "flat", "hnsw", "hnsw", "ivf"]


@pytest.mark.parametrize("kind", POLICIES)
def test_the_nearest_are_found_with_their_cosines(kind: str) -> None:
    made, matrix, ids = make(kind)
    assert made.stamp.kind == kind
    assert made.stamp.ntotal == 500
    hits = 0
    for at in range(0, 500, 25):
        found, cosines = made.search(matrix[at], 5)
        hits += int(found[0] == ids[at])
        assert np.all(np.diff(cosines) <= 0)
        exact = matrix[(found - 3) // 7] @ matrix[at]
        assert np.allclose(cosines, exact, atol=0.02)
    assert hits == 20


@pytest.mark.parametrize("kind", POLICIES)
def test_only_what_is_allowed_is_found(kind: str) -> None:
    made, matrix, ids = make(kind)
    allowed = ids[100:140]
    found, _cosines = made.search(matrix[0], 30, allowed)
    assert len(found) >= 20
    assert set(found) <= set(allowed)
    assert made.search(matrix[0], 30, np.zeros(0, np.int64))[0].size == 0


@pytest.mark.parametrize("kind", POLICIES)
def test_what_is_saved_is_loaded(kind: str, tmp_path: Path) -> None:
    made, matrix, ids = make(kind)
    stamp = made.with_floor(0.5).save(tmp_path)
    loaded = index.load(tmp_path)
    assert loaded is not None
    assert loaded.stamp == stamp == index.read_stamp(tmp_path) == index.verified_stamp(tmp_path)
    assert (stamp.embedder, stamp.dim, stamp.floor) == (STAMP, DIM, 0.5)
    assert np.array_equal(loaded.ids, ids)
    assert np.array_equal(loaded.search(matrix[7], 9)[0], made.search(matrix[7], 9)[0])
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [index.FILE]
    assert (tmp_path / index.FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", POLICIES)
def test_more_can_be_added_to_what_was_loaded(kind: str, tmp_path: Path) -> None:
    make(kind)[0].save(tmp_path)
    loaded = index.load(tmp_path)
    assert loaded is not None
    more = unit(3, seed=9)
    ids = np.array([9001, 9002, 9003])
    gone = np.array([3, 10])
    updated = loaded.updated(gone, [(ids, more.astype(np.float16))], 12)
    assert updated.search(more[1], 1)[0].tolist() == [9002]
    assert updated.stamp.generation == 12
    assert np.isin(gone, updated.ids).all() == (kind != "flat")
    assert updated.stamp.ntotal == (501 if kind == "flat" else 503)


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    made = index.build(STAMP, DIM, 0, [], POLICY)
    assert made.search(unit(1)[0], 5)[0].size == 0
    made.save(tmp_path)
    assert index.load(tmp_path) is not None


@pytest.mark.parametrize("at", [0, 100, -400, -20, -1])
def test_a_changed_byte_is_seen(tmp_path: Path, at: int) -> None:
    make("flat")[0].save(tmp_path)
    data = bytearray((tmp_path / index.FILE).read_bytes())
    data[at] ^= 0xFF
    (tmp_path / index.FILE).write_bytes(data)
    assert index.load(tmp_path) is None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_cut_file_is_seen(tmp_path: Path, share: float) -> None:
    make("flat")[0].save(tmp_path)
    path = tmp_path / index.FILE
    os.truncate(path, int(share * path.stat().st_size))
    assert index.load(tmp_path) is None
    path.unlink()
    assert index.load(tmp_path) is None


def test_the_file_is_brought_up_to_the_store_and_left_alone_if_it_is(filled: Store) -> None:
    stamp = upkeep.write_index(filled)
    assert stamp is not None
    assert stamp.ntotal == filled.count("chunks")
    assert stamp.generation == filled.generation
    written = (filled.folder / index.FILE).stat().st_mtime_ns
    assert upkeep.write_index(filled) == stamp
    assert (filled.folder / index.FILE).stat().st_mtime_ns == written
    with filled.transaction():
        filled.remove(numbered(1)[0].id)
    again = upkeep.write_index(filled)
    assert again is not None
    assert again.ntotal == filled.count("chunks") < stamp.ntotal
    assert again.generation == filled.generation


def test_a_damaged_or_foreign_file_is_made_again_from_the_store(filled: Store) -> None:
    good = upkeep.write_index(filled)
    (filled.folder / index.FILE).write_bytes(b"nonsense")
    assert upkeep.write_index(filled) == good
    index.build(OTHER, DIM, 0, [], POLICY).save(filled.folder)
    assert upkeep.write_index(filled) == good


def test_tombstones_are_cleared_at_a_fifth(filled: Store) -> None:
    policy = POLICIES["hnsw"]
    chunks = filled.count("chunks")
    upkeep.write_index(filled, policy=policy)
    few, many = numbered(60)[:10], numbered(60)[10:20]
    for gone, left in ((few, chunks), (many, None)):
        with filled.transaction():
            for one in gone:
                filled.remove(one.id)
        stamp = upkeep.write_index(filled, policy=policy)
        assert stamp is not None
        assert stamp.ntotal == (left or filled.count("chunks"))


def test_an_index_that_outgrew_its_kind_is_made_anew(filled: Store) -> None:
    assert kind_of(upkeep.write_index(filled)) == "flat"
    with filled.transaction():
        filled.remove(numbered(1)[0].id)
    assert kind_of(upkeep.write_index(filled, policy=POLICIES["hnsw"])) == "hnsw"


def test_another_space_takes_over_at_once_and_the_old_one_goes(filled: Store) -> None:
    upkeep.write_index(filled)
    upkeep.embed_missing(filled, OTHER, Random())
    assert vectors.active_stamp(filled) == STAMP
    before = index.read_stamp(filled.folder)
    assert before is not None
    assert before.embedder == STAMP
    stamp = upkeep.switch_space(filled, OTHER)
    assert (stamp.embedder, stamp.generation) == (OTHER, filled.generation)
    assert vectors.active_stamp(filled) == OTHER
    assert vectors.find_space(filled, STAMP) == 0
    assert vectors.count(filled, vectors.find_space(filled, OTHER)) == filled.count("chunks")


def test_embedding_stops_in_time_and_goes_on_where_it_was(filled: Store) -> None:
    space = vectors.space_of(filled, OTHER)
    assert upkeep.embed_missing(filled, OTHER, Random(), until=0.0) == 0
    assert len(vectors.missing(filled, space)) == filled.count("chunks")
    seen: list[tuple[int, int]] = []
    upkeep.embed_missing(filled, OTHER, Random(), report=lambda *at: seen.append(at))
    assert seen[-1] == (filled.count("chunks"),) * 2
    assert upkeep.embed_missing(filled, OTHER, Random()) == 0
