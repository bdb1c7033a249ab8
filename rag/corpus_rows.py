"""A document as one line of the corpus file, and back.

The file is JSON Lines, append-only. A later line with the same `_id` replaces the earlier one; a
line `{"_id": …, "deleted": true}` takes the document out. `summary` is the beginning of `text`,
for people and programs that read rows alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from federation.errors import FormatError
from rag.documents import Document

FORMAT = 1
_encode = json.JSONEncoder(ensure_ascii=False).encode  # `json.dumps` would make one each time
SUMMARY_LENGTH = 300


@dataclass(frozen=True)
class Removal:
    """The document `id` is no longer in the corpus."""

    id: str


def to_line(entry: Document | Removal) -> str:
    """One line without its newline."""
    if isinstance(entry, Removal):
        return json.dumps({"_id": entry.id, "deleted": True})
    row = {
        "_id": entry.id,
        "format": FORMAT,
        "revision": entry.revision,
        "sha256": entry.sha256,
        "kind": entry.kind,
        "feed": entry.source,
        "feed_name": entry.source_name,
        "title": entry.title,
        "summary": entry.text[:SUMMARY_LENGTH],
        "text": entry.text,
        "link": entry.link,
        "published": entry.published,
        "date_guessed": entry.is_date_guessed,
        "language": entry.language,
        "topics": list(entry.topics),
        "ingested_at": entry.ingested_at,
        "source_priority": entry.priority,
        "licence": entry.licence,
        "train": entry.is_for_training,
    }
    return _encode(row)


def from_line(line: str) -> Document | Removal:
    """Read one line.

    Raises:
        FormatError: it is no row, or one of a newer format.
    """
    try:
        row: dict[str, Any] = json.loads(line)
        if row.get("deleted"):
            return Removal(str(row["_id"]))
        if int(row["format"]) > FORMAT:
            raise FormatError(
                f"a row of the corpus has format {row['format']}; this version reads {FORMAT}",
                hint="Install the version that wrote it.",
            )
        return Document(
            id=str(row["_id"]),
            revision=int(row["revision"]),
            sha256=str(row["sha256"]),
            kind=row["kind"],
            source=str(row["feed"]),
            source_name=str(row["feed_name"]),
            title=str(row["title"]),
            text=str(row["text"]),
            link=str(row["link"]),
            published=str(row["published"]),
            is_date_guessed=bool(row["date_guessed"]),
            language=str(row["language"]),
            topics=tuple(map(str, row["topics"])),
            ingested_at=str(row["ingested_at"]),
            priority=int(row["source_priority"]),
            licence=str(row.get("licence", "")),
            is_for_training=row.get("train") is not False,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise FormatError(f"not a row of the corpus: {line[:80]!r} ({err})") from err
