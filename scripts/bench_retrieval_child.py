"""One process that opens a store, asks questions and tells how long they took."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from rag.retrieval.library import Library


def main() -> None:
    """Ask every question of a file; print seconds to the first answer, latencies and memory."""
    folder, embedder, questions = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    process = psutil.Process()
    asked = json.loads(questions.read_text(encoding="utf-8"))
    with Library(folder / "corpus.jsonl", folder / "rag", embedder=embedder) as library:
        library.warm()
        found = library.search(asked[0])
        first = time.time() - process.create_time()
        first_cpu = time.process_time()
        after_first = process.memory_info().rss
        taken, cpu, embedding = [], [], []
        for question in asked[1:]:
            start, used = time.perf_counter(), time.process_time()
            found = library.search(question)
            taken.append(1000 * (time.perf_counter() - start))
            cpu.append(1000 * (time.process_time() - used))
            embedding.append(1000 * found.seconds["embed"])
        rss = process.memory_info().rss
    result = {
        "first_s": first,
        "first_cpu_s": first_cpu,
        "p50_ms": float(np.percentile(taken, 50)),
        "p95_ms": float(np.percentile(taken, 95)),
        "cpu_p50_ms": float(np.percentile(cpu, 50)),
        "cpu_p95_ms": float(np.percentile(cpu, 95)),
        "embed_p50_ms": float(np.percentile(embedding, 50)),
        "rss_mb": max(rss, after_first) / 2**20,
        "embedder": found.embedder,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
