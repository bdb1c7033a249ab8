"""The words of a text's beginning: what its language and its sketch are made of."""

from __future__ import annotations

import re

LOOKED_AT = 4000  # characters: who copies a text copies its beginning
_WORD = re.compile(r"\w+")
_ASCII = "".join(map(chr, range(128)))
_SPACED = {ord(each): each.lower() if _WORD.match(each) else " " for each in _ASCII}


def words_of(text: str) -> list[str]:
    """Words, lower case, in their order; numbers are words too."""
    start = text[:LOOKED_AT]
    if start.isascii():  # the same, three times as fast
        return start.translate(_SPACED).split()
    return _WORD.findall(start.lower())
