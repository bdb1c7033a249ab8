"""What a search is narrowed to: language, source, date."""

from __future__ import annotations

from dataclasses import dataclass

from rag.retrieval.store import timestamp


@dataclass(frozen=True)
class Filters:
    """Empty values narrow nothing.

    Attributes:
        language: two letters, as documents have it.
        source: a part of the source's name or address, in any case.
        since: ISO date; documents published then or later.
        without: id of a document to pass over.
    """

    language: str = ""
    source: str = ""
    since: str = ""
    without: str = ""

    def __bool__(self) -> bool:
        return bool(self.language or self.source or self.since or self.without)

    def sql(self) -> tuple[str, list[object]]:
        """A condition over `documents`, beginning with AND, and its parameters."""
        parts: list[str] = []
        values: list[object] = []
        if self.language:
            parts.append("AND documents.language = ?")
            values.append(self.language)
        if self.source:
            parts.append("AND instr(lower(documents.source_name || ' ' || documents.source), ?)")
            values.append(self.source.lower())
        if self.since:
            parts.append("AND documents.published_at >= ?")
            values.append(timestamp(self.since))
        if self.without:
            parts.append("AND documents.id <> ?")
            values.append(self.without)
        return " ".join(parts), values


EVERYTHING = Filters()
