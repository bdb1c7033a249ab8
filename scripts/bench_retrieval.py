"""Retrieval measured: quality on question sets, speed and memory on many chunks.

    python scripts/bench_retrieval.py quality --data FOLDER --cache FOLDER
    python scripts/bench_retrieval.py speed --data FOLDER --cache FOLDER

`quality` searches each set by words alone and by words and vectors, and compares with the gates.
`speed` makes a corpus of recombined sentences with vectors near real ones, then starts a process
of its own for every measurement. `--cache` keeps vectors between runs. Exit code 1: a target is
missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import bench_retrieval_quality as quality
import bench_retrieval_speed as speed
from bench_retrieval_vectors import CachedEncoder

from federation import durable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two and print its table; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["quality", "speed"])
    parser.add_argument("--data", type=Path, required=True, help="<set>.contexts.jsonl, …")
    parser.add_argument("--sets", nargs="*", help="quality: only these; all of the folder without")
    parser.add_argument("--embedder", default="", help="as the setting of that name")
    parser.add_argument("--cache", type=Path, help="folder of vectors kept between runs")
    parser.add_argument("--chunks", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--questions", type=int, default=200, help="speed: how many are timed")
    parser.add_argument("--work", type=Path, help="speed: folder for the stores, kept")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    options = parser.parse_args(arguments)
    if not any(options.data.glob("*.contexts.jsonl")):
        parser.error(f"there is no question set in {options.data}")
    with CachedEncoder(options.embedder, options.cache) as encoder:
        if options.what == "quality":
            found = quality.measure(options.data, options.sets or [], encoder, options.seed)
        else:
            found = speed.measure(options, encoder)
    lines, is_good = (quality if options.what == "quality" else speed).report(found)
    print("\n".join(lines))
    if options.out:
        durable.write_text(options.out, json.dumps(found, indent=1) + "\n")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
