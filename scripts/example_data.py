"""Make the worked example's three nodes from captured feeds and question sets.

    python scripts/example_data.py --feeds FEEDS --qa QA --out DIR
    scripts/demo --data DIR

`FEEDS` holds feed files; `QA` holds `SET.contexts.jsonl` and `SET.questions.jsonl` of `xquad-es`,
`xquad-en` and `pubmedqa`. Each node reads the feeds of its language or field and trains on the
question–answer pairs of a set. Every fifth document, with all questions about it, is held out:
nothing of it is in any node's training rows. It does not clean text: the node does that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import feedparser

Row = dict[str, Any]
HELD_OUT_EVERY = 5
MAX_ENTRIES = 120
MAX_PAIRS = 120
MAX_HELD_OUT = 60
MIN_CHARACTERS = 80
SHOWN_CHARACTERS = 1500
NODES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "periodico": ("es", "xquad-es", ("08-", "20-", "35-", "36-", "37-", "38-", "04-")),
    "newsroom": ("en", "xquad-en", ("48-", "49-", "51-", "24-", "54-")),
    "laboratory": ("en", "pubmedqa", ("06-", "07-", "16-", "17-", "50-")),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write `DIR/NODE/train.jsonl` and `heldout.jsonl`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("feeds", "qa", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args(arguments)
    for node, (lang, questions, prefixes) in NODES.items():
        entries = list(entries_of(options.feeds, prefixes, lang))
        pairs = list(pairs_of(options.qa, questions, lang))
        sides = (split(entries, MAX_ENTRIES), split(pairs, MAX_PAIRS))
        train = [row for side in sides for row in side[0]]
        held_out = [row for side in sides for row in side[1]]
        for name, rows in (("train", train), ("heldout", held_out)):
            path = options.out / node / f"{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{node}: {len(train)} training rows, {len(held_out)} held out")


def split(documents: Sequence[tuple[str, list[Row]]], most: int) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out, by document; the order is that of the documents' hash."""
    train: list[Row] = []
    held_out: list[Row] = []
    hashed = sorted(((_hash(key), rows) for key, rows in documents), key=lambda pair: pair[0])
    for number, rows in hashed:
        side = held_out if number % HELD_OUT_EVERY == 0 else train
        side.extend(rows)
    return train[:most], held_out[: min(MAX_HELD_OUT, most)]


def entries_of(folder: Path, prefixes: Sequence[str], lang: str) -> Iterator[tuple[str, list[Row]]]:
    """One document per feed entry that has text; an entry seen in two captures counts once."""
    seen: set[str] = set()
    for path in sorted(path for path in folder.iterdir() if path.name.startswith(tuple(prefixes))):
        for entry in feedparser.parse(path.read_bytes()).entries:
            contents = [part.get("value", "") for part in entry.get("content", [])]
            text = max([entry.get("summary", ""), *contents], key=len)
            title = entry.get("title", "")
            key = title + text[:200]
            if len(text) >= MIN_CHARACTERS and key not in seen:
                seen.add(key)
                yield (
                    key,
                    [{"title": title, "summary": text[:SHOWN_CHARACTERS], "lang": lang}],
                )


def pairs_of(folder: Path, name: str, lang: str) -> Iterator[tuple[str, list[Row]]]:
    """One document per article, with its question–answer pairs."""
    contexts = {row["id"]: row for row in _read(folder / f"{name}.contexts.jsonl")}
    articles: dict[str, list[Row]] = {}
    for row in _read(folder / f"{name}.questions.jsonl"):
        context = contexts[row["context_id"]]
        answer = row.get("long_answer") or row["answer"]
        pair = {"question": row["question"], "answer": answer, "lang": lang}
        articles.setdefault(str(context.get("title") or context["id"]), []).append(pair)
    yield from articles.items()


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


if __name__ == "__main__":
    main()
