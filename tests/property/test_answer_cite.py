"""Citations of any text: places are exact, numbers exist, what was written stays."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rag.answer.cite import CITATION, attach, drop_unknown, sources_of
from rag.answer.extract import extract
from rag.answer.generate import Tidy
from rag.answer.sentences import sentences
from tests.small_search import passage

PIECES = ["[", "]", "1", "[1[9]2]", "[9", ", ", "](", ")", "https://evil.example/x?a=1 ",
          "www.a.b ",
          "<|user|>", "<|", "|>", "[clic](http://a.b)",
          "La luna. ", "The sun? ", "[1]", "[2, 9]", " [0] ", "[12]", "\n\n", "El Dr. Ruiz ", "«a»",
          "3.5 km. ", "¡Sí! ", "water flows ", "agua", ". ", "…", "\u200b", "(b)"]  # fmt: skip
TEXT = st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
PASSAGES = st.lists(st.tuples(TEXT, st.integers(0, 5000)), max_size=4)


@settings(max_examples=200, deadline=None)
@given(text=TEXT)
def test_sentences_hold_all_that_is_not_space_once_and_in_order(text: str) -> None:
    spans = sentences(text)
    assert all(0 <= a.start < a.end <= len(text) for a in spans)
    assert all(a.end <= b.start for a, b in pairwise(spans))
    assert all(text[a.start : a.end].strip() == text[a.start : a.end] for a in spans)
    inside = "".join(text[a.start : a.end] for a in spans)
    assert "".join(inside.split()) == "".join(text.split())


def letters(text: str) -> str:
    """What is neither a digit nor a mark of a citation."""
    return re.sub(r"[\d\[\],;\s]", "", text)


@settings(max_examples=200, deadline=None)
@given(text=TEXT, count=st.integers(0, 12))
def test_only_numbers_of_sources_are_left(text: str, count: int) -> None:
    kept = drop_unknown(text, count)
    assert drop_unknown(kept, count) == kept
    numbers = [
        int(n) for found in CITATION.findall(kept) for n in found.replace(";", ",").split(",")
    ]
    assert all(1 <= n <= count for n in numbers)
    assert letters(kept) == letters(text)


@settings(max_examples=120, deadline=None)
@given(answer=TEXT, given_passages=PASSAGES)
def test_places_of_quotes_and_sentences_are_exact(
    answer: str, given_passages: list[tuple[str, int]]
) -> None:
    passages = [passage(text, start=start) for text, start in given_passages]
    written = drop_unknown(answer, len(passages))
    cited = attach(written, passages, "es")
    for one in cited.sentences:
        assert written[one.start : one.end].strip() == written[one.start : one.end] != ""
        assert all(1 <= n <= len(passages) for n in one.cited)
        assert 0 <= one.support <= 1
    sources = sources_of(answer, passages, cited, "es")
    assert [source.n for source in sources] == list(range(1, len(passages) + 1))
    for source, origin in zip(sources, passages, strict=True):
        local = origin.text[source.start - origin.start : source.end - origin.start]
        assert local == source.quote


@settings(max_examples=100, deadline=None)
@given(question=TEXT, given_passages=PASSAGES)
def test_what_is_extracted_stands_in_its_passage(
    question: str, given_passages: list[tuple[str, int]]
) -> None:
    passages = [passage(text, start=start) for text, start in given_passages]
    for entry in extract(question, passages, "es"):
        text = passages[entry.n - 1].text
        assert entry.span in sentences(text)


@pytest.mark.security
@settings(max_examples=200, deadline=None)
@example(pieces=["[1[9]2]", "](", "\n"], count=0)
@example(pieces=["[2, 9]", "[2, 9]"], count=0)
@given(
    pieces=st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=30),
    count=st.integers(0, 3),
)
def test_h23_a_stream_gives_out_no_link_and_no_false_number(pieces: list[str], count: int) -> None:
    tidy = Tidy(count)
    shown = "".join([*(tidy.add(piece) for piece in pieces), tidy.rest()])
    assert not re.search(r"\bhttps?://\w|\bwww\.\w|<\|user\|>", shown)
    numbers = [int(n) for found in CITATION.findall(shown) for n in re.findall(r"\d+", found)]
    assert all(1 <= n <= count for n in numbers)
    known = letters("".join(pieces))
    assert len(letters(shown)) <= len(known) + 2 * len(pieces)
