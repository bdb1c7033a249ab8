"""Rows of the corpus: back and forth, and what is refused."""

from __future__ import annotations

import json

import pytest

from federation.errors import FormatError
from rag.corpus_rows import FORMAT, Removal, from_line, to_line
from rag.documents import Document

DOCUMENT = Document(
    id="0" * 32,
    revision=2,
    sha256="1" * 64,
    kind="feed",
    source="https://example.org/feed",
    source_name="Ejemplo",
    title="Título «raro»\u2028",
    text="Uno.\n\nDos. " * 40,
    link="https://example.org/1",
    published="2026-01-02T03:04:05+01:00",
    is_date_guessed=False,
    language="es",
    topics=("ia", "salud"),
    ingested_at="2026-01-02T04:00:00+00:00",
    priority=1,
)


@pytest.mark.parametrize("entry", [DOCUMENT, Removal("0" * 32)])
def test_what_is_written_is_read(entry: Document | Removal) -> None:
    assert from_line(to_line(entry)) == entry
    assert "\n" not in to_line(entry)


@pytest.mark.parametrize("line", ["", "{", "[]", "1", '{"_id": "a"}', '{"format": 1}'])
def test_what_is_no_row_is_refused(line: str) -> None:
    with pytest.raises(FormatError):
        from_line(line)


def test_a_newer_format_is_refused_by_name() -> None:
    row = json.loads(to_line(DOCUMENT)) | {"format": FORMAT + 1}
    with pytest.raises(FormatError, match=f"format {FORMAT + 1}"):
        from_line(json.dumps(row))
