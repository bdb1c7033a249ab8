"""Quality of retrieval: nDCG@10, hit@1, hit@5, MRR@10 with intervals, against the gates."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_retrieval_vectors import CachedEncoder
from numpy.typing import NDArray

from rag.documents import Document
from rag.retrieval import embedders, upkeep
from rag.retrieval.dense import VectorSearch
from rag.retrieval.retrieve import Retriever
from rag.retrieval.store import Store

GATES = {"xquad-en": (0.974, 0.992), "xquad-es": (0.965, 0.988), "pubmedqa": (0.982, 0.990)}
SLACK = 0.002  # hybrid may be so much below words alone, nowhere more
DEPTH, PASSAGES = 10, 60
RESAMPLES = 1000


def measure(data: Path, wanted: Sequence[str], encoder: CachedEncoder, seed: int) -> dict[str, Any]:
    """Measure every set of the folder `data`, or those `wanted`: set -> system -> numbers."""
    names = wanted or sorted(p.name.split(".")[0] for p in data.glob("*.contexts.jsonl"))
    return {name: _measure(data, name, encoder, seed) for name in names}


def report(found: dict[str, Any]) -> tuple[list[str], bool]:
    """Lines of a table, and whether all gates are passed."""
    lines = [
        "| set | system | nDCG@10 [95 %] | hit@1 | hit@5 | MRR@10 |",
        "|---|---|---|---|---|---|",
    ]
    faults: list[str] = []
    for name, systems in found.items():
        for system, numbers in systems.items():
            low, high = numbers["interval"]
            lines.append(
                f"| {name} | {system} | {numbers['ndcg']:.4f} [{low:.3f}, {high:.3f}] | "
                f"{numbers['hit1']:.4f} | {numbers['hit5']:.4f} | {numbers['mrr']:.4f} |"
            )
        faults += _faults(name, systems)
    return [*lines, *(faults or ["all gates passed"])], not faults


def _faults(name: str, systems: dict[str, Any]) -> list[str]:
    words, hybrid = systems["words"], systems.get("hybrid")
    if hybrid is None:
        return [f"MISSED {name}: no embedder"]
    faults = []
    if hybrid["ndcg"] < words["ndcg"] - SLACK:
        faults.append(f"MISSED {name}: hybrid is below words alone")
    ndcg, hit5 = GATES.get(name, (0.0, 0.0))
    if hybrid["ndcg"] < ndcg or hybrid["hit5"] < hit5:
        faults.append(f"MISSED {name}: the gate is {ndcg} / {hit5}")
    return faults


def _measure(data: Path, name: str, encoder: CachedEncoder, seed: int) -> dict[str, Any]:
    contexts = read_rows(data / f"{name}.contexts.jsonl")
    questions = read_rows(data / f"{name}.questions.jsonl")
    with tempfile.TemporaryDirectory() as scratch, Store(Path(scratch) / "rag") as store:
        fill(store, contexts, encoder)
        upkeep.write_postings(store)
        systems = {"words": Retriever(store)}
        if encoder.stamp:
            print(f"{name}: vectors of {store.count('chunks')} chunks", file=sys.stderr)
            upkeep.embed_missing(store, encoder.stamp, encoder)
            upkeep.write_index(store)
            encoder.encode([str(q["question"]) for q in questions], "query")
            dense = VectorSearch(encoder.stamp, "bench", lambda: encoder, patience_s=None)
            systems["hybrid"] = Retriever(store, dense)
        return {
            system: _numbers(np.array([_rank(retriever, q) for q in questions]), seed)
            for system, retriever in systems.items()
        }


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read JSON Lines."""
    lines = path.read_text(encoding="utf-8").split("\n")  # splitlines ends lines at U+2028 too
    return [json.loads(line) for line in lines if line]


def fill(store: Store, contexts: Sequence[dict[str, Any]], encoder: CachedEncoder) -> None:
    """Put the paragraphs of a set into a store: their text alone, no title, date or source."""
    cutter = embedders.cutter_of(encoder.choice)
    with store.transaction():
        for row in contexts:
            one = as_document(str(row["id"]), str(row["text"]), str(row["lang"]))
            store.put(one, cutter.cut(one), cut=cutter.stamp, reading=0)


def as_document(id_: str, text: str, language: str) -> Document:
    """A document that is a text and nothing more."""
    return Document(id_, 1, "", "file", "", "", "", text, "", "", False, language, (), "")


def _rank(retriever: Retriever, question: dict[str, Any]) -> int:
    """Place of the right paragraph among the paragraphs of the best passages, from 0."""
    found = retriever.search(str(question["question"]), PASSAGES)
    order = list(dict.fromkeys(passage.document_id for passage in found.passages))
    right = str(question["context_id"])
    return order.index(right) if right in order[:DEPTH] else DEPTH


def _numbers(ranks: NDArray[np.int64], seed: int) -> dict[str, Any]:
    there = ranks < DEPTH
    gains = np.where(there, 1 / np.log2(ranks + 2), 0.0)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(gains), (RESAMPLES, len(gains)))
    low, high = np.percentile(gains[picks].mean(axis=1), [2.5, 97.5])
    return {
        "questions": len(ranks),
        "ndcg": float(gains.mean()),
        "interval": [float(low), float(high)],
        "hit1": float((ranks < 1).mean()),
        "hit5": float((ranks < 5).mean()),
        "mrr": float(np.where(there, 1 / (ranks + 1), 0.0).mean()),
    }
