"""Words to stems: language by language, accents last, stop-words only if all are."""

from __future__ import annotations

import pytest

from rag.retrieval import stems


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("canción", "canciones", "es"),
        ("CANCIÓN", "canción", "es"),
        ("informacion", "información", "es"),
        ("biologia", "biología", "es"),
        ("geografia", "geografía", "es"),
        ("confusion", "confusión", "es"),
        ("universities", "university", "en"),
        ("running", "runs", "en"),
        ("cafe\u0301", "café", "es"),
        ("ﬁnance", "finance", "en"),
    ],
)
def test_forms_of_a_word_have_one_stem(one: str, other: str, language: str) -> None:
    assert stems.stems(one, language) == stems.stems(other, language)


def test_stemming_comes_before_folding_accents() -> None:
    # Snowball needs the accent of "-ción" to know the ending; folded first, it would stay.
    assert stems.stem("investigación", "es") == stems.stem("investigar", "es")


def test_a_stem_names_its_language_and_languages_do_not_meet() -> None:
    assert stems.stems("once", "es") == ["es:once"]
    assert stems.stems("once", "en") == ["en:onc"]
    assert stems.stems("Baleines", "fr") == ["xx:baleines"]
    assert stems.stems("Baleines", "") == ["xx:baleines"]


def test_a_question_loses_its_stop_words_and_repetitions() -> None:
    found = stems.question_stems("¿Qué es la vacuna de las vacunas?", ["es"])
    assert found == {"es": ["es:vacun"]}
    found = stems.question_stems("What is the vaccine of the vaccines?", ["en", "es"])
    assert found["en"] == ["en:vaccin"]
    assert not {"es:the", "es:of", "es:what"} & set(found["es"])


def test_a_question_is_stemmed_in_the_language_of_the_texts_too() -> None:
    found = stems.question_stems("¿Qué son los genomas?", ["es", "en"])
    assert found == {"es": ["es:genom"], "en": ["en:genoma"]}


@pytest.mark.parametrize("question", ["¿Quién soy yo?", "to be or not to be", "que"])
def test_a_question_of_stop_words_alone_keeps_them(question: str) -> None:
    found = stems.question_stems(question, ["es", "en"])
    distinct = len(set(stems.words(question)))
    assert {code: len(terms) for code, terms in found.items()} == {"es": distinct, "en": distinct}


@pytest.mark.parametrize("question", ["", "¿?", "!!! --- ***", "   "])
def test_a_question_without_words_has_no_stems(question: str) -> None:
    assert stems.question_stems(question, ["es", "en", "xx"]) == {}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("¿Cuál es la capital de este país?", "es"),
        ("What is the capital of this country?", "en"),
        ("CRISPR", ""),
        ("mañana", "es"),
        ("The café that was on the corner", "en"),
        ("", ""),
    ],
)
def test_a_vote_of_stop_words_tells_the_language(text: str, language: str) -> None:
    assert stems.guess_language(text) == language
