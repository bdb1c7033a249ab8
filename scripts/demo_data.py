"""Who the demo's three volunteers are and what each of them reads.

Every fifth row of each field is held out: no node trains on it, all adapters are measured on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from client.rows import to_document
from federation.model.documents import Document

HELD_OUT_EVERY = 5
VOLUNTEERS: Mapping[str, tuple[str, ...]] = {
    "luna": ("astronomia", "salud", "cocina"),
    "marina": ("oceans", "gardening", "music"),
    "robledo": ("ecologia", "computing"),
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Material:
    """What the demo runs on.

    Attributes:
        train: node name -> its rows; no row is in two nodes.
        held_out: rows that nobody trains on, each with a `field`.
        gate: a file of the operator's own held-out rows, beside the packaged gate set.
    """

    train: Mapping[str, Sequence[Row]]
    held_out: Sequence[Row]
    gate: Path | None = None

    def fields(self) -> tuple[str, ...]:
        """Names of the held-out sets, in order of appearance."""
        return tuple(dict.fromkeys(str(row["field"]) for row in self.held_out))

    def documents(self) -> list[Document]:
        """The held-out rows as documents."""
        return [to_document(row) for row in self.held_out]


def starter() -> Material:
    """The starter set that ships with the package, shared out among `VOLUNTEERS`."""
    folder = resources.files("client") / "starter"
    train: dict[str, list[Row]] = {name: [] for name in VOLUNTEERS}
    held_out: list[Row] = []
    seen: dict[tuple[str, str], int] = {}
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if not item.name.endswith(".jsonl"):
            continue
        for row in parse_rows(item.read_text(encoding="utf-8")):
            field = str(row["field"])
            count = seen[item.name, field] = seen.get((item.name, field), 0) + 1
            if count % HELD_OUT_EVERY == 0:
                held_out.append(row)
            else:
                train[_owner(field)].append(row)
    held_out.sort(key=lambda row: list_of_fields().index(row["field"]))
    return Material(train, held_out)


def from_folder(folder: Path) -> Material:
    """Real material: `folder/NODE/train.jsonl` and `folder/NODE/heldout.jsonl` for each node.

    `folder/gate.jsonl`, if there is one, joins the operator's gate set.

    Raises:
        SystemExit: fewer than two nodes, or a file is missing.
    """
    train: dict[str, list[Row]] = {}
    held_out: list[Row] = []
    for home in sorted(path for path in folder.iterdir() if path.is_dir()):
        for name in ("train", "heldout"):
            if not (home / f"{name}.jsonl").is_file():
                raise SystemExit(f"error: {home / name}.jsonl is missing")
        train[home.name] = parse_rows((home / "train.jsonl").read_text(encoding="utf-8"))
        rows = parse_rows((home / "heldout.jsonl").read_text(encoding="utf-8"))
        held_out += [{"field": home.name} | row for row in rows]
    if len(train) < 2:
        raise SystemExit(f"error: {folder} must hold a folder for each of at least two nodes")
    gate = folder / "gate.jsonl"
    return Material(train, held_out, gate if gate.is_file() else None)


def parse_rows(text: str) -> list[Row]:
    """JSON Lines to rows."""
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def without_field(row: Row) -> Row:
    """The row without the label of its field: a node's owner keeps no such labels."""
    return {key: value for key, value in row.items() if key != "field"}


def list_of_fields() -> tuple[str, ...]:
    """All fields, volunteer by volunteer."""
    return tuple(field for fields in VOLUNTEERS.values() for field in fields)


def _owner(field: str) -> str:
    return next(name for name, fields in VOLUNTEERS.items() if field in fields)
