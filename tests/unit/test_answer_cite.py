"""Citations: false numbers go, sentences are measured, quotes are exact."""

from __future__ import annotations

import pytest

from rag.answer.cite import attach, best_span, drop_unknown, sources_of
from tests.small_search import passage

MOON = passage(
    "The Moon turns around the Earth in 27 days. It has no air. Its gravity makes the tides.",
    title="The Moon",
    language="en",
    start=100,
)
SUN = passage("The Sun is a star. It is made of hydrogen.", language="en", link="javascript:x")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A [1]. B [3].", "A [1]. B ."),
        ("A [1, 3; 2]", "A [1, 2]"),
        ("A [0] [2]", "A  [2]"),
        ("A [2][9][1]", "A [2][1]"),
        ("A [note] [a1] [99999]", "A [note] [a1] [99999]"),
        ("A [1, 1]", "A [1]"),
    ],
)
def test_a_number_that_points_to_no_source_is_dropped(text: str, kept: str) -> None:
    assert drop_unknown(text, 2) == kept


def test_a_sentence_that_its_source_does_not_hold_is_marked() -> None:
    answer = "The Moon turns around the Earth [1]. Bananas grow in Ecuador [1]."
    true, false = attach(answer, [MOON, SUN], "en").sentences
    assert (true.is_supported, true.is_matched, true.cited) == (True, False, (1,))
    assert (false.is_supported, false.cited, false.support) == (False, (1,), 0)


def test_a_sentence_without_a_number_gets_the_nearest_source_and_says_so() -> None:
    (found,) = attach("The Sun is made of hydrogen.", [MOON, SUN], "en").sentences
    assert (found.cited, found.is_matched, found.is_supported) == ((2,), True, True)
    (lost,) = attach("Bananas grow in Ecuador.", [MOON, SUN], "en").sentences
    assert (lost.cited, lost.is_matched, lost.is_supported) == ((), False, False)


def test_a_number_after_the_full_stop_belongs_to_the_sentence_before() -> None:
    answer = "The Moon has no air. [1] The Sun is a star. [2]"
    first, second = attach(answer, [MOON, SUN], "en").sentences
    assert (first.cited, second.cited) == ((1,), (2,))
    assert answer[second.start : second.end] == "The Sun is a star. [2]"


def test_of_several_sources_the_one_that_holds_most_counts() -> None:
    (found,) = attach("The Sun is made of hydrogen [1][2].", [MOON, SUN], "en").sentences
    assert (found.cited, found.support) == ((1, 2), 1.0)


def test_sources_quote_the_sentence_that_was_used_with_its_place_in_the_document() -> None:
    cited = attach("Gravity makes tides [1].", [MOON, SUN], "en")
    moon, sun = sources_of("What makes the tides?", [MOON, SUN], cited, "en")
    assert moon.quote == "Its gravity makes the tides."
    assert moon.start - 100 == MOON.text.index(moon.quote)
    assert moon.end - moon.start == len(moon.quote)
    assert (moon.is_cited, sun.is_cited) == (True, False)


def test_only_web_addresses_become_links() -> None:
    moon, sun = sources_of("x", [MOON, SUN], attach("", [MOON, SUN], "en"), "en")
    assert (moon.url, sun.url) == ("https://example.org/a", "")


def test_marks_without_a_claim_are_no_sentence() -> None:
    assert attach("[1] ... —", [MOON], "en").sentences == ()


def test_a_passage_without_a_like_sentence_still_quotes_one() -> None:
    span = best_span("bananas", MOON, "en")
    assert MOON.text[span.start : span.end] == "The Moon turns around the Earth in 27 days."


def test_what_is_left_around_a_dropped_number_is_no_new_one() -> None:
    assert drop_unknown("so [1[9]2] it is", 2) == "so  it is"
    assert drop_unknown("so [1[9]] it is", 2) == "so [1] it is"
