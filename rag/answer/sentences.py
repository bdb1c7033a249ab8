"""A text as sentences with their places in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# A full stop with its closing marks and citations, then space, then anything but what goes on.
_END = re.compile(
    r"[.!?…]+[\"'”’»)\]]*(?:\s*\[\d[\d,;\s]*\])*+(?=\s+[^\sa-zß-öø-ÿ,;:.%&+=/)\]}»”])"
)
_PARAGRAPH = re.compile(r"\s*\n\s*\n\s*|\n(?=\s*[-*•–]\s)")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[^\W\d_]|dr|dra|sr|sra|srta|prof|mr|mrs|ms|st|jr|vs|etc|fig|figs|no|núm|nº|art|cap|"
    r"pág|pp|ed|vol|aprox|av|ee|uu|dept|approx|inc|ltd|co|cf|al|ej|e\.g|i\.e|u\.s|p\.ej))\.$",
    re.IGNORECASE,
)


class Span(NamedTuple):
    """A piece of a text: `text[start:end]`."""

    start: int
    end: int


def sentences(text: str) -> list[Span]:
    """Sentences in order, without the space around them; together they hold all that is not space.

    A line that stands alone, such as a heading, is one too.
    """
    found = []
    for begin, end in _paragraphs(text):
        found += [span for span in _cut(text, begin, end) if span.start < span.end]
    return found


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    begin = 0
    for match in _PARAGRAPH.finditer(text):
        yield begin, match.start()
        begin = match.end()
    yield begin, len(text)


def _cut(text: str, begin: int, end: int) -> Iterator[Span]:
    for match in _END.finditer(text, begin, end):
        if match[0] == "." and _ABBREVIATION.search(text, max(begin, match.end() - 8), match.end()):
            continue
        yield _trimmed(text, begin, match.end())
        begin = match.end()
    yield _trimmed(text, begin, end)


def _trimmed(text: str, begin: int, end: int) -> Span:
    piece = text[begin:end]
    start = begin + len(piece) - len(piece.lstrip())
    return Span(start, max(start, begin + len(piece.rstrip())))
