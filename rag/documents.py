"""One document of the corpus: a feed's entry or a file of the volunteer's, as clean text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["feed", "file"]


@dataclass(frozen=True)
class Document:
    """What ingest makes, the corpus keeps and the store cuts into chunks.

    Attributes:
        id: 32 hex digits, the same for every revision: of the feed and its guid or canonical link,
            or of a file's place.
        revision: 1, and one more with every change of title or text.
        sha256: of the normalised title and text.
        kind: where it came from.
        source: the feed's address, or the file's name.
        source_name: what a person calls that source.
        title: one line of plain text; may be empty.
        text: plain text, paragraphs apart by an empty line. Chunks and quotes are offsets in it.
        link: http or https, or "".
        published: ISO 8601 with an offset.
        is_date_guessed: `published` is the moment of the fetch, for want of a date.
        language: "es", "en", another two-letter code, or "" if unknown.
        topics: those of the volunteer that it matches.
        ingested_at: ISO 8601, UTC.
        priority: of its source, 1 (first) to 5.
        licence: what the source says of its rights, as it stands there; "" if it says nothing.
        is_for_training: False: searched and quoted, never learnt from.
    """

    id: str
    revision: int
    sha256: str
    kind: Kind
    source: str
    source_name: str
    title: str
    text: str
    link: str
    published: str
    is_date_guessed: bool
    language: str
    topics: tuple[str, ...]
    ingested_at: str
    priority: int = 3
    licence: str = ""
    is_for_training: bool = True
