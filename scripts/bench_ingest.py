"""Entries per CPU-second of the ingest: python scripts/bench_ingest.py FOLDER [--rounds 5].

Every feed file of FOLDER is read by the child, cleaned, compared and written to a fresh corpus, as
`flower-client ingest` does it once the bytes are there. Counted is the CPU time of both processes,
start-up of the child included; the network is not. Beside it, as a yardstick of the machine and its
load, feedparser alone as it comes, in the same round. Prints each round and the medians as JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from federation.errors import FormatError
from rag.ingest.corpus import open_corpus
from rag.ingest.feed_state import FeedState
from rag.ingest.feeds import Feed
from rag.ingest.fetch import MAX_BYTES
from rag.ingest.harvest import Wishes, bring_in
from rag.ingest.inflate import gunzip
from rag.ingest.reader import Reader

SKIPPED = (".md", ".tsv", ".txt", ".json")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of feed files")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"there is no folder {options.folder}")
    bodies = read_bodies(options.folder)
    rates, yardsticks = [], []
    for number in range(1, options.rounds + 1):
        measured = measure(bodies) | {"feedparser_alone_per_cpu_s": feedparser_alone(bodies)}
        rates.append(measured["entries_per_cpu_s"])
        yardsticks.append(measured["feedparser_alone_per_cpu_s"])
        print(json.dumps({"round": number, **measured}))
    medians = {"median": statistics.median(rates), "alone": statistics.median(yardsticks)}
    print(json.dumps({"files": len(bodies), **medians}))


def read_bodies(folder: Path) -> list[tuple[str, bytes]]:
    """Name and unpacked bytes of each feed file."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    wanted = [path for path in paths if path.suffix not in SKIPPED]
    return [(path.name, gunzip(path.read_bytes(), MAX_BYTES)) for path in wanted]


def measure(bodies: list[tuple[str, bytes]]) -> dict[str, float]:
    """One round on a fresh corpus."""
    counts = {"entries": 0, "new": 0, "failed": 0}
    cpu, wall = _cpu_s(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with (
            open_corpus(place / "corpus.jsonl", place / "index.sqlite") as corpus,
            Reader() as reader,
        ):
            for name, body in bodies:
                feed = Feed(url=f"https://feeds.example/{name}")
                try:
                    content = reader.feed(body, url=feed.url)
                except FormatError:
                    counts["failed"] += 1
                    continue
                now = datetime.now(UTC)
                harvest = bring_in(corpus, feed, content, Wishes(), FeedState(), now)
                counts["entries"] += len(content.entries)
                counts["new"] += harvest.new
    spent = _cpu_s() - cpu
    rate = counts["entries"] / spent
    seconds = {"cpu_s": round(spent, 3), "wall_s": round(time.perf_counter() - wall, 3)}
    return {**counts, **seconds, "entries_per_cpu_s": round(rate, 1)}


def feedparser_alone(bodies: list[tuple[str, bytes]]) -> float:
    """Entries per CPU-second of feedparser with its own settings, nothing else done."""
    import feedparser

    feedparser.api.PREFERRED_XML_PARSERS = ["drv_libxml2"]  # its own, whatever was set before
    cpu, entries = _cpu_s(), 0
    for name, body in bodies:
        headers = {"content-location": f"https://feeds.example/{name}"}
        entries += len(feedparser.parse(io.BytesIO(body), response_headers=headers).entries)
    return round(entries / (_cpu_s() - cpu), 1)


def _cpu_s() -> float:
    """CPU seconds of this process and its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    main()
