"""Earlier messages of the user's own, as something that can be quoted."""

from __future__ import annotations

from collections.abc import Sequence

from rag.answer.phrases import phrase
from rag.answer.words import coverage, idf, language_of, stems
from rag.passages import Passage

REMEMBERED = 0.5  # share of the question's weight that a message must hold
MEMORY = "memory:"


def note(text: str, *, turn: int, published: str, language: str) -> Passage:
    """An earlier message of the user's as something that can be quoted."""
    return Passage(
        document_id=f"{MEMORY}{turn}",
        title=phrase("your message", language),
        link="",
        published=published,
        source_name=phrase("memory", language),
        language=language_of(text, language),
        text=text,
        start=0,
        end=len(text),
        score=1.0,
        bm25=0.0,
        cosine=None,
    )


def remembered_in(notes: Sequence[Passage], question: str, language: str) -> list[Passage]:
    """The note that holds most of the question, alone; none if none holds enough.

    Args:
        notes: made by `note`.
        question: as it was asked.
        language: of the question.
    """
    held = [set(stems(entry.text, entry.language)) for entry in notes]
    best, value = None, REMEMBERED
    for entry, words in zip(notes, held, strict=True):
        terms = set(stems(question, language, stem_as=entry.language))
        covered = coverage(idf(terms, held), words)
        if covered >= value and len(words) > 1:
            best, value = entry, covered
    return [best] if best else []
