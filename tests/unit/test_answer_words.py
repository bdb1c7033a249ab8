"""Words and sentences: what a question and a text have in common, and where it stands."""

from __future__ import annotations

import pytest

from rag.answer.sentences import sentences
from rag.answer.words import content_words, coverage, idf, language_of, stem, stems


def cut(text: str) -> list[str]:
    return [text[span.start : span.end] for span in sentences(text)]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("¿Cuándo despega el cohete?", "es"),
        ("When does the rocket take off?", "en"),
        ("El telescopio observó una galaxia", "es"),
        ("The telescope saw a galaxy", "en"),
        ("mañana", "es"),
        ("rocket", "en"),
    ],
)
def test_the_language_of_a_question_is_told_from_its_words(text: str, language: str) -> None:
    assert language_of(text) == language


def test_forms_of_a_word_share_a_stem_with_or_without_accents() -> None:
    assert stem("investigaciones", "es") == stem("investigación", "es")
    assert stem("rockets", "en") == stem("rocket", "en")
    assert stem("canción", "es") == stem("canciones", "es")


def test_a_name_matches_itself_in_a_text_of_the_other_language() -> None:
    asked = stems("¿Qué dijo Einstein sobre Betelgeuse?", "es", stem_as="en")
    assert set(asked) & set(stems("Einstein never wrote about Betelgeuse.", "en")) == {
        "en:einstein",
        "en:betelgeus",
    }


def test_a_question_of_stop_words_alone_keeps_them() -> None:
    assert content_words("to be or not to be", "en") == ["to", "be", "or", "not", "to", "be"]


def test_rare_words_weigh_more_and_coverage_is_their_share() -> None:
    weights = idf({"moon", "the"}, [{"the"}, {"the"}, {"the", "moon"}])
    assert weights["moon"] > weights["the"] > 0
    assert coverage(weights, {"moon", "the"}) == pytest.approx(1)
    assert coverage({}, {"moon"}) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Uno. Dos.", ["Uno.", "Dos."]),
        ("El Dr. Ruiz llegó. Se fue.", ["El Dr. Ruiz llegó.", "Se fue."]),
        (
            "Costó 3.5 millones. ¿Quién pagó? Nadie.",
            ["Costó 3.5 millones.", "¿Quién pagó?", "Nadie."],
        ),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("One [1]. Two.[2] Three. [3] Four", ["One [1].", "Two.[2]", "Three. [3]", "Four"]),
        ("Title\n\nBody text. More.", ["Title", "Body text.", "More."]),
        ("Wrapped\nline. Next", ["Wrapped\nline.", "Next"]),
        ("In the U.S. Congress met.", ["In the U.S. Congress met."]),
        ("", []),
        ("  \n ", []),
    ],
)
def test_sentences_are_cut_where_a_reader_would(text: str, expected: list[str]) -> None:
    assert cut(text) == expected
