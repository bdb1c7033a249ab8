"""Speed and memory of retrieval at many chunks; every measurement in a process of its own.

The corpus is made of real paragraphs' sentences, recombined with a seed; the vector of a chunk is
that of one of its paragraphs, moved a little. Words repeat more than in a real corpus of that size,
so lists are longer and the times rather too long than too short.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench_retrieval_quality import as_document, read_rows
from bench_retrieval_vectors import CachedEncoder
from numpy.typing import NDArray

from rag.retrieval import postings, upkeep, vectors
from rag.retrieval.chunks import Chunk, sentences
from rag.retrieval.store import Store

SETS = ("xquad-en", "xquad-es", "pubmedqa")
TARGETS = {10_000: {"p95_ms": 40}, 100_000: {"p95_ms": 80, "rss_mb": 700}}
FIRST_S = 2.0
SENTENCES, MOVED = 5, 0.5
CHILD = Path(__file__).with_name("bench_retrieval_child.py")


def measure(options: argparse.Namespace, encoder: CachedEncoder) -> dict[str, Any]:
    """Measure every size: chunks -> numbers."""
    choice = encoder.require()
    found = {}
    for size in options.chunks:
        with tempfile.TemporaryDirectory() as scratch:
            folder = (options.work or Path(scratch)) / f"chunks-{size}"
            made = _make(folder, size, options, encoder)
            asked = _questions(options, folder)
            runs = [_child(folder, choice.stamp.embedder, asked) for _run in range(2)]
            found[str(size)] = made | runs[1] | {"first_cold_s": runs[0]["first_s"]}
            words = _child(folder, "none", asked)
            found[str(size)] |= {
                f"words_{k}": words[k] for k in ("p50_ms", "p95_ms", "cpu_p95_ms", "first_s")
            }
    return found


def report(found: dict[str, Any]) -> tuple[list[str], bool]:
    """Lines of a table, and whether all targets are met."""
    keys = ["p50_ms", "p95_ms", "cpu_p95_ms", "words_cpu_p95_ms", "first_s", "first_cpu_s"]
    keys += ["rss_mb", "index_s", "words_s"]
    lines = [f"| chunks | kind | {' | '.join(keys)} |", "|---" * (len(keys) + 2) + "|"]
    faults: list[str] = []
    for size, numbers in found.items():
        cells = " | ".join(f"{numbers[key]:.1f}" for key in keys)
        lines.append(f"| {size} | {numbers['kind']} | {cells} |")
        targets = TARGETS.get(int(size), {}) | {"first_s": FIRST_S}
        faults += [
            f"MISSED at {size}: {key} is {numbers[key]:.1f}, the target {target}"
            for key, target in targets.items()
            if numbers[key] > target
        ]
    return [*lines, *(faults or ["all targets met"])], not faults


def _make(
    folder: Path, size: int, options: argparse.Namespace, encoder: CachedEncoder
) -> dict[str, Any]:
    """Fill a store with `size` chunks and index it, unless that was done before."""
    with Store(folder / "rag") as store:
        if store.count("chunks") < size:
            _fill(store, size, options, encoder)
        start = time.perf_counter()
        stamp = upkeep.write_index(store, anew=True)
        if stamp is None:
            raise SystemExit("the store has no vectors")
        made = {"kind": stamp.kind, "index_s": time.perf_counter() - start, "chunks": size}
        start = time.perf_counter()
        (store.folder / postings.FILE).unlink(missing_ok=True)
        upkeep.write_postings(store)
        return made | {"words_s": time.perf_counter() - start}


def _fill(store: Store, size: int, options: argparse.Namespace, encoder: CachedEncoder) -> None:
    rng, noise = random.Random(options.seed), np.random.default_rng(options.seed)
    pool = [row for name in SETS for row in read_rows(options.data / f"{name}.contexts.jsonl")]
    known = encoder.encode([str(row["text"]) for row in pool], "passage")
    space = vectors.space_of(store, encoder.stamp)
    vectors.keep_probes(store, space, encoder.encode(upkeep.nonsense(), "query"))
    parts = [[str(row["text"])[a:b] for a, b in sentences(str(row["text"]))] for row in pool]
    for batch in _batches(size):
        bases = [rng.randrange(len(pool)) for _number in batch]
        with store.transaction():
            for number, base in zip(batch, bases, strict=True):
                text = _mixed(rng, pool, parts, base)
                one = as_document(f"{number:032x}", text, str(pool[base]["lang"]))
                store.put(one, [Chunk(0, len(text))], cut="bench", reading=0)
        chunks = vectors.missing(store, space)[::-1]
        vectors.add(store, space, chunks, _moved(known[bases], noise))


def _batches(size: int) -> Iterator[range]:
    for start in range(0, size, 1000):
        yield range(start, min(start + 1000, size))


def _mixed(
    rng: random.Random, pool: list[dict[str, Any]], parts: list[list[str]], base: int
) -> str:
    """Two sentences of the paragraph `base`, others of any of the same language."""
    chosen = rng.sample(parts[base], min(2, len(parts[base])))
    while len(chosen) < SENTENCES:
        other = rng.randrange(len(pool))
        if pool[other]["lang"] == pool[base]["lang"] and parts[other]:
            chosen.append(rng.choice(parts[other]))
    return " ".join(chosen)


def _moved(known: NDArray[np.float32], noise: np.random.Generator) -> NDArray[np.float32]:
    """Vectors about MOVED away from those given, of length 1."""
    step = noise.normal(size=known.shape).astype(np.float32)
    moved = known + MOVED * step / np.linalg.norm(step, axis=1, keepdims=True)
    found: NDArray[np.float32] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return found


def _questions(options: argparse.Namespace, folder: Path) -> Path:
    rng = random.Random(options.seed)
    every = [
        str(row["question"])
        for name in SETS
        for row in read_rows(options.data / f"{name}.questions.jsonl")
    ]
    path = folder / "questions.json"
    path.write_text(json.dumps(rng.sample(every, options.questions)), encoding="utf-8")
    return path


def _child(folder: Path, embedder: str, questions: Path) -> dict[str, Any]:
    command = [sys.executable, str(CHILD), str(folder), embedder, str(questions)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as `flower-client rag` sets it
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    found: dict[str, Any] = json.loads(answer.stdout)
    return found
