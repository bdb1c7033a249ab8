"""MinHash: alike texts have alike sketches and share a band, others do not."""

from __future__ import annotations

import random

from rag.ingest.duplicates import ALIKE, bands, likeness, sketch
from tests.feed_samples import text_of


def edited(text: str, changes: int) -> str:
    words, rng = text.split(), random.Random(changes)
    for place in rng.sample(range(len(words)), changes):
        words[place] = "altered"
    return " ".join(words)


def test_the_same_words_have_the_same_sketch_whatever_their_case_and_spaces() -> None:
    text = text_of(1)
    assert sketch(text) == sketch(text.upper().replace(" ", "\n ")) != ""
    assert likeness(sketch(text), sketch(text)) == 1.0


def test_nearly_equal_texts_are_alike_and_share_a_band() -> None:
    found = 0
    for number in range(100):
        text = text_of(number, 300)
        one, other = sketch(text), sketch(edited(text, 2))
        found += likeness(one, other) >= ALIKE and bool({*bands(one)} & {*bands(other)})
    assert found >= 95


def test_texts_that_share_half_of_their_words_are_not_alike() -> None:
    for number in range(100):
        shared = text_of(number, 100)
        one, other = (f"{shared} {text_of(number + extra, 100)}" for extra in (1000, 2000))
        assert likeness(sketch(one), sketch(other)) < ALIKE


def test_a_short_text_has_no_sketch_and_is_like_nothing() -> None:
    assert sketch("only a few words") == ""
    assert bands("") == ()
    assert likeness("", "") == 0.0
