"""A document's text cut at sentences into chunks, each a slice of it.

`text[start:end]` is the chunk exactly: what is quoted, marked on the page and cited. A chunk has at
most `limit` tokens of whatever counts them (an embedder's tokenizer, else an estimate by words),
and begins with the last sentence of the one before it where both fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rag.documents import Document

LIMIT = 200
PREFIX_TITLE, PREFIX_SOURCE = 120, 40  # characters of the title and the source before the text
Span: TypeAlias = tuple[int, int]
Tokens: TypeAlias = Callable[[str], Sequence[Span]]
"""Where the tokens of a text stand in it, in order; each is at least one character."""

# About what a sub-word tokenizer makes of a word: a piece for every four letters.
PIECE = re.compile(r"[^\W_]{1,4}|[^\w\s]|_")
# A sentence ends after . ! ? … and closing marks before a space, and at every line's end.
END = re.compile(r"(?:[.!?…]+[)\]»”’\"']*(?=\s)|\n)\s*")
ABBREVIATION = re.compile(
    r"(?:\b(?:[A-ZÁÉÍÓÚÑ]|Dr|Dra|Sr|Sra|Srta|Prof|Mr|Mrs|Ms|St|Jr|vs|etc|al|fig|Fig|núm|pág|págs|"
    r"p|pp|ej|cf|approx|aprox|ca|vol|Vol|No|no|e\.g|i\.e|EE|UU))\.$"
)


@dataclass(frozen=True)
class Chunk:
    """A slice of a document's text; empty if the document is a title alone."""

    start: int
    end: int


def estimated_tokens(text: str) -> list[Span]:
    """Token spans as a sub-word tokenizer might make them, without one."""
    return [piece.span() for piece in PIECE.finditer(text)]


@dataclass(frozen=True)
class Cutter:
    """How documents are cut.

    Attributes:
        name: of what counts; a document cut by another is cut anew by a reindex.
        tokens: counts.
        limit: tokens in a chunk.
    """

    name: str = "estimate"
    tokens: Tokens = estimated_tokens
    limit: int = LIMIT

    @property
    def stamp(self) -> str:
        """What decides where documents are cut."""
        return f"{self.name}:{self.limit}"

    def cut(self, document: Document) -> list[Chunk]:
        """Chunks of a document; one that is only a title has one chunk without text."""
        chunks = cut(document.text, tokens=self.tokens, limit=self.limit)
        return chunks or ([Chunk(0, 0)] if document.title.strip() else [])


def cut(text: str, *, tokens: Tokens = estimated_tokens, limit: int = LIMIT) -> list[Chunk]:
    """Cut `text` into chunks.

    Every character that is no space is in a chunk. A sentence longer than `limit` is cut between
    words, a word longer than that between tokens.

    Args:
        text: of a document.
        tokens: counts; see `Tokens`.
        limit: tokens in a chunk, at least 1.
    """
    pieces = list(_pieces(text, tokens(text), limit))
    chunks: list[Chunk] = []
    held: list[tuple[Span, int]] = []
    for span, count in pieces:
        if held and sum(n for _, n in held) + count > limit:
            chunks.append(_around(held))
            last = held[-1]
            held = [last] if len(held) > 1 and last[1] + count <= limit else []
        held.append((span, count))
    if held:
        chunks.append(_around(held))
    return chunks


def embedded_text(title: str, published: str, source_name: str, chunk: str) -> str:
    """What is embedded for a chunk: "title. date. source", then its text."""
    heads = (title[:PREFIX_TITLE], published[:10], source_name[:PREFIX_SOURCE])
    head = " ".join(f"{part.strip().rstrip('.')}." for part in heads if part.strip())
    return f"{head} {chunk}".strip() if head else chunk


def sentences(text: str) -> Iterator[Span]:
    """Spans of sentences, without the spaces around them."""
    start = 0
    for end in END.finditer(text):
        mark = text[start : end.end()].rstrip()
        if "\n" not in end[0] and ABBREVIATION.search(mark[-8:]):
            continue
        yield from _trimmed(text, start, end.end())
        start = end.end()
    yield from _trimmed(text, start, len(text))


def _trimmed(text: str, start: int, end: int) -> Iterator[Span]:
    part = text[start:end]
    inner = part.strip()
    if inner:
        begin = start + len(part) - len(part.lstrip())
        yield begin, begin + len(inner)


def _pieces(text: str, spans: Sequence[Span], limit: int) -> Iterator[tuple[Span, int]]:
    """Sentences with their number of tokens, those beyond `limit` cut between tokens."""
    position = 0
    for start, end in sentences(text):
        while position < len(spans) and spans[position][1] <= start:
            position += 1
        first = position
        while position < len(spans) and spans[position][0] < end:
            position += 1
        inside = spans[first:position]
        if len(inside) <= limit:
            yield (start, end), len(inside)
            continue
        at, begin = 0, start
        while at < len(inside):
            after = _cut_before(text, inside, at, limit)
            stop = inside[after][0] if after < len(inside) else end
            yield from ((span, after - at) for span in _trimmed(text, begin, stop))
            at, begin = after, stop


def _cut_before(text: str, spans: Sequence[Span], at: int, limit: int) -> int:
    """The token to cut before, at most `limit` after `at`: where a word begins, if one does."""
    most = at + limit
    if most >= len(spans):
        return len(spans)
    for place in range(most, at, -1):
        start = spans[place][0]
        if start and not (text[start - 1].isalnum() and text[start].isalnum()):
            return place
    return most


def _around(held: Sequence[tuple[Span, int]]) -> Chunk:
    return Chunk(held[0][0][0], held[-1][0][1])
