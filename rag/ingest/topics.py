"""Which of the volunteer's topics a text is about: whole words, accents and case folded."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

_NOT_A_WORD = re.compile(r"[\W_]+")


def fold(text: str) -> str:
    """Lower case, without accents, words apart by one space and at both ends."""
    flat = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join([mark for mark in flat if not unicodedata.combining(mark)])
    return f" {_NOT_A_WORD.sub(' ', bare).strip()} "


def matching(topics: Sequence[str], text: str) -> tuple[str, ...]:
    """Those of `topics` whose words stand in `text` in this order, in the order given."""
    if not topics:
        return ()
    folded = fold(text)
    return tuple(topic for topic in topics if fold(topic).strip() and fold(topic) in folded)


def parse_topics(text: str) -> tuple[str, ...]:
    """Topics of "ia;inteligencia artificial"."""
    return unique(text.split(";"))


def unique(topics: Iterable[str]) -> tuple[str, ...]:
    """Each topic once, empty ones left out."""
    return tuple(dict.fromkeys(topic.strip() for topic in topics if topic.strip()))
