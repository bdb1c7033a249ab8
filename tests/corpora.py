"""Small corpora of our own writing, for tests of retrieval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from federation import durable
from rag.corpus_rows import Removal, to_line
from rag.documents import Document

TEXTS = (
    (
        "es",
        "El volcán de La Palma",
        "La erupción del volcán duró ochenta y cinco días. Las coladas de lava llegaron al mar.\n\n"
        "Los científicos midieron los gases cada mañana.",
    ),
    (
        "es",
        "Vacunas y memoria",
        "Las vacunas enseñan al sistema inmunitario. Las células de memoria duran décadas.",
    ),
    (
        "en",
        "Coral reefs",
        "Corals bleach when the water is too warm. Reefs recover slowly after a heat wave.",
    ),
    (
        "en",
        "Black holes",
        "A black hole bends the light around it. Telescopes pictured its shadow in 2019.",
    ),
    ("fr", "La mer", "Les baleines chantent pendant des heures dans la mer."),
)


def document(number: int, **changes: object) -> Document:
    """One of `TEXTS`, by `number` modulo their count, with an id of its own."""
    language, title, text = TEXTS[number % len(TEXTS)]
    made = Document(
        id=f"{number:032x}",
        revision=1,
        sha256=f"{number:064x}",
        kind="feed",
        source="https://example.org/feed",
        source_name="Ejemplo",
        title=title,
        text=text,
        link=f"https://example.org/{number}",
        published=f"2026-01-{1 + number % 28:02d}T08:00:00+01:00",
        is_date_guessed=False,
        language=language,
        topics=("ciencia",),
        ingested_at="2026-02-01T00:00:00+00:00",
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # any field


def numbered(count: int, *, start: int = 0) -> list[Document]:
    """Documents that all differ: each says its number in a word of its own."""
    return [
        document(n, text=f"{TEXTS[n % len(TEXTS)][2]} Registro palabra{n} termina aquí.")
        for n in range(start, start + count)
    ]


def write(corpus: Path, entries: Iterable[Document | Removal]) -> Path:
    """Write a corpus anew; returns its path."""
    durable.make_folder(corpus.parent)
    corpus.write_text("".join(to_line(entry) + "\n" for entry in entries), encoding="utf-8")
    return corpus


def append(corpus: Path, entries: Sequence[Document | Removal]) -> None:
    """Append rows to a corpus."""
    durable.make_folder(corpus.parent)
    with corpus.open("a", encoding="utf-8") as file:
        file.writelines(to_line(entry) + "\n" for entry in entries)
