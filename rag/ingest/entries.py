"""What is left of an entry or a file once it has been read: plain text and a few facts."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One entry of a feed, or one text of a file.

    Attributes:
        key: what tells it from the others of its source: guid, canonical link, row; "" for none.
        title: one line.
        text: paragraphs apart by an empty line; never empty.
        link: http or https, or "".
        published: ISO 8601 with an offset, or "" where no date could be read.
        language: two letters, or "".
        licence: as the source says it.
        sha256: of the normalised title and text.
        sketch: MinHash of the words, base64; "" for texts too short to compare.
    """

    key: str
    title: str
    text: str
    link: str
    published: str
    language: str
    licence: str
    sha256: str
    sketch: str


class FeedContent(NamedTuple):
    """One feed, read.

    Attributes:
        title: what the feed calls itself.
        entries: in the feed's order.
        warning: what was wrong with the bytes though entries came out; "" for nothing.
        ttl_s: how long the feed asks to be left alone, seconds; 0: it does not say.
    """

    title: str
    entries: tuple[Entry, ...]
    warning: str
    ttl_s: float
