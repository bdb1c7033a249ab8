"""The language of a text: its words before the feed's tag."""

from __future__ import annotations

import pytest

from rag.ingest.tongue import language_of, primary

ES = "El río que cruza la ciudad se ha secado este verano, pero los vecinos no han dejado de ir."
EN = "The river that crosses the town has run dry this summer, but the people still go there."


@pytest.mark.parametrize(
    ("text", "tag", "expected"),
    [
        (ES, "", "es"),
        (EN, "", "en"),
        (EN, "es-ES", "en"),
        (ES, "en-us", "es"),
        ("O rio que cruza a cidade secou neste verão, mas as pessoas não o deixaram.", "", "pt"),
        ("Der Fluss ist in diesem Sommer trocken, aber die Leute gehen noch hin.", "", "de"),
        ("2BD for 4300, in the 1930s; 3BD, 88D and 7C.", "", "en"),
        ("EOS https://www.youtube.com/c/x https://eos.example.com/feed y z w", "", ""),
        ("Kubernetes 1.29", "es", "es"),
        ("Kubernetes 1.29", "", ""),
        ("", "EN_GB", "en"),
        ("река высохла этим летом", "ru", "ru"),
        ("река высохла этим летом", "", ""),
    ],
)
def test_the_words_decide_and_the_tag_where_they_are_silent(
    text: str, tag: str, expected: str
) -> None:
    assert language_of(text, tag) == expected


@pytest.mark.parametrize(("tag", "code"), [("es-CR", "es"), ("EN", "en"), ("x", ""), ("", "")])
def test_a_tag_is_two_letters(tag: str, code: str) -> None:
    assert primary(tag) == code
