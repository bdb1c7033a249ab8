"""From a node's files to documents to learn from and documents to measure with. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from client.rows import RowError, parse_row, to_document
from federation.errors import NoDataError, UsageError
from federation.language import _
from federation.model.documents import Document, fingerprint

TASKS = ("auto", "qa", "lm")
PLAIN_TEXT = (".txt", ".md")
HELD_OUT_OF = 10  # one row in ten, by hash
ROWS_FOR_HELD_OUT = 5  # with fewer, all are trained on
TEXT_CHARACTERS = 2000  # paragraphs of a plain text file are gathered up to about so many


@dataclass(frozen=True)
class Dataset:
    """What a training run works with.

    Attributes:
        task: "qa", "lm", or "mixed" when both kinds are present.
        train: documents to learn from, in file order.
        heldout: documents never trained on, in the order of their hash; a row stays on its side
            from one day to the next.
        skipped: one sentence ("file:line: why") for each row that could not be read.
        notes: what was decided, in sentences for the owner.
    """

    task: str
    train: tuple[Document, ...]
    heldout: tuple[Document, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Fingerprint of the training and held-out documents in their order."""
        return fingerprint((*self.train, Document(text="held out"), *self.heldout))


@dataclass
class _Gathered:
    """What the files hold: rows by content, in order."""

    rows: dict[str, tuple[Document, str]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    duplicates: int = 0
    opted_out: int = 0


def load_dataset(
    files: Sequence[Path], *, task: str = "auto", qa_subset_size: int = 0, seed: int = 0, day: str
) -> Dataset:
    """Read, clean, deduplicate and split.

    Args:
        files: JSON Lines, or plain text (.txt, .md).
        task: "qa", "lm" or "auto" (chosen by the columns of each row).
        qa_subset_size: at most so many question–answer pairs, another choice each day; 0 = all.
        seed: with `day`, picks the subset.
        day: ISO date.

    Raises:
        UsageError: a file does not exist, or `task` is unknown.
        NoDataError: no usable row.
    """
    if task not in TASKS:
        raise UsageError(_("'{task}' is not a task").format(task=task), hint="qa, lm, auto")
    gathered = _Gathered()
    for path in files:
        _gather(path, gathered)
    rows = [row for row in gathered.rows.values() if _wanted(row[0], task)]
    if not rows:
        raise _no_data(gathered, task)
    train, heldout = _split(rows)
    pairs = sum(document.is_qa for document, _side in rows)
    chosen = _subset(train, qa_subset_size, Random(f"{seed} {day}"))  # noqa: S311 - no secret
    notes = _notes(gathered, task, pairs, len(rows) - pairs)
    if len(chosen) < len(train):
        text = _("{chosen} of {all} question–answer pairs, chosen for {day}")
        kept = sum(document.is_qa for document in chosen)
        whole = sum(document.is_qa for document in train)
        notes.append(text.format(chosen=kept, all=whole, day=day))
    kind = "mixed" if 0 < pairs < len(rows) else "qa" if pairs else "lm"
    return Dataset(kind, tuple(chosen), tuple(heldout), tuple(gathered.skipped), tuple(notes))


def _gather(path: Path, gathered: _Gathered) -> None:
    if not path.is_file():
        raise UsageError(_("there is no file {path}").format(path=path))
    if path.suffix.lower() in PLAIN_TEXT:
        text = path.read_bytes().decode("utf-8-sig", "replace")
        for document in _paragraphs(text):
            _add(document, "", gathered)
        return
    rows = list(_rows(path, gathered))
    last = {str(row["_id"]): number for number, row in rows if "_id" in row}
    for number, row in rows:
        if last.get(str(row.get("_id")), number) != number or row.get("deleted") is True:
            continue  # of the corpus, a row that a later one replaces or takes out
        try:
            document, side = to_document(row), _side(row)
        except RowError as err:
            gathered.skipped.append(f"{path.name}:{number}: {err}")
            continue
        if row.get("train") is False:
            gathered.opted_out += 1
        else:
            _add(document, side, gathered)


def _rows(path: Path, gathered: _Gathered) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            content = line.removeprefix(b"\xef\xbb\xbf").strip()
            if not content:
                continue
            try:
                yield number, parse_row(content)
            except RowError as err:
                gathered.skipped.append(f"{path.name}:{number}: {err}")


def _add(document: Document, side: str, gathered: _Gathered) -> None:
    if document.digest in gathered.rows:
        gathered.duplicates += 1
    else:
        gathered.rows[document.digest] = (document, side)


def _side(row: Mapping[str, Any]) -> str:
    side = str(row.get("split") or "").lower()
    return side if side in ("train", "heldout") else ""


def _paragraphs(text: str) -> Iterator[Document]:
    gathered = ""
    for paragraph in text.replace("\r\n", "\n").split("\n\n"):
        piece = paragraph.strip()
        if gathered and len(gathered) + len(piece) > TEXT_CHARACTERS:
            yield Document(text=gathered)
            gathered = ""
        gathered = f"{gathered}\n\n{piece}".strip()
    if gathered:
        yield Document(text=gathered)


def _wanted(document: Document, task: str) -> bool:
    return task == "auto" or document.is_qa == (task == "qa")


def _split(rows: Sequence[tuple[Document, str]]) -> tuple[list[Document], list[Document]]:
    """Hold out by the row's own hash: a row keeps its side as others come and go.

    Only where the hash picks none of a few rows, the first one by hash is held out.
    """
    free = sorted((document for document, side in rows if not side), key=_position)
    out = {document.digest for document, side in rows if side == "heldout"}
    drawn = [document.digest for document in free if _position(document) % HELD_OUT_OF == 0]
    if not drawn and not out:
        drawn = [document.digest for document in free[:1]]
    if len(rows) >= ROWS_FOR_HELD_OUT:
        out.update(drawn)
    train = [document for document, _side in rows if document.digest not in out]
    heldout = [document for document, _side in rows if document.digest in out]
    return train, sorted(heldout, key=_position)


def _position(document: Document) -> int:
    return int(hashlib.sha256(b"held out " + document.digest.encode()).hexdigest()[:12], 16)


def _subset(train: list[Document], size: int, rng: Random) -> list[Document]:
    pairs = [document.digest for document in train if document.is_qa]
    if not 0 < size < len(pairs):
        return train
    kept = set(rng.sample(pairs, size))
    return [document for document in train if not document.is_qa or document.digest in kept]


def _notes(gathered: _Gathered, task: str, pairs: int, texts: int) -> list[str]:
    notes = []
    if task == "auto":
        text = _("task chosen by the columns: {pairs} question–answer pairs, {texts} texts")
        notes.append(text.format(pairs=pairs, texts=texts))
    left = len(gathered.rows) - pairs - texts
    counted = (
        (left, _("{count} rows left out: they do not belong to task {task}")),
        (gathered.duplicates, _("{count} repeated rows left out")),
        (gathered.opted_out, _("{count} rows left out: marked not for training")),
        (len(gathered.skipped), _("{count} rows could not be read")),
    )
    notes += [text.format(count=count, task=task) for count, text in counted if count]
    return notes


def _no_data(gathered: _Gathered, task: str) -> NoDataError:
    if gathered.skipped:
        return NoDataError(
            _("no row could be read, the first is {row}").format(row=gathered.skipped[0]),
            hint=_("Use columns question and answer, or text, or title and summary."),
        )
    if gathered.rows:
        return NoDataError(
            _("no row belongs to task {task}").format(task=task), hint=_("Use --task auto.")
        )
    return NoDataError(
        _("there is nothing to train on"), hint=_("Add texts, or let the feeds bring some.")
    )
