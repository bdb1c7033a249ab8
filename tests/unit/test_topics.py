"""Topics match whole words, whatever their case and accents."""

from __future__ import annotations

import pytest

from rag.ingest.topics import matching, parse_topics


@pytest.mark.parametrize(
    ("topic", "text", "is_match"),
    [
        ("ia", "La IA aprende", True),
        ("ia", "la vida social", False),
        ("ml", "written in html", False),
        ("ml", "ML, at last", True),
        ("inteligencia artificial", "la Inteligencia  Artificial.", True),
        ("inteligencia artificial", "inteligencia y arte artificial", False),
        ("genetica", "Genética de poblaciones", True),
        ("Genética", "la genetica", True),
        ("c++", "el lenguaje c", True),
        ("---", "anything", False),
        ("", "anything", False),
    ],
)
def test_a_topic_is_found_as_whole_words(topic: str, text: str, is_match: bool) -> None:
    assert matching((topic,), text) == ((topic,) if is_match else ())


def test_topics_are_kept_in_the_order_they_were_given() -> None:
    topics = parse_topics("salud; ia ;;IA;clima")
    assert topics == ("salud", "ia", "IA", "clima")
    assert matching(topics, "clima, ia y salud") == ("salud", "ia", "IA", "clima")
