"""Chunks of any text: exact slices, within the limit, in order, nothing lost but spaces."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rag.retrieval.chunks import Chunk, cut, estimated_tokens, sentences

ANY = st.text(max_size=600)
PROSE = st.lists(
    st.sampled_from(
        [
            "El gato",
            "come.",
            "¿Sí?",
            "Dr.",
            "e.g.",
            "3.5",
            "\n",
            "\n\n",
            "x" * 90,
            "…",
            "«",
            "»",
            " ",
        ]
    ),
    max_size=80,
).map(" ".join)
TEXT = st.one_of(ANY, PROSE)
LIMITS = st.integers(1, 40)


@given(TEXT, LIMITS)
def test_every_character_that_is_no_space_is_in_a_chunk(text: str, limit: int) -> None:
    covered: set[int] = set()
    for chunk in cut(text, limit=limit):
        covered |= set(range(chunk.start, chunk.end))
    assert [at for at, letter in enumerate(text) if not letter.isspace()] == [
        at for at in sorted(covered) if not text[at].isspace()
    ]


@given(TEXT, LIMITS)
def test_chunks_are_slices_in_order_without_spaces_around(text: str, limit: int) -> None:
    chunks = cut(text, limit=limit)
    for chunk in chunks:
        assert 0 <= chunk.start < chunk.end <= len(text)
        assert text[chunk.start : chunk.end] == text[chunk.start : chunk.end].strip()
    starts, ends = [c.start for c in chunks], [c.end for c in chunks]
    assert starts == sorted(set(starts))
    assert ends == sorted(set(ends))


@given(TEXT, LIMITS)
def test_no_chunk_has_more_tokens_than_the_limit(text: str, limit: int) -> None:
    for chunk in cut(text, limit=limit):
        assert len(estimated_tokens(text[chunk.start : chunk.end])) <= limit


@given(TEXT, LIMITS)
def test_chunks_overlap_by_one_sentence_at_most(text: str, limit: int) -> None:
    found = list(sentences(text))
    chunks = cut(text, limit=limit)
    for before, after in pairwise(chunks):
        shared = [s for s in found if after.start <= s[0] and s[1] <= before.end]
        assert len(shared) <= 1


@given(TEXT)
def test_sentences_lose_nothing_and_do_not_meet(text: str) -> None:
    found = list(sentences(text))
    kept = "".join("".join(text[a:b].split()) for a, b in found)
    assert kept == "".join(text.split())
    assert all(before[1] <= after[0] for before, after in pairwise(found))


@given(ANY, st.lists(st.integers(1, 9), min_size=1, max_size=200), LIMITS)
def test_tokens_of_any_tokenizer_lose_nothing(text: str, widths: list[int], limit: int) -> None:
    def tokens(whole: str) -> list[tuple[int, int]]:
        spans, at = [], 0
        while at < len(whole):
            width = widths[len(spans) % len(widths)]
            spans.append((at, min(at + width, len(whole))))
            at += width
        return spans

    chunks = cut(text, tokens=tokens, limit=limit)
    covered = {at for c in chunks for at in range(c.start, c.end)}
    assert all(at in covered for at, letter in enumerate(text) if not letter.isspace())
    assert Chunk(0, 0) not in chunks
