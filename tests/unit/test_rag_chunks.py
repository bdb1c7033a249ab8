"""Chunks: whole sentences, one of overlap, slices of the text, nothing lost."""

from __future__ import annotations

import pytest

from rag.retrieval.chunks import Chunk, Cutter, cut, embedded_text, estimated_tokens, sentences
from tests.corpora import document


def words(text: str) -> list[tuple[int, int]]:
    """Count words as tokens."""
    found, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        found.append((at, at + len(word)))
        at += len(word)
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Uno. Dos. Tres.", ["Uno.", "Dos.", "Tres."]),
        ("¿Qué? ¡Nada! Fin…", ["¿Qué?", "¡Nada!", "Fin…"]),
        ("«Vale.» Dijo él.", ["«Vale.»", "Dijo él."]),
        ("El Dr. Pérez vino. Se fue.", ["El Dr. Pérez vino.", "Se fue."]),
        ("About 3.5 km. Far.", ["About 3.5 km.", "Far."]),
        ("Título\n\nTexto sin punto", ["Título", "Texto sin punto"]),
        ("J. Smith et al. found it.", ["J. Smith et al. found it."]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences_end_where_they_end(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected


def test_sentences_are_gathered_up_to_the_limit_and_the_last_one_is_repeated() -> None:
    text = "a b c. d e. f g h. i."
    found = [text[c.start : c.end] for c in cut(text, tokens=words, limit=5)]
    assert found == ["a b c. d e.", "d e. f g h.", "f g h. i."]


def test_a_sentence_that_leaves_no_room_is_not_repeated() -> None:
    text = "a b c d. e f g h. i."
    found = [text[c.start : c.end] for c in cut(text, tokens=words, limit=4)]
    assert found == ["a b c d.", "e f g h.", "i."]


def test_a_long_sentence_is_cut_between_words_and_not_inside_one() -> None:
    text = "abcdefghij klmnopqrst uvwxyz"  # 3 + 3 + 2 tokens
    found = [text[c.start : c.end] for c in cut(text, limit=4)]
    assert found == text.split()


def test_a_long_sentence_is_cut_between_tokens() -> None:
    text = " ".join(f"w{n}" for n in range(10))
    found = [text[c.start : c.end] for c in cut(text, tokens=words, limit=4)]
    assert found == ["w0 w1 w2 w3", "w4 w5 w6 w7", "w8 w9"]


def test_a_word_without_end_is_cut_too() -> None:
    text = "x" * 5000
    found = cut(text, limit=200)
    assert "".join(text[c.start : c.end] for c in found) == text
    assert max(len(estimated_tokens(text[c.start : c.end])) for c in found) == 200


def test_a_document_that_is_a_title_has_one_empty_chunk_and_one_of_nothing_none() -> None:
    assert Cutter().cut(document(0, text="")) == [Chunk(0, 0)]
    assert Cutter().cut(document(0, text=" \n", title=" ")) == []


def test_title_date_and_source_come_before_the_embedded_text_alone() -> None:
    found = embedded_text("Un título.", "2026-01-02T03:04:05+01:00", "Ejemplo", "El texto.")
    assert found == "Un título. 2026-01-02. Ejemplo. El texto."
    assert embedded_text("", "", "", "El texto.") == "El texto."
    assert len(embedded_text("t" * 9000, "", "s" * 9000, "x")) < 200
