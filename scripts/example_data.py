"""Make the worked example's three nodes from captured feeds and question sets.

    python scripts/example_data.py --feeds FEEDS --qa QA --out DIR
    scripts/demo --data DIR

`FEEDS` holds feed files; `QA` holds `SET.contexts.jsonl` and `SET.questions.jsonl` of `xquad-es`,
`xquad-en` and `pubmedqa`. Each node reads the feeds of its language or field and trains on the
question–answer pairs of a set. Documents, with all questions about them, are dealt out whole: of
five, one is held out to measure with and one goes to the operator's gate set (`DIR/gate.jsonl`);
nothing of either is in any node's training rows. It does not clean text: the node does that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import feedparser

from client.rows import to_document

Row = dict[str, Any]
Documents = Sequence[tuple[str, list[Row]]]
HELD_OUT, GATE, SHARES = 0, 1, 5
MAX_ENTRIES = 120
MAX_ROWS = 240
MAX_MEASURED = 40
MIN_CHARACTERS = 80
SHOWN_CHARACTERS = 1500
COMMON = {
    "es": "el la los las de que y en un una por con para del se su es al lo",
    "en": "the of and to in is that for on with as it was this by be are at",
}
NODES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "periodico": ("es", "xquad-es", ("04-", "08-", "20-", "35-", "36-", "37-", "38-")),
    "newsroom": ("en", "xquad-en", ("48-", "49-", "51-", "24-", "54-")),
    "laboratory": ("en", "pubmedqa", ("06-", "07-", "16-", "17-", "50-")),
}


@dataclass(frozen=True)
class Shares:
    """Rows to train on, to measure with, and for the operator's gate."""

    train: list[Row]
    held_out: list[Row]
    gate: list[Row]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write `DIR/NODE/train.jsonl`, `DIR/NODE/heldout.jsonl` and `DIR/gate.jsonl`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("feeds", "qa", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args(arguments)
    gate: list[Row] = []
    for node, (lang, questions, prefixes) in NODES.items():
        entries = deal(list(entries_of(options.feeds, prefixes, lang)))
        pairs = deal(list(pairs_of(options.qa, questions, lang)))
        train = entries.train[:MAX_ENTRIES]
        train += pairs.train[: MAX_ROWS - len(train)]
        held_out = [*entries.held_out[:MAX_MEASURED], *pairs.held_out[:MAX_MEASURED]]
        gate += [*entries.gate[:MAX_MEASURED], *pairs.gate[:MAX_MEASURED]]
        write_rows(options.out / node / "train.jsonl", train)
        write_rows(options.out / node / "heldout.jsonl", held_out)
        print(f"{node}: {len(train)} training rows, {len(held_out)} held out")
    write_rows(options.out / "gate.jsonl", [gate_row(row) for row in gate])
    print(f"gate: {len(gate)} rows")


def deal(documents: Documents) -> Shares:
    """Deal whole documents out, in the order of their hash."""
    shares = Shares([], [], [])
    hashed = sorted(((_hash(key), rows) for key, rows in documents), key=lambda pair: pair[0])
    for number, rows in hashed:
        place = number % SHARES
        side = {HELD_OUT: shares.held_out, GATE: shares.gate}.get(place, shares.train)
        side.extend(rows)
    return shares


def gate_row(row: Row) -> Row:
    """A row as the server's gate reads it: clean text, or question and answer."""
    document = to_document(row)
    kept = {"text": document.text, "question": document.question, "answer": document.answer}
    return {name: value for name, value in kept.items() if value} | {"lang": document.lang}


def is_in(lang: str, text: str) -> bool:
    """Whether the commonest words of `lang` outnumber those of the other language."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"<[^>]*>", " ", text).lower())
    counts = {
        name: sum(word in common.split() for word in words) for name, common in COMMON.items()
    }
    return counts[lang] == max(counts.values()) > 0


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def entries_of(folder: Path, prefixes: Sequence[str], lang: str) -> Iterator[tuple[str, list[Row]]]:
    """One document per feed entry that has text; an entry seen in two captures counts once."""
    seen: set[str] = set()
    for path in sorted(path for path in folder.iterdir() if path.name.startswith(tuple(prefixes))):
        for entry in feedparser.parse(path.read_bytes()).entries:
            contents = [part.get("value", "") for part in entry.get("content", [])]
            text = max([entry.get("summary", ""), *contents], key=len)
            title = entry.get("title", "")
            key = title + text[:200]
            if len(text) >= MIN_CHARACTERS and key not in seen and is_in(lang, text):
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
