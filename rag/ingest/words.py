"""The words of a text's beginning: what its language and its sketch are made of."""

from __future__ import annotations

import re

LOOKED_AT = 4000  # characters: who copies a text copies its beginning
_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Words, lower case, in their order; numbers are words too."""
    return _WORD.findall(text[:LOOKED_AT].lower())
