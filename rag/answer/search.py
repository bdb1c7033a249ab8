"""What answers ask of whoever searches."""

from __future__ import annotations

from typing import Protocol

from rag.passages import Found


class Search(Protocol):
    """Finds passages for a question."""

    def find(self, question: str, k: int) -> Found:
        """The best `k` passages, and the evidence over the whole corpus."""


class SearchWithout(Protocol):
    """Finds passages as if one document were not there: for calibration."""

    def find(self, question: str, k: int, *, without: str = "") -> Found:
        """As `Search.find`, over the corpus without the document of that id."""
